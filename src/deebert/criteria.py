"""When to leave: the exit criteria of the field behind one interface, for a live model and for saved logits alike.

A criterion reads each head by itself (`read`), then decides layer by layer with what it remembers of the heads before
(`decide`). A live model calls `step` on the samples still in the batch and keeps the rows of the state that stay; the
offline rule is the same `decide` on all samples at once. In either, who is still there after layer L-1 leaves at L.

Shapes: N samples, B of them still in the batch, L layers (heads 1..L, ramps 1..L-1), C classes.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from deebert.calibration import stratified_halves
from deebert.errors import UserError
from deebert.exits import answers, entropy, layers_saved_frac
from deebert.scores import METRICS
from deebert.sweep import Row, threshold_grid

GRID_POINTS = 200
NO_ANSWER = -1
STREAK_LENGTHS = (2, 3)
DROPS_POINTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
PRICES = tuple(float(price) for price in np.geomspace(0.002, 5.0, 40))  # score that saving every layer would be worth


def top_probability(logits: Tensor) -> Tensor:
    """Probability of the likeliest class, between 1/C and 1, in float32; the last axis (..., C) is reduced."""
    return torch.log_softmax(logits.float(), dim=-1).amax(dim=-1).exp()


class Criterion(ABC):
    """One criterion with its setting; frozen and without memory, since the caller holds the state.

    Attributes:
        name: what rows and figures call it.
        setting: the number that rows show in the column `threshold`.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def setting(self) -> float: ...

    @staticmethod
    @abstractmethod
    def read(logits: Tensor) -> Tensor:
        """What the criterion sees of a head, whatever its setting: (..., C) -> (...). NaN gives what never leaves."""

    @abstractmethod
    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Who leaves after `layer` (1..L-1), (B,) bool, given (B,) readings of its head; and the state from then on."""

    def start(self, n: int, device: torch.device | None = None) -> Tensor:
        """State of `n` samples before layer 1: (n, k), a row per sample; k is 0 where there is nothing to remember."""
        return torch.empty(n, 0, device=device)

    def reads(self, layer: int) -> bool:
        """Whether the head after `layer` can matter; where not, a live model may leave out both the head and `step`."""
        return True

    def step(self, logits: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """`decide` on (B, C) logits of the head after `layer`. When samples leave, index the state as the batch."""
        return self.decide(self.read(logits), layer, state)

    def exit_layers(self, logits: Tensor) -> Tensor:
        """Layer 1..L at which each sample leaves, (N,) int64, from (N, L, C) logits."""
        return self.exit_layers_of(self.read(logits))

    def exit_layers_of(self, readings: Tensor) -> Tensor:
        """The same from (N, L) readings, which a sweep over settings makes only once."""
        n, num_layers = readings.shape
        layers = torch.full((n,), num_layers, device=readings.device)
        state = self.start(n, readings.device)
        for layer in range(1, num_layers):
            leaves, state = self.decide(readings[:, layer - 1], layer, state)
            layers[leaves & (layers == num_layers)] = layer
        return layers


@dataclass(frozen=True)
class Entropy(Criterion):
    """Leaves at the first ramp whose entropy is strictly below the threshold. Source: Xin et al., ACL 2020."""

    threshold_nats: float
    name: ClassVar[str] = "entropy"
    read = staticmethod(entropy)

    def __post_init__(self) -> None:
        if not self.threshold_nats >= 0:
            raise UserError(f"{self.name}: threshold is {self.threshold_nats}; allowed: nats, 0 or more")

    @property
    def setting(self) -> float:
        return self.threshold_nats

    def reads(self, layer: int) -> bool:
        return self.threshold_nats > 0

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings < self.threshold_nats, state

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, points: int = GRID_POINTS) -> list["Entropy"]:
        """From nobody leaving early to everybody at layer 1."""
        return [cls(threshold) for threshold in (0.0, *threshold_grid(num_labels, points))]


@dataclass(frozen=True)
class MaxProbability(Criterion):
    """Leaves at the first ramp whose top probability is above the threshold.

    With two classes this orders samples as entropy does, so both draw one curve; with more they differ.
    Source: Schwartz et al., "The Right Tool for the Job", ACL 2020 (who calibrate first).
    """

    threshold: float
    name: ClassVar[str] = "max_probability"
    read = staticmethod(top_probability)

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UserError(f"{self.name}: threshold is {self.threshold}; allowed: a probability, 0 to 1")

    @property
    def setting(self) -> float:
        return self.threshold

    def reads(self, layer: int) -> bool:
        return self.threshold < 1

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings > self.threshold, state

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, points: int = GRID_POINTS) -> list["MaxProbability"]:
        """From nobody leaving early to everybody at layer 1."""
        return [cls(threshold) for threshold in probability_grid(num_labels, points)]


@dataclass(frozen=True)
class Patience(Criterion):
    """Leaves once `patience` heads in a row have each given the answer of the head before them.

    The count is that of the paper (equation 7): 0 at layer 1, which has no predecessor, one more where the answer is
    that of the layer before, back to 0 where it is not; the sample leaves where the count reaches the patience. So the
    first possible exit is layer patience + 1, and from a patience of L-1 on nobody leaves early. A head with NaN
    gives no answer and agrees with none. Source: Zhou et al., "BERT Loses Patience" (PABEE), NeurIPS 2020.
    """

    patience: int
    name: ClassVar[str] = "patience"

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise UserError(f"{self.name}: patience is {self.patience}; allowed: 1 or more")

    @property
    def setting(self) -> float:
        return self.patience

    @staticmethod
    def read(logits: Tensor) -> Tensor:
        return logits.argmax(dim=-1).masked_fill(logits.isnan().any(dim=-1), NO_ANSWER)

    def start(self, n: int, device: torch.device | None = None) -> Tensor:
        return torch.tensor([NO_ANSWER, 0], device=device).repeat(n, 1)  # (n, 2): last answer, count

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        last, count = state.unbind(dim=1)
        count = torch.where((readings == last) & (readings != NO_ANSWER), count + 1, 0)
        return count >= self.patience, torch.stack([readings, count], dim=1)

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, points: int = GRID_POINTS) -> list["Patience"]:
        """Every patience that differs, from nobody leaving early to whoever agrees at once leaving at layer 2."""
        return [cls(patience) for patience in range(num_layers - 1, 0, -1)]


@dataclass(frozen=True)
class ConfidentStreak(Criterion):
    """Leaves once `length` ramps in a row have a top probability above the threshold, their answers alike or not.

    The first possible exit is layer `length`; a length of 1 is `MaxProbability`. Source: Zhang et al., "PCEE-BERT",
    Findings of NAACL 2022, who measure confidence by entropy.
    """

    length: int
    threshold: float
    read = staticmethod(top_probability)

    def __post_init__(self) -> None:
        if self.length < 1:
            raise UserError(f"confident_streak: length is {self.length}; allowed: 1 or more")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"confident_streak: threshold is {self.threshold}; allowed: a probability, 0 to 1")

    @property
    def name(self) -> str:
        return f"confident_streak_{self.length}"

    @property
    def setting(self) -> float:
        return self.threshold

    def start(self, n: int, device: torch.device | None = None) -> Tensor:
        return torch.zeros(n, 1, dtype=torch.int64, device=device)  # how many confident ramps in a row

    def reads(self, layer: int) -> bool:
        return self.threshold < 1

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        count = torch.where(readings > self.threshold, state[:, 0] + 1, 0)
        return count >= self.length, count[:, None]

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, points: int = GRID_POINTS) -> list["ConfidentStreak"]:
        """Length by length, as far as L-1 ramps allow: from nobody leaving early to everybody at layer `length`."""
        thresholds = probability_grid(num_labels, points)
        return [cls(length, threshold) for length in STREAK_LENGTHS if length < num_layers for threshold in thresholds]


@dataclass(frozen=True)
class LayerThresholds(Criterion):
    """Leaves at the first ramp whose entropy is strictly below that ramp's own threshold.

    Attributes:
        thresholds_nats: of ramps 1..L-1.
        drop_points: the drop of score (of 100) for which they were fitted; see `fit_layer_thresholds`.
    """

    thresholds_nats: tuple[float, ...]
    drop_points: float
    name: ClassVar[str] = "layer_thresholds"
    read = staticmethod(entropy)

    def __post_init__(self) -> None:
        if not all(threshold >= 0 for threshold in self.thresholds_nats):
            raise UserError(f"{self.name}: thresholds are {self.thresholds_nats}; allowed: nats, 0 or more")

    @property
    def setting(self) -> float:
        return self.drop_points

    def reads(self, layer: int) -> bool:
        return self.thresholds_nats[layer - 1] > 0

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings < self.thresholds_nats[layer - 1], state


def probability_grid(num_labels: int, points: int = GRID_POINTS) -> list[float]:
    """At most `points` top probabilities and 1, falling to just below 1/C; they do not depend on the data.

    The leads of the top logit are those of `sweep.threshold_grid`. Rounded down to 6 digits, since the surest samples
    differ in no fewer, and strictly below what they stand for. Above 1 is nobody, above the last everybody.
    """
    leads = np.linspace(12.0, 0.0, points)
    top = 1 / (1 + (num_labels - 1) * np.exp(-leads))
    return sorted({1.0, *((math.ceil(value * 1e6) - 1) / 1e6 for value in top.tolist())}, reverse=True)


@dataclass(frozen=True)
class ScoreSums:
    """A metric as hits / (base + claims), sums over samples, so that moving a few samples' exits is quick to score.

    Accuracy: hits are right answers, base is N. F1: hits are true positives twice, claims are answers of class 1, base
    is the number of positives.

    Attributes:
        hits, claims: (N, L) float64, what each sample would add when leaving at each layer.
    """

    hits: np.ndarray
    claims: np.ndarray
    base: float

    @classmethod
    def of(cls, logits: np.ndarray, labels: np.ndarray, metric: str) -> "ScoreSums":
        """Of (N, L, C) logits and (N,) labels; `metric` is a name of `scores.METRICS`."""
        predictions = logits.argmax(axis=2)  # (N, L)
        right = predictions == labels[:, None]
        if metric == "f1":
            claims = predictions == 1
            return cls(2.0 * (right & claims), claims.astype(np.float64), float(np.sum(labels == 1)))
        assert metric == "accuracy", metric
        return cls(right.astype(np.float64), np.zeros(right.shape), float(len(labels)))

    def score(self, hits: np.ndarray, claims: np.ndarray) -> np.ndarray:
        """Score of sums over the samples, elementwise; 0 where F1 has nothing to count."""
        below = np.asarray(self.base + claims, dtype=np.float64)
        return np.divide(hits, below, out=np.zeros_like(below), where=below > 0)


@dataclass(frozen=True)
class _Outcome:
    """What thresholds, given as (L-1,) positions `levels` in a rising list of K, lead to on the fitted samples."""

    leaves_from: np.ndarray  # (N, L-1), the lowest level at which each ramp lets the sample go; K: none
    adds: np.ndarray  # (N, L, 3), what leaving at a layer adds to the sums of hits, claims and layers
    sums: ScoreSums
    num_levels: int

    def value(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and saving of (..., 3) totals of hits, claims and layers."""
        n, num_layers, _ = self.adds.shape
        return self.sums.score(totals[..., 0], totals[..., 1]), 1 - totals[..., 2] / (n * num_layers)

    def of(self, levels: np.ndarray) -> tuple[float, float]:
        leaves = np.column_stack([self.leaves_from <= levels, np.ones(len(self.adds), dtype=bool)])
        score, saved = self.value(self.adds[np.arange(len(self.adds)), leaves.argmax(axis=1)].sum(axis=0))
        return float(score), float(saved)

    def ascend(self, start: tuple[int, ...], worth: Callable) -> dict[tuple[int, ...], tuple[float, float]]:
        """Raise `worth(score, saved)` one ramp at a time until none can: every state passed, the best one last.

        For a ramp, all its levels are tried at once: who is still there is counted by the level that lets it go.
        """
        n, num_layers, _ = self.adds.shape
        levels, moved = np.array(start), True
        passed = {start: self.of(levels)}
        while moved:
            moved = False
            staying = [self.adds[:, -1]]  # what each sample adds if it stays at ramp L-1, L-2, .. 1
            for i in range(num_layers - 2, 0, -1):
                goes = (self.leaves_from[:, i] <= levels[i])[:, None]
                staying.append(np.where(goes, self.adds[:, i], staying[-1]))
            here, left = np.arange(n), np.zeros(3)
            for i, stays in zip(range(num_layers - 1), reversed(staying), strict=False):
                change = self.adds[here, i] - stays[here]
                counted = [np.bincount(self.leaves_from[here, i], c, self.num_levels + 1)[:-1] for c in change.T]
                score, saved = self.value(left + stays[here].sum(axis=0) + np.cumsum(counted, axis=1).T)  # (K,)
                worths = worth(score, saved)
                best = int(worths.argmax())
                if worths[best] > worths[levels[i]] + 1e-12:
                    levels[i], moved = best, True
                    passed[tuple(levels.tolist())] = float(score[best]), float(saved[best])
                goes = self.leaves_from[here, i] <= levels[i]
                left = left + self.adds[here[goes], i].sum(axis=0)
                here = here[~goes]
        return passed


def fit_layer_thresholds(
    logits: np.ndarray,
    labels: np.ndarray,
    main_metric: str,
    thresholds: Iterable[float],
    drops_points: Sequence[float] = DROPS_POINTS,
) -> list[LayerThresholds]:
    """For each allowed drop of score, thresholds ramp by ramp that save as much as the search finds.

    Coordinate ascent over the given `thresholds` (nats), in two rounds. First on score + price x saving, for rising
    prices, each time from the better of the last price's answer and the best single threshold for all ramps. Then for
    each drop on the saving alone, with a floor under the score, from what saves most above that floor among all that
    was passed so far, every single threshold included. So on these samples it saves at least what the best single
    threshold of the list does; on others, where L-1 fitted numbers pay for their freedom, it need not. Deterministic.

    Args:
        logits: (N, L, C), with (N,) labels: the samples to fit.
        main_metric: name in `scores.METRICS`.
        drops_points: points of 100, against the score of full depth on these samples.
    """
    levels_nats = sorted({0.0, *thresholds})
    entropies = entropy(torch.from_numpy(logits))[:, :-1].contiguous()  # (N, L-1)
    # In float32, as the rule compares; right: a threshold equal to the entropy lets nobody go.
    leaves_from = torch.searchsorted(torch.tensor(levels_nats), entropies, right=True).numpy()
    sums = ScoreSums.of(logits, labels, main_metric)
    depth = np.broadcast_to(np.arange(1.0, logits.shape[1] + 1), sums.hits.shape)
    outcome = _Outcome(leaves_from, np.stack([sums.hits, sums.claims, depth], axis=2), sums, len(levels_nats))

    ramps = logits.shape[1] - 1
    singles = {(level,) * ramps: outcome.of(np.full(ramps, level)) for level in range(len(levels_nats))}
    passed = dict(singles)
    full_depth = last = (0,) * ramps

    def climb(starts: Iterable[tuple[int, ...]], worth: Callable) -> tuple[int, ...]:
        walk = outcome.ascend(max(starts, key=lambda levels: worth(*passed[levels])), worth)
        passed.update(walk)
        return list(walk)[-1]

    for price in PRICES:
        last = climb((last, *singles), lambda score, saved, price=price: score + price * saved)
    fitted = []
    for drop in drops_points:
        floor = passed[full_depth][0] - drop / 100 - 1e-9  # two equal scores may differ in their last bit
        best = climb(passed, lambda score, saved, floor=floor: np.where(score >= floor, saved, -1.0))
        fitted.append(LayerThresholds(tuple(levels_nats[level] for level in best), drop))
    return fitted


def curve_row(
    split: str, curve: tuple[str, float | None], logits: np.ndarray, labels: np.ndarray, layers: Tensor, metric: str
) -> Row:
    """One point of a `curve` (criterion, setting): what leaving at `layers` (N,) keeps of the score and saves."""
    predictions = answers(torch.from_numpy(logits), layers).numpy()
    criterion, setting = curve
    return {
        "split": split,
        "criterion": criterion,
        "threshold": setting,
        "score": METRICS[metric](labels, predictions),
        "accuracy": METRICS["accuracy"](labels, predictions),
        "layers_saved_frac": layers_saved_frac(layers, logits.shape[1]),
        "mean_exit_layer": layers.double().mean().item(),
        "n": len(labels),
    }


def criterion_rows(
    split: str, logits: np.ndarray, labels: np.ndarray, main_metric: str, points: int = GRID_POINTS
) -> list[Row]:
    """The trade-off curve of every criterion but entropy, whose rows `sweep.sweep_rows` makes; from (N, L, C) logits.

    `threshold` is the setting of each: a probability, the patience in layers, or for fitted thresholds the drop in
    points that their fit was allowed.
    """
    num_layers, num_labels = logits.shape[1:]
    rows = []
    for kind in (MaxProbability, Patience, ConfidentStreak):
        readings = kind.read(torch.from_numpy(logits))  # (N, L)
        for criterion in kind.grid(num_layers, num_labels, points):
            layers = criterion.exit_layers_of(readings)
            rows.append(curve_row(split, (criterion.name, criterion.setting), logits, labels, layers, main_metric))
    return rows + layer_threshold_rows(split, logits, labels, main_metric, points)


def layer_threshold_rows(
    split: str, logits: np.ndarray, labels: np.ndarray, main_metric: str, points: int = GRID_POINTS, seed: int = 0
) -> list[Row]:
    """Thresholds fitted ramp by ramp, one row per allowed drop; no sample meets thresholds that it helped to fit.

    The halves of the split are fitted apart, and each sample leaves by the thresholds of the other half. The curve may
    thus lie below entropy's and below the drop it was fitted for. None from fewer than two samples.
    """
    if len(labels) < 2:
        return []
    halves = stratified_halves(labels, seed)
    readings = LayerThresholds.read(torch.from_numpy(logits))
    grid = threshold_grid(logits.shape[2], points)
    fits = [fit_layer_thresholds(logits[half], labels[half], main_metric, grid) for half in halves]
    rows = []
    for pair in zip(*fits, strict=True):
        layers = torch.empty(len(labels), dtype=torch.int64)
        for fitted, other in zip(pair, reversed(halves), strict=True):
            layers[other] = fitted.exit_layers_of(readings[other])
        rows.append(curve_row(split, (pair[0].name, pair[0].setting), logits, labels, layers, main_metric))
    return rows
