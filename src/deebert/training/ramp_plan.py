"""What every kind of ramp is trained on: cached states, standardised, and the plan of a training."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deebert.base.devices import has_room
from deebert.base.rows import Row
from deebert.data.scores import METRICS
from deebert.ramps import Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training.states import States

STAGE = "train_ramps"
CHUNK = 4096  # samples


@dataclass(frozen=True)
class RampPlan:
    """A training of ramps: on what, how, and what is told of it on the way.

    Attributes:
        validation: scored by `metric` (a key of METRICS) on the way; nothing depends on the score.
        num_labels: C.
    """

    train: States
    validation: States
    metric: str
    num_labels: int
    settings: TrainRamps
    seed: int


class Standard:
    """States standardised per layer and feature, and ramps that undo it.

    A frozen layer's features differ in scale by orders of magnitude, and the small ones would otherwise hardly move in
    a few epochs, or pay more for their weights. The map is folded into a ramp's first linear map in the end, so that it
    costs nothing.
    """

    def __init__(self, states: States, device: torch.device) -> None:
        self.mean, self.scale = mean_and_scale(states)
        self.device = device
        arrays = (self.mean, 1.0 / self.scale)
        self._shift, self._factor = (torch.from_numpy(a).float().to(device)[:, None] for a in arrays)  # (L-1, 1, H)

    def read(self, states: States, rows: np.ndarray) -> Tensor:
        """Standardised states (L-1, B, H) of the chosen rows; so scaled, bf16 can tell them apart."""
        batch = torch.from_numpy(states.read(rows)).to(self.device)  # (B, L-1, H)
        return (batch.transpose(0, 1) - self._shift) * self._factor

    def passes(self, states: States, size: int) -> Callable[[], Iterable[Tensor]]:
        """What gives the standardised states (L-1, B, H) of all samples, `size` at a time, as often as it is called.

        They are read and standardised each time, since they may be larger than the memory. A GPU that has room keeps
        them.
        """
        rows = chunks(len(states), size)
        if not has_room(self.device, 2 * states.states.nbytes):
            return lambda: (self.read(states, each) for each in rows)
        kept = [self.read(states, each) for each in rows]
        return lambda: kept

    def fold(self, ramps: Ramps) -> Ramps:
        """The ramps that give on raw states x what `ramps` gives on (x - mean) / scale; computed in float64."""
        weight, bias = ramps.first_map()
        folded = weight.detach().double() / torch.from_numpy(self.scale)[:, None]  # (L-1, out, H)
        moved = (folded @ torch.from_numpy(self.mean)[:, :, None])[..., 0]
        bias.data = (bias.detach().double() - moved).float()
        weight.data = folded.float()
        return ramps.eval()

    def scores(self, ramps: Ramps, split: States, metric: str) -> list[float]:
        """The score on a split of each ramp that reads standardised states, in the order of the layers."""
        with torch.inference_mode():
            answers = [ramps(self.read(split, rows)).argmax(dim=2).cpu().numpy() for rows in chunks(len(split))]
        return [METRICS[metric](split.labels, predictions) for predictions in np.concatenate(answers, axis=1)]


def mean_and_scale(states: States, chunk: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over samples, each (L-1, H) float64; a feature that never varies gets scale 1."""
    first = states.states[0].astype(np.float64)  # sums are of differences to it: else a large mean drowns the spread
    total = np.zeros_like(first)
    squares = np.zeros_like(first)
    for rows in chunks(len(states), chunk):
        part = states.read(rows) - first
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    shift = total / len(states)
    mean = first + shift
    scale = np.sqrt(np.maximum(squares / len(states) - shift**2, 0.0))
    scale[scale < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0  # no more than the rounding of float32
    return mean, scale


def chunks(count: int, size: int = CHUNK) -> list[np.ndarray]:
    """The numbers 0..count-1, `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))


def curve_rows(epoch: float, step: int, split: str, metric: str, values: Sequence[float]) -> Iterator[Row]:
    """A point of each ramp's curve, in the order of the layers."""
    for layer, value in enumerate(values, start=1):
        yield {"epoch": epoch, "step": step, "layer": layer, "split": split, "metric": metric, "value": value}


def shown(scores: Sequence[float]) -> str:
    """The scores of the first, the middle and the last ramp, for a line of the log."""
    layers = sorted({0, len(scores) // 2, len(scores) - 1} & set(range(len(scores))))
    return ", ".join(f"{scores[i]:.4f} after layer {i + 1}" for i in layers)
