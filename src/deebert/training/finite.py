"""A training that has run away says so in a line, instead of burning hours and saving NaN."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from deebert.base.errors import UserError


def check_loss(loss: float, stage: str, when: str, advice: str) -> None:
    """Raise UserError where `loss` is not finite, from which no training recovers."""
    if not math.isfinite(loss):
        raise UserError(f"{stage}: the loss is {loss}, which is not finite, {when}; {advice}")


def check_weights(weights: Iterable[Tensor], stage: str, advice: str) -> None:
    """Raise UserError where a weight is not finite: the loss is of before the last step and does not show it."""
    if not all(torch.isfinite(weight).all() for weight in weights):
        raise UserError(f"{stage}: the weights are not finite; {advice}")
