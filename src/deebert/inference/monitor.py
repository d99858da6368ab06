"""A watch over a deployed classifier: does it still answer as its full depth would?

A share of the samples also runs to full depth. That needs no labels. Where the two answers differ, the sample is a
disagreement, and a sequential test (`betting.py`) asks whether they are more frequent than allowed.
"""

import dataclasses
import math
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deebert.base.errors import UserError, one_line
from deebert.base.files import read_json, write_json
from deebert.exits.criteria import Criterion
from deebert.inference.arguments import check_many, code_of, criterion_of, is_number, shortened, shown
from deebert.inference.betting import BettingTest
from deebert.inference.classifier import EarlyExitClassifier, Predictions, Text
from deebert.inference.folder import home_expanded


@dataclass
class _State:
    """All that `Monitor.save` writes; `weights` are the test's, `fingerprint` the model's."""

    fingerprint: str
    rule: str | None
    epsilon: float
    delta: float
    share: float
    seed: int
    samples: int
    exits: list[int]
    audits: int
    disagreements: int
    audit_layers: int
    alarm_after: int | None
    log_wealth: float
    weights: list[float]


SETTINGS = ("epsilon", "delta", "share", "seed")
SO_FAR = ("samples", "audits", "disagreements", "audit_layers", "alarm_after", "rule")


class Monitor:
    """Answers as `classifier` does, and raises an alarm once answers differ from full depth's too often.

    While each audited sample differs with a probability of at most `epsilon`, whatever came before, the alarm is ever
    raised with a probability of at most `delta`. It may be looked at as often as one likes. Once raised it stays, and
    the test is over.

    It watches one threshold in one precision, for epsilon was certified for these: the first that it is given.

    Threads can share a monitor. Each process needs one of its own.

    Args:
        classifier: whose answers are watched.
        epsilon: the share of changed answers that is allowed, above 0 and below 1, such as the certified one.
        delta: how probable a false alarm may be, above 0 and below 1.
        share: of the samples, how many are audited; above 0, and 1 = all.
        seed: of the choice of samples, 0 or more. It depends on a sample's number in the stream and on nothing else.

    Attributes:
        classifier, epsilon, delta, share, seed: as above.
        samples: answered so far.
        exits: (L,) int64, how many of them left after each layer.
        audits: how many of them were audited.
        disagreements: audits in which full depth's answer was another one.
        audit_layers: layers that were run for audits, beyond those of the answers. A sample that has left early is run
            anew through all L layers; one that has not needs nothing more.
        alarm_after: the audit, from 1, that raised the alarm; None = no alarm.
        rule: the criterion and the precision of all answers so far; None = there were none.

    Raises:
        ValueError: an argument is not as above.
    """

    def __init__(
        self, classifier: EarlyExitClassifier, epsilon: float, delta: float = 0.05, share: float = 0.01, seed: int = 0
    ) -> None:
        self.classifier = classifier
        self.epsilon = _part("epsilon", epsilon)
        self.delta = _part("delta", delta)
        self.share = _part("share", share, whole=True)
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed: {shown(seed)} is not allowed; expected a whole number, 0 or more")
        self.seed = int(seed)
        self.samples = 0
        self.exits = np.zeros(classifier.num_layers, np.int64)
        self.audits = 0
        self.disagreements = 0
        self.audit_layers = 0
        self.alarm_after: int | None = None
        self.rule: str | None = None
        self._test = BettingTest(self.epsilon)
        self._lock = threading.Lock()

    @property
    def alarm(self) -> bool:
        """Whether it was raised."""
        return self.alarm_after is not None

    @property
    def wealth(self) -> float:
        """The evidence against "at most epsilon": 1 at the start; the alarm is raised at 1 / delta."""
        return math.exp(self._test.log_wealth)

    def __str__(self) -> str:
        alarm = f"alarm after audit {self.alarm_after}" if self.alarm else "no alarm"
        counts = f"{self.samples} samples, {self.audits} audits, {self.disagreements} disagreements"
        return f"{counts}, wealth {self.wealth:.3g} of {1 / self.delta:g}: {alarm}"

    def predict(
        self,
        texts: Iterable[Text],
        threshold: float | Sequence[float] | Criterion = 0.1,
        batch_size: int = 1024,
    ) -> Predictions:
        """Answer as `EarlyExitClassifier.predict` does, and audit the share of them.

        After an exception nothing of these texts is counted.

        Raises:
            ValueError: the threshold, or the classifier's precision, is not that of earlier answers.
            TypeError, ValueError: as of `EarlyExitClassifier.predict`.
        """
        check_many(texts)
        self.rule_of(threshold)
        texts = list(texts)
        answers = self.classifier.predict(texts, threshold, batch_size)
        self.audit(texts, answers.labels, answers.exit_layers, threshold, batch_size)
        return answers

    def rule_of(self, threshold: float | Sequence[float] | Criterion) -> str:
        """What lets samples leave; ValueError where it is not what was watched so far."""
        rule = f"{code_of(criterion_of(threshold, self.classifier.num_layers))} in {self.classifier.precision}"
        if self.rule not in (None, rule):
            told, expected = map(shortened, (rule, self.rule))
            raise ValueError(f"threshold: {told}; expected {expected}, which this watch began with, or a new watch")
        return rule

    def audit(
        self,
        texts: Sequence[Text],
        labels: Sequence[str],
        exit_layers: np.ndarray,
        threshold: float | Sequence[float] | Criterion,
        batch_size: int = 1024,
    ) -> None:
        """Count answers that `classifier` has given to N texts, and audit the share of them.

        Args:
            labels: N names of classes.
            exit_layers: (N,) int, 1..L.
            threshold: that they were given at.

        Raises:
            ValueError: it is not that of earlier answers; or labels or layers are not N, or none of the model's.
        """
        exit_layers = np.asarray(exit_layers)
        given = len(texts), len(labels), len(exit_layers)
        if len({*given}) > 1:
            raise ValueError("texts, labels, exit_layers: {}, {} and {}; expected as many of each".format(*given))
        depth = self.classifier.num_layers
        if len(texts) and not (exit_layers.dtype.kind in "iu" and 1 <= exit_layers.min() <= exit_layers.max() <= depth):
            raise ValueError(
                f"exit_layers: {exit_layers!r:.80} is not allowed; expected whole numbers from 1 to {depth}"
            )
        exit_layers = exit_layers.astype(np.int64)
        with self._lock:
            rule = self.rule_of(threshold)
            audited = self._chosen(len(texts))
            early = audited[exit_layers[audited] < self.classifier.num_layers]
            full = self.classifier.predict([texts[i] for i in early], 0.0, batch_size)
            differs = {i: labels[i] != label for i, label in zip(early, full.labels, strict=True)}
            self._count(exit_layers, [differs.get(i, False) for i in audited], len(early))
            self.rule = rule

    def _chosen(self, count: int) -> np.ndarray:
        """Which of the next `count` samples are audited, numbered from 0; each has a draw of its own."""
        draws = np.random.PCG64(self.seed).advance(self.samples).random_raw(count)
        return np.flatnonzero((draws >> np.uint64(11)) * 2.0**-53 < self.share)

    def _count(self, exit_layers: np.ndarray, differs: list[bool], run_anew: int) -> None:
        self.samples += len(exit_layers)
        self.exits += np.bincount(exit_layers - 1, minlength=len(self.exits))
        self.audit_layers += run_anew * len(self.exits)
        for differ in differs:
            self.audits += 1
            self.disagreements += differ
            if not self.alarm:
                self._test.update(differ)
                if self._test.log_wealth >= -math.log(self.delta):
                    self.alarm_after = self.audits

    def save(self, path: str | Path) -> None:
        """Write the state as JSON, whole or not at all, for `load`. Of several threads the last to call wins.

        Raises:
            UserError: it cannot be written.
        """
        with self._lock:
            state = _State(
                fingerprint=self.classifier.fingerprint,
                exits=self.exits.tolist(),
                log_wealth=float(self._test.log_wealth),
                weights=self._test.weights.tolist(),
                **{name: getattr(self, name) for name in (*SETTINGS, *SO_FAR)},
            )
            write_json(home_expanded(path), dataclasses.asdict(state))  # within the lock: never an older state later

    @classmethod
    def load(cls, path: str | Path, classifier: EarlyExitClassifier) -> "Monitor":
        """Go on where `save` has written the state.

        Args:
            classifier: the same model as was watched.

        Raises:
            UserError: the file is missing, damaged, or of another model.
        """
        path = home_expanded(path)
        if not path.exists():
            raise UserError(f"{path}: no such file; Monitor.save writes it")
        try:
            content = read_json(path)
            if not isinstance(content, dict) or set(content) != {field.name for field in dataclasses.fields(_State)}:
                raise ValueError("it is no state of a monitor")
            state = _State(**content)
            monitor = cls(classifier, **{name: getattr(state, name) for name in SETTINGS})
            sound = monitor._could_be(state)
        except (TypeError, ValueError) as error:
            raise UserError(f"{path}: damaged: {one_line(error)}; Monitor.save writes it") from None
        if not sound:
            raise UserError(f"{path}: damaged: its numbers do not fit each other; Monitor.save writes it")
        if state.fingerprint != classifier.fingerprint:
            found, expected = state.fingerprint, classifier.fingerprint
            raise UserError(f"{path}: of another model: weights {found}; expected {expected}")
        for name in SO_FAR:
            setattr(monitor, name, getattr(state, name))
        monitor.exits = np.array(state.exits, np.int64)
        monitor._test.log_wealth = state.log_wealth
        monitor._test.weights = np.array(state.weights)
        monitor._test.rounds = state.alarm_after or state.audits  # after an alarm there is no bet
        return monitor

    def _could_be(self, state: _State) -> bool:
        """Whether a monitor with these settings can come to this state."""
        ends = [] if state.alarm_after is None else [state.alarm_after]
        counts = [state.samples, state.audits, state.disagreements, state.audit_layers, *state.exits, *ends]
        weights = np.array(state.weights, float)
        return (
            all(type(value) is int and value >= 0 for value in counts)
            and state.disagreements <= state.audits <= state.samples == sum(state.exits)
            and all(0 < end <= state.audits for end in ends)
            and len(state.exits) == len(self.exits)
            and weights.shape == self._test.weights.shape
            and bool((weights > 0).all())
            and math.isclose(weights.sum(), 1)
            and (state.rule is None or isinstance(state.rule, str))
            and is_number(state.log_wealth)
            and math.isfinite(state.log_wealth)
        )


def _part(name: str, value: Any, whole: bool = False) -> float:
    """`value` as a share above 0 and below 1, or at most 1; else a ValueError."""
    if not is_number(value) or not 0 < value <= 1 or (value == 1 and not whole):
        expected = "at most 1" if whole else "below 1"
        raise ValueError(f"{name}: {shown(value)} is not allowed; expected a number above 0 and {expected}")
    return float(value)
