"""The second training: all ramps at once, on the first-token states that one pass of the frozen backbone gives."""

from collections.abc import Callable
from typing import Any

import torch

from deebert.base.rows import Row
from deebert.ramps import Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training.linear_ramps import train_linear_ramps
from deebert.training.pooler_ramps import train_pooler_ramps
from deebert.training.ramp_plan import RampPlan, Standard

# A kind of ramps, as `deebert.ramps.KINDS` names it -> how it is trained on standardised states.
TRAINERS: dict[str, Callable[[RampPlan, Standard], tuple[Ramps, list[Row]]]] = {
    "pooler": train_pooler_ramps,
    "linear": train_linear_ramps,
}


def settings_read(settings: TrainRamps) -> dict[str, Any]:
    """Those that have a part in ramps of their kind, by name."""
    return {"ramp": settings.ramp} if settings.ramp == "linear" else vars(settings)


def train_ramps(plan: RampPlan, device: torch.device) -> tuple[Ramps, list[Row]]:
    """Train ramps of the kind that the plan's settings name, on cached states.

    The states are standardised for training, see `Standard`. The ramps that are returned read raw states.

    Returns:
        The ramps; and their curve, rows as `finetune` gives them with a `layer` (1..L-1).

    Raises:
        UserError: the loss is not finite, or SIGTERM.
    """
    standard = Standard(plan.train, device)
    ramps, rows = TRAINERS[plan.settings.ramp](plan, standard)
    return standard.fold(ramps), rows
