"""The watch raises few false alarms, notices drift, and answers as the classifier does; its state can be kept."""

import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deebert.base.errors import UserError
from deebert.exits.criteria import Consistency, Entropy
from deebert.inference import arguments
from deebert.inference.betting import BettingTest
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.monitor import Monitor
from tests.inference.test_classifier import LAYERS, check_same, sentences, write_classifier

EPSILON, DELTA = 0.05, 0.1
THRESHOLD = 0.6
TEXTS = sentences(60)
Change = dict[str, Any]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> EarlyExitClassifier:
    return EarlyExitClassifier.from_pretrained(write_classifier(tmp_path_factory.mktemp("watched")))


def audits_to_alarm(rates: np.ndarray, streams: int, seed: int = 0) -> np.ndarray:
    """Audits (streams,) until the alarm, infinity for none; in audit t each stream disagrees at `rates[t]`."""
    rng = np.random.default_rng(seed)
    test = BettingTest(EPSILON)
    needed = np.full(streams, np.inf)
    for audit, rate in enumerate(rates, start=1):
        test.update(rng.random(streams) < rate)
        needed[(test.log_wealth >= -math.log(DELTA)) & np.isinf(needed)] = audit
    return needed


def test_false_alarms_are_rare() -> None:
    """Of 1,000 streams that disagree at exactly epsilon, at most delta raise one, three standard deviations added."""
    alarms = np.isfinite(audits_to_alarm(np.full(3000, EPSILON), 1000))
    assert 0 < alarms.mean() <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / 1000)


def test_rates_that_change_below_epsilon_raise_few_alarms_too() -> None:
    """The rate may go up and down, as long as it stays at or below epsilon."""
    rates = np.where(np.arange(3000) // 100 % 2, EPSILON, 0.2 * EPSILON)
    assert np.isfinite(audits_to_alarm(rates, 300)).mean() <= DELTA


@pytest.mark.parametrize("share", (0.0, 0.3, 1.0))
def test_no_bet_gains_at_epsilon(share: float) -> None:
    """After any past, the wealth's mean over the next observation at a rate of epsilon is what it is now."""
    rng = np.random.default_rng(0)
    test = BettingTest(EPSILON)
    test.update(rng.random(50) < share)
    for _ in range(20):
        test.update(rng.random(50) < share)
    before, weights, rounds = test.log_wealth, test.weights, test.rounds
    means = np.zeros(50)
    for observed, chance in ((True, EPSILON), (False, 1 - EPSILON)):
        test.log_wealth, test.weights, test.rounds = before, weights, rounds
        test.update(np.full(50, observed))
        means += chance * np.exp(test.log_wealth - before)
    np.testing.assert_allclose(means, 1, rtol=1e-12)


@pytest.mark.parametrize(("calm", "median"), ((0, 170), (1000, 450)))
def test_twice_epsilon_is_noticed(calm: int, median: int) -> None:
    """Half of the streams need at most so many audits at 2 epsilon, after as many calm ones at a third of epsilon."""
    rates = np.concatenate([np.full(calm, EPSILON / 3), np.full(1000, 2 * EPSILON)])
    assert calm < np.median(audits_to_alarm(rates, 200)) <= calm + median


def test_answers_are_the_classifiers(classifier: EarlyExitClassifier) -> None:
    """Any iterable gets the same answers, and every sample is counted at the layer where it left."""
    monitor = Monitor(classifier, EPSILON, share=0.5)
    answers = classifier.predict(TEXTS, THRESHOLD)
    check_same(monitor.predict(iter(TEXTS), THRESHOLD), answers)
    assert monitor.samples == len(TEXTS)
    assert monitor.exits.tolist() == np.bincount(answers.exit_layers, minlength=LAYERS + 1)[1:].tolist()
    assert len(monitor.predict([], THRESHOLD).labels) == 0
    assert monitor.samples == len(TEXTS)


def test_disagreements_are_answers_other_than_full_depths(classifier: EarlyExitClassifier) -> None:
    """If all are audited, each early answer is compared, and those that left early are what an audit costs."""
    monitor = Monitor(classifier, EPSILON, share=1)
    early, full = monitor.predict(TEXTS, THRESHOLD), classifier.predict(TEXTS, 0.0)
    differ = np.array(early.labels) != np.array(full.labels)
    assert (monitor.audits, monitor.disagreements) == (len(TEXTS), differ.sum())
    assert monitor.audit_layers == LAYERS * (early.exit_layers < LAYERS).sum()
    assert monitor.alarm and monitor.wealth >= 1 / monitor.delta
    assert 0 < differ[: monitor.alarm_after].sum() <= differ.sum()
    assert f"alarm after audit {monitor.alarm_after}" in str(monitor)


def test_full_depth_never_raises_an_alarm(classifier: EarlyExitClassifier) -> None:
    """Nobody leaves early, so no audit costs anything, and all agree."""
    monitor = Monitor(classifier, EPSILON, share=1)
    monitor.predict(TEXTS, 0.0)
    assert (monitor.audits, monitor.disagreements, monitor.audit_layers, monitor.alarm) == (len(TEXTS), 0, 0, False)


def state_of(monitor: Monitor, folder: Path) -> dict[str, Any]:
    monitor.save(folder / "state.json")
    return json.loads((folder / "state.json").read_text())


def test_batches_do_not_matter(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """One call or many, in batches of any size: the same samples are audited, about the share that was asked for."""
    whole, parts = (Monitor(classifier, 0.4, share=0.3, seed=5) for _ in range(2))
    whole.predict(TEXTS, THRESHOLD)
    for start in range(0, len(TEXTS), 7):
        parts.predict(TEXTS[start : start + 7], THRESHOLD, batch_size=3)
    assert state_of(parts, tmp_path) == state_of(whole, tmp_path)
    assert 0.1 < whole.audits / len(TEXTS) < 0.5


def test_the_seed_chooses(classifier: EarlyExitClassifier) -> None:
    """The share holds over many samples, and other seeds audit others."""
    chosen = [Monitor(classifier, EPSILON, share=0.01, seed=seed)._chosen(100_000) for seed in (0, 1)]
    assert all(900 < len(each) < 1100 for each in chosen)
    assert len(set(chosen[0]) & set(chosen[1])) < 50


def test_a_saved_monitor_goes_on(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """Saved and loaded between two calls, before or after the alarm, it ends in the same state as undisturbed."""
    undisturbed = Monitor(classifier, EPSILON, share=0.5, seed=3)
    for cut in (2, 20, 40):
        undisturbed.predict(TEXTS[:cut], THRESHOLD)
        undisturbed.save(tmp_path / "watch.json")
        again = Monitor.load(tmp_path / "watch.json", classifier)
        assert state_of(again, tmp_path) == state_of(undisturbed, tmp_path)
        again.predict(TEXTS[cut:], THRESHOLD)
        undisturbed.predict(TEXTS[cut:], THRESHOLD)
        assert state_of(again, tmp_path) == state_of(undisturbed, tmp_path)
    assert undisturbed.alarm and undisturbed.audits > undisturbed.alarm_after


def test_an_error_counts_nothing(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """A text that is none is told as the classifier tells it, and the state is as before."""
    monitor = Monitor(classifier, EPSILON, share=1)
    before = state_of(monitor, tmp_path)
    with pytest.raises(TypeError, match="texts: number 1 is 7"):
        monitor.predict(["w1", 7], THRESHOLD)
    with pytest.raises(TypeError, match="a single string"):
        monitor.predict("w1", THRESHOLD)
    assert state_of(monitor, tmp_path) == before


@pytest.mark.parametrize(
    ("labels", "layers", "told"),
    [
        (["no"], np.array([0, 1]), "2, 1 and 2; expected as many of each"),
        (["no", "no"], np.array([1]), "2, 2 and 1; expected as many of each"),
        (["no", "no"], np.array([0, 1]), "expected whole numbers from 1 to 4"),
        (["no", "no"], [1, 5], "expected whole numbers from 1 to 4"),
        (["no", "no"], [1.0, 2.0], "expected whole numbers from 1 to 4"),
    ],
)
def test_answers_that_were_never_given(
    classifier: EarlyExitClassifier, tmp_path: Path, labels: list[str], layers: Any, told: str
) -> None:
    """They are refused, and the state is as before."""
    monitor = Monitor(classifier, EPSILON, share=1)
    before = state_of(monitor, tmp_path)
    with pytest.raises(ValueError, match=told):
        monitor.audit(["w1", "w2"], labels, layers, THRESHOLD)
    assert state_of(monitor, tmp_path) == before


def test_one_watch_is_of_one_threshold(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """Another threshold or precision is refused, and not counted: epsilon was certified for the first. So in a file."""
    monitor = Monitor(classifier, EPSILON, share=1)
    monitor.predict(TEXTS, THRESHOLD)
    before = state_of(monitor, tmp_path)
    rounded = EarlyExitClassifier.from_pretrained(classifier.folder, precision="bf16")
    for watch in (monitor, Monitor.load(tmp_path / "state.json", classifier)):
        with pytest.raises(ValueError, match=r"^threshold: Entropy.*0\.5.*; expected .*0\.6.*began with"):
            watch.predict(TEXTS, 0.5)
        assert state_of(watch, tmp_path) == before
        watch.predict([], Entropy(THRESHOLD))
    with pytest.raises(ValueError, match=r"in bf16; expected .* in fp32"):
        Monitor.load(tmp_path / "state.json", rounded).predict(TEXTS, THRESHOLD)


def test_a_long_rule_counts_to_its_end(
    classifier: EarlyExitClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A criterion of many numbers has its threshold last. A message shows the start, and all is compared."""
    monkeypatch.setattr(arguments, "MAX_SHOWN", 40)
    weights = ((-1.0, 1 / 3, 0.0),) * (LAYERS - 1)
    watched, other = (Consistency(weights, threshold) for threshold in (0.05, 0.9))
    monitor = Monitor(classifier, EPSILON, share=1)
    monitor.predict(TEXTS, watched)
    before = state_of(monitor, tmp_path)
    for watch in (monitor, Monitor.load(tmp_path / "state.json", classifier)):
        with pytest.raises(ValueError, match=r"^threshold: Consistency\(.{28}\.\.\.; expected .*began with"):
            watch.predict(TEXTS, other)
        assert state_of(watch, tmp_path) == before
        watch.predict([], Consistency(weights, 0.05))


def test_threads_save_whole_states(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """However many threads save, the file is whole at any moment, and at the end it has all counts."""
    monitor, path = Monitor(classifier, EPSILON), tmp_path / "watch.json"

    def answer_and_save(_: int) -> None:
        monitor.predict(TEXTS[:2], THRESHOLD)
        monitor.save(path)
        Monitor.load(path, classifier)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(answer_and_save, range(100)))
    assert Monitor.load(path, classifier).samples == 200 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("epsilon", "delta", "share") for value in (0, -0.1, 1.5, math.nan, "0.1", True, None)]
    + [("epsilon", 1), ("delta", 1.0), ("seed", -1), ("seed", 0.5), ("seed", True)],
)
def test_wrong_settings_are_told(classifier: EarlyExitClassifier, name: str, value: Any) -> None:
    """In one line that names the argument, its value and what is allowed."""
    with pytest.raises(ValueError, match=rf"^{name}: .* is not allowed; expected [^\n]*$"):
        Monitor(classifier, **{"epsilon": EPSILON, name: value})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fingerprint": "0" * 12}, "of another model"),
        ({"audits": 1000}, "do not fit"),
        ({"samples": -1}, "do not fit"),
        ({"exits": [len(TEXTS)]}, "do not fit"),
        ({"alarm_after": 999}, "do not fit"),
        ({"weights": [1.0]}, "do not fit"),
        ({"log_wealth": None}, "do not fit"),
        ({"rule": 3}, "do not fit"),
        (lambda state: {"disagreements": state["audits"] + 1}, "do not fit"),
        (lambda state: {"exits": [state["exits"][0] - 1, *state["exits"][1:]]}, "do not fit"),
        ({"alarm_after": 0}, "do not fit"),
        (lambda state: {"weights": [-1.0, 2.0, *[0.0] * (len(state["weights"]) - 2)]}, "do not fit"),
        (lambda state: {"weights": [2 * weight for weight in state["weights"]]}, "do not fit"),
        ({"log_wealth": math.inf}, "do not fit"),
        ({"epsilon": 2}, "epsilon: 2 is not allowed"),
        ({"delta": "x"}, "delta: 'x' is not allowed"),
        ({"exits": 3}, "damaged"),
        ({"more": 3}, "damaged"),
    ],
)
def test_a_file_that_is_no_state_is_told(
    classifier: EarlyExitClassifier, tmp_path: Path, change: Change | Callable[[dict[str, Any]], Change], told: str
) -> None:
    """In one line with the file's name, and so is one that is not there.

    Numbers of the right kind may not be together either: what went on from them would promise nothing.
    """
    monitor = Monitor(classifier, EPSILON, share=0.5)
    monitor.predict(TEXTS, THRESHOLD)
    path = tmp_path / "state.json"
    state = state_of(monitor, tmp_path)
    path.write_text(json.dumps(state | (change(state) if callable(change) else change)))
    with pytest.raises(UserError, match=rf"^{path}: [^\n]*{told}[^\n]*$"):
        Monitor.load(path, classifier)
    with pytest.raises(UserError, match=r"no such file; Monitor\.save writes it"):
        Monitor.load(tmp_path / "none.json", classifier)
    for content in ("[]", "{"):
        path.write_text(content)
        with pytest.raises(UserError, match=f"^{path}: "):
            Monitor.load(path, classifier)
