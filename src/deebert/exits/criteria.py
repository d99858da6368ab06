"""When to leave: the exit criteria of the field behind one interface, for a live model and for saved logits alike.

A criterion reads each head by itself (`read`), then decides layer by layer with what it remembers of the heads before
(`decide`). A live model calls `step` on the samples still in the batch and keeps the rows of the state that stay.
Offline, `exit_layers` calls the same `decide` on all samples at once. In both, who is still there after layer L-1
leaves at L.

Shapes: N samples, B of them still in the batch, L layers (heads 1..L, ramps 1..L-1), C classes.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deebert.base.errors import UserError
from deebert.exits.consistency import Weights, evidence, fit_consistency
from deebert.exits.grids import margin_grid, probability_grid
from deebert.exits.rule import entropy, first_exit

NO_ANSWER = -1


def top_probability(logits: Tensor) -> Tensor:
    """Probability of the likeliest class, between 1/C and 1, in float32; the last axis (..., C) is reduced."""
    return torch.log_softmax(logits.float(), dim=-1).amax(dim=-1).exp()


def lead(logits: Tensor) -> Tensor:
    """Probability of the likeliest class less that of the second, 0 to 1, in float32; the last axis (..., C) goes."""
    first, second = torch.log_softmax(logits.float(), dim=-1).topk(2, dim=-1).values.exp().unbind(dim=-1)
    return first - second


def is_number(value: Any) -> bool:
    """Whether it is one, a truth value being none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _within(value: Any, low: float, high: float) -> bool:
    """Whether it is a number from `low` to `high`."""
    return is_number(value) and low <= value <= high


def _plain(criterion: "Criterion", kind: type[float] | type[int], *names: str) -> None:
    """Make these fields numbers of Python, so that a criterion looks alike wherever its numbers came from."""
    for name in names:
        object.__setattr__(criterion, name, kind(getattr(criterion, name)))


def _is_count(value: Any) -> bool:
    """Whether it is a whole number, 1 or more."""
    return isinstance(value, Integral) and _within(value, 1, math.inf)


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
        """What the criterion sees of a head, whatever its setting: (..., C) -> (...). NaN gives what never leaves.

        A criterion that needs every class keeps the last axis: (..., C) -> (..., C).
        """

    @abstractmethod
    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """Who leaves after `layer` (1..L-1), (B,) bool, given its head's readings (B, ...); and the state from then on.

        The state has a row per sample, as `start` made it; there may be more columns after a layer than before.
        """

    def start(self, n: int, device: torch.device | None = None) -> Tensor:
        """State of `n` samples before layer 1: (n, k), a row per sample; k is 0 where there is nothing to remember."""
        return torch.empty(n, 0, device=device)

    def reads(self, layer: int) -> bool:
        """Whether the head after `layer` can matter; where not, a live model may leave out both the head and `step`."""
        return True

    def ramps_run(self, exit_layers: np.ndarray, num_layers: int) -> np.ndarray:
        """How many ramps the samples (N,) that leave at these layers were put to, (N,) int64."""
        reads = [False, *(self.reads(layer) for layer in range(1, num_layers)), False]
        return np.cumsum(reads)[exit_layers]

    def step(self, logits: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """`decide` on (B, C) logits of the head after `layer`. When samples leave, index the state as the batch."""
        return self.decide(self.read(logits), layer, state)

    def check_depth(self, num_layers: int) -> None:  # noqa: B027  (most settings suit any depth)
        """UserError where the setting is for models of another depth than L; a live model asks before it starts."""

    def exit_layers(self, logits: Tensor) -> Tensor:
        """Layer 1..L at which each sample leaves, (N,) int64, from (N, L, C) logits."""
        return self.exit_layers_of(self.read(logits))

    def exit_layers_of(self, readings: Tensor) -> Tensor:
        """The same from readings (N, L, ...), which a sweep over settings makes only once."""
        n, num_layers = readings.shape[:2]
        self.check_depth(num_layers)
        leaves = torch.zeros(n, num_layers, dtype=torch.bool, device=readings.device)
        state = self.start(n, readings.device)
        for layer in range(1, num_layers):
            leaves[:, layer - 1], state = self.decide(readings[:, layer - 1], layer, state)
        return first_exit(leaves)


@dataclass(frozen=True)
class Entropy(Criterion):
    """Leaves at the first ramp whose entropy is strictly below the threshold. Source: Xin et al., ACL 2020."""

    threshold_nats: float
    name: ClassVar[str] = "entropy"
    read = staticmethod(entropy)

    def __post_init__(self) -> None:
        if not _within(self.threshold_nats, 0, math.inf):
            raise UserError(f"{self.name}: threshold is {self.threshold_nats!r}; allowed: nats, 0 or more")
        _plain(self, float, "threshold_nats")

    @property
    def setting(self) -> float:
        return self.threshold_nats

    def reads(self, layer: int) -> bool:
        return self.threshold_nats > 0

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings < self.threshold_nats, state


@dataclass(frozen=True)
class _Confidence(Criterion):
    """Leaves at the first ramp that reads more than the threshold; no ramp reads more than 1."""

    threshold: float

    @property
    def setting(self) -> float:
        return self.threshold

    def reads(self, layer: int) -> bool:
        return self.threshold < 1

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings > self.threshold, state


@dataclass(frozen=True)
class MaxProbability(_Confidence):
    """Leaves at the first ramp whose top probability is above the threshold.

    With two classes this orders samples as entropy does, so both draw one curve; with more they differ.
    Source: Schwartz et al., "The Right Tool for the Job", ACL 2020 (who calibrate first).
    """

    name: ClassVar[str] = "max_probability"
    read = staticmethod(top_probability)

    def __post_init__(self) -> None:
        if not _within(self.threshold, 0, 1):
            raise UserError(f"{self.name}: threshold is {self.threshold!r}; allowed: a probability, 0 to 1")
        _plain(self, float, "threshold")

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, num_settings: int) -> list["MaxProbability"]:
        """From nobody leaving early to everybody at layer 1."""
        return [cls(threshold) for threshold in probability_grid(num_labels, num_settings)]


@dataclass(frozen=True)
class Margin(_Confidence):
    """Leaves at the first ramp whose top two probabilities differ by more than the threshold.

    With many classes entropy and top probability also say how the rest of the probability is spread, which does not
    matter to the answer. The margin says only whether the second class could have won. Below 0 everybody leaves.
    Source: Schuster et al., "Confident Adaptive Language Modeling" (CALM), NeurIPS 2022, where it is the "softmax
    response", https://arxiv.org/abs/2207.07061.
    """

    name: ClassVar[str] = "margin"
    read = staticmethod(lead)

    def __post_init__(self) -> None:
        if not _within(self.threshold, -1, 1):
            raise UserError(
                f"{self.name}: threshold is {self.threshold!r}; allowed: a difference of probabilities, -1 to 1"
            )
        _plain(self, float, "threshold")

    @classmethod
    def grid(cls, num_layers: int, num_labels: int, num_settings: int) -> list["Margin"]:
        """From nobody leaving early to everybody at layer 1; empty for two classes.

        There the margin is 2p - 1, p being the top probability: the curve of `MaxProbability` once more.
        """
        return [cls(threshold) for threshold in margin_grid(num_labels, num_settings)] if num_labels > 2 else []


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
        if not _is_count(self.patience):
            raise UserError(f"{self.name}: patience is {self.patience!r}; allowed: a whole number, 1 or more")
        _plain(self, int, "patience")

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
    def grid(cls, num_layers: int, num_labels: int, num_settings: int) -> list["Patience"]:
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
        if not _is_count(self.length):
            raise UserError(f"confident_streak: length is {self.length!r}; allowed: a whole number, 1 or more")
        if not _within(self.threshold, 0, 1):
            raise UserError(f"confident_streak: threshold is {self.threshold!r}; allowed: a probability, 0 to 1")
        _plain(self, int, "length")
        _plain(self, float, "threshold")

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
    def grid(cls, length: int, num_layers: int, num_labels: int, num_settings: int) -> list["ConfidentStreak"]:
        """From nobody leaving early to everybody at layer `length`; empty if there are fewer ramps than that."""
        if length >= num_layers:
            return []
        return [cls(length, threshold) for threshold in probability_grid(num_labels, num_settings)]


@dataclass(frozen=True)
class LayerThresholds(Criterion):
    """Leaves at the first ramp whose entropy is strictly below that ramp's own threshold.

    Attributes:
        thresholds_nats: of ramps 1..L-1.
        drop_points: the drop of score (of 100) for which they were fitted; see `layer_thresholds`.
    """

    thresholds_nats: tuple[float, ...]
    drop_points: float
    name: ClassVar[str] = "layer_thresholds"
    read = staticmethod(entropy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds_nats", tuple(self.thresholds_nats))
        if not all(_within(threshold, 0, math.inf) for threshold in self.thresholds_nats):
            raise UserError(f"{self.name}: thresholds are {self.thresholds_nats}; allowed: nats, 0 or more")
        object.__setattr__(self, "thresholds_nats", tuple(map(float, self.thresholds_nats)))

    @property
    def setting(self) -> float:
        return self.drop_points

    def check_depth(self, num_layers: int) -> None:
        _check_one_per_ramp(f"{self.name}: thresholds", len(self.thresholds_nats), num_layers)

    def reads(self, layer: int) -> bool:
        return self.thresholds_nats[layer - 1] > 0

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        return readings < self.thresholds_nats[layer - 1], state


@dataclass(frozen=True)
class Consistency(Criterion):
    """Leaves at the first ramp where full depth answers otherwise with a chance strictly below the threshold.

    The chance is a logistic regression: the sigmoid of w0 + w1 u + w2 v. Here u is the log-odds of the ramp's answer,
    and v the log-odds that the ramp before gave to this same answer, 0 at the first ramp. Both lie within -30 to 30.
    Source: the meta consistency classifier of CATs, Schuster et al., "Consistent Accelerated Inference via Confident
    Adaptive Transformers", EMNLP 2021, https://arxiv.org/abs/2104.08803.

    Attributes:
        weights: (w0, w1, w2) of each of the ramps 1..L-1; see `fitted`.
        threshold: a probability; at 0 nobody leaves, at 1 everybody at layer 1.
    """

    weights: Weights
    threshold: float
    name: ClassVar[str] = "consistency"

    def __post_init__(self) -> None:
        if not _within(self.threshold, 0, 1):
            raise UserError(f"{self.name}: threshold is {self.threshold!r}; allowed: a probability, 0 to 1")
        for ramp, weights in enumerate(self.weights, start=1):
            if np.shape(weights) != (3,) or not np.isfinite(weights).all():
                raise UserError(f"{self.name}: weights of ramp {ramp} are {weights}; allowed: three finite numbers")
        object.__setattr__(self, "weights", tuple(tuple(map(float, weights)) for weights in self.weights))
        _plain(self, float, "threshold")

    @classmethod
    def fitted(cls, logits: np.ndarray, threshold: float) -> "Consistency":
        """With weights fitted to (N, L, C) logits of samples that the model was not trained on; no labels are needed.

        Raises:
            UserError: the threshold is no probability, or a ramp has no sample to be fitted on.
        """
        return cls(fit_consistency(logits), threshold)

    @property
    def setting(self) -> float:
        return self.threshold

    def check_depth(self, num_layers: int) -> None:
        _check_one_per_ramp(f"{self.name}: weights", len(self.weights), num_layers)

    @staticmethod
    def read(logits: Tensor) -> Tensor:
        return logits.float()  # all of it, since the next ramp says which class it asks about

    def reads(self, layer: int) -> bool:
        return self.threshold > 0

    def decide(self, readings: Tensor, layer: int, state: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Criterion`; the state is the logits (B, C) of the ramp before."""
        sure, seconded = evidence(readings, state)
        intercept, of_sure, of_seconded = self.weights[layer - 1]
        # Log-odds are compared, and not chances: these round to 1, and then would not be below a threshold of 1.
        return intercept + of_sure * sure + of_seconded * seconded < self._limit, readings

    @property
    def _limit(self) -> float:
        if self.threshold in (0, 1):
            return math.inf if self.threshold else -math.inf
        return math.log(self.threshold) - math.log1p(-self.threshold)


def _check_one_per_ramp(what: str, count: int, num_layers: int) -> None:
    if count != num_layers - 1:
        raise UserError(
            f"{what} of {count} ramps for a model of {num_layers} layers; allowed: of each ramp, {num_layers - 1}"
        )
