"""Multinomial logistic regressions on the same samples, one for each ramp, solved side by side by L-BFGS.

Shapes: B samples of a batch, H width, R ramps, C classes.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

from deebert.base.errors import UserError
from deebert.training.ramp_plan import STAGE

log = logging.getLogger(__name__)

MEMORY = 5, 20  # pairs of steps and gradients that L-BFGS keeps: at least, and at most
MEMORY_NUMBERS = 2**25  # float64 ones, that all of them may have: 256 MiB
MAX_STEPS = 1000

Batch = tuple[Tensor, Tensor]  # standardised states (R, B, H) and labels (B,)
Batches = Callable[[], Iterable[Batch]]  # gives them anew for each pass
Weights = tuple[np.ndarray, np.ndarray]  # (R, C, H) and biases (R, C), float64
Placed = tuple[Tensor, Tensor]  # the same in float32, where the samples are


@dataclass(frozen=True)
class Axes:
    """The principal axes of standardised states.

    Features of a layer go together, so the states' variance along one axis is thousands of times that along another. In
    the features' own coordinates L-BFGS takes many times as many passes.

    Attributes:
        axes: (R, H, H), a column per axis.
        variances: (R, H).
    """

    axes: np.ndarray
    variances: np.ndarray

    @property
    def num_ramps(self) -> int:
        return len(self.axes)

    @classmethod
    def of(cls, batches: Iterable[Batch]) -> "Axes":
        """Raises UserError where states are not finite."""
        products, count = torch.zeros(()), 0
        for states, labels in batches:
            products = products + torch.bmm(states.mT, states).double()
            count += len(labels)
        if not torch.isfinite(products).all():
            raise UserError(f"{STAGE}: the first tokens' states are not finite; is the backbone sound?")
        variances, axes = np.linalg.eigh(products.cpu().numpy() / count)
        return cls(axes, variances.clip(0))


class Problem:
    """The sum over ramps of their penalised mean losses; its minimum is that of each ramp by itself.

    Products are of float32 numbers, sums over batches of float64 ones.

    Args:
        count: how many samples `batches` gives.
        strengths: (R,) or one for all: the precision of a normal prior on each weight, which adds half of it times the
            sum of squared weights to the sum of the samples' losses. Biases are free.
        device: where products of float64 numbers are computed.

    Attributes:
        passes: over all samples, so far.
        losses: (R,), mean cross-entropies of the last pass, without the penalty.
    """

    def __init__(
        self,
        batches: Batches,
        count: int,
        axes: Axes,
        strengths: np.ndarray | float,
        num_labels: int,
        device: torch.device | str = "cpu",
    ) -> None:
        # On a CPU NumPy multiplies: PyTorch's last bits are others, and so would be every ramp's that is trained again.
        self._on_gpu = None if torch.device(device).type == "cpu" else torch.from_numpy(axes.axes).to(device)
        self._batches, self._count, self._axes, self._num_labels = batches, count, axes, num_labels
        self._penalty = np.broadcast_to(strengths, axes.num_ramps)[:, None, None] / count
        # The units in which a loss bends alike along all axes, at weights of 0. There it bends along an axis by the
        # states' variance over C, and by the penalty.
        self._unit = (axes.variances[:, None] / num_labels + self._penalty) ** -0.5  # (R, 1, H)
        self._bias_unit = math.sqrt(num_labels)
        self.passes = 0
        self.losses = np.full(axes.num_ramps, math.nan)

    def solve(
        self,
        largest: float,
        start: Weights | None = None,
        noted: Callable[[int, Weights], None] = lambda step, weights: None,
    ) -> Weights:
        """The weights where no derivative, in the problem's own units, is above `largest`. If they are not reached, a
        line of the log says so.

        Args:
            noted: told the number of each step of L-BFGS, from 1, and the weights after it.
        """
        steps = itertools.count(1)

        def told(intermediate_result: OptimizeResult) -> None:
            noted(next(steps), self._weights(intermediate_result.x))

        ramps, width = self._axes.variances.shape
        flat = self._flat(start) if start else np.zeros(ramps * self._num_labels * (width + 1))
        pairs = int(np.clip(MEMORY_NUMBERS // (2 * len(flat)), *MEMORY))
        options = {"maxcor": pairs, "gtol": largest, "ftol": 0.0, "maxiter": MAX_STEPS, "maxfun": 2 * MAX_STEPS}
        found = minimize(self.value, flat, jac=True, method="L-BFGS-B", callback=told, options=options)
        if not found.success:
            told = "ramps: not at the optimum after %d steps: the largest derivative is %.2g; expected %.2g or less"
            log.warning(told, found.nit, np.abs(found.jac).max(), largest)
        return self._weights(found.x)

    def value(self, flat: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of all penalised losses and its derivatives, at weights in the problem's own units."""
        along, _ = self._split(flat)
        along = along * self._unit  # the weights' components along the axes
        losses, slopes, bias_slopes = _pass(self._batches(), self._weights(flat))
        self.passes += 1
        self.losses = losses / self._count
        value = self.losses.sum() + 0.5 * (self._penalty * along**2).sum()
        slopes = (self._along(slopes / self._count) + self._penalty * along) * self._unit
        return float(value), np.concatenate([slopes.ravel(), bias_slopes.ravel() / self._count * self._bias_unit])

    def _split(self, flat: np.ndarray) -> Weights:
        ramps, width = self._axes.variances.shape
        weights, biases = np.split(flat, [ramps * self._num_labels * width])
        return weights.reshape(ramps, self._num_labels, width), biases.reshape(ramps, self._num_labels)

    def _weights(self, flat: np.ndarray) -> Weights:
        weights, biases = self._split(flat)
        weights = weights * self._unit
        if self._on_gpu is None:
            weights = weights @ self._axes.axes.transpose(0, 2, 1)
        else:
            weights = _product(weights, self._on_gpu.mT)
        return weights, biases * self._bias_unit

    def _along(self, weights: np.ndarray) -> np.ndarray:
        """Components (R, C, H) along the axes."""
        return weights @ self._axes.axes if self._on_gpu is None else _product(weights, self._on_gpu)

    def _flat(self, weights: Weights) -> np.ndarray:
        weight, bias = weights
        return np.concatenate([(self._along(weight) / self._unit).ravel(), bias.ravel() / self._bias_unit])


def _product(weights: np.ndarray, axes: Tensor) -> np.ndarray:
    return torch.bmm(torch.from_numpy(weights).to(axes.device), axes).cpu().numpy()


def losses_on(batches: Iterable[Batch], weights: Weights) -> np.ndarray:
    """Sums (R,) of the samples' cross-entropies."""
    losses = 0.0
    for batch in batches:
        _, of_label = _log_likelihoods(batch, _placed(weights, batch[0].device))
        losses = losses - of_label.sum(dim=1, dtype=torch.float64).cpu().numpy()
    return losses


def _placed(weights: Weights, device: torch.device) -> Placed:
    weight, bias = (torch.from_numpy(each).float().to(device) for each in weights)
    return weight, bias


def _log_likelihoods(batch: Batch, weights: Placed) -> tuple[Tensor, Tensor]:
    """Log-probabilities (R, B, C) of all classes, and those (R, B) of the labels."""
    states, labels = batch
    weight, bias = weights
    every = torch.baddbmm(bias[:, None], states, weight.mT).log_softmax(dim=2)
    return every, every.gather(2, labels.expand(len(states), -1)[..., None])[..., 0]


def _pass(batches: Iterable[Batch], weights: Weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums over samples: cross-entropies (R,) and their derivatives by weights (R, C, H) and biases (R, C)."""
    losses, slopes, bias_slopes, placed = 0.0, 0.0, 0.0, None
    for states, labels in batches:
        placed = placed or _placed(weights, states.device)
        every, of_label = _log_likelihoods((states, labels), placed)
        losses = losses - of_label.sum(dim=1, dtype=torch.float64)
        excess = every.exp_()  # probabilities, less 1 for the label
        excess[:, torch.arange(len(labels), device=labels.device), labels] -= 1
        slopes = slopes + torch.bmm(excess.mT, states).double()
        bias_slopes = bias_slopes + excess.sum(dim=1, dtype=torch.float64)
    return losses.cpu().numpy(), slopes.cpu().numpy(), bias_slopes.cpu().numpy()
