"""What the stage `finetune_backbone` is told; None stands for `default`, the value that comes with the model."""

from dataclasses import dataclass
from typing import Any

from deebert.settings.checks import MAX_BATCH, MAX_EPOCHS, checked, number, one_of, or_default, text, whole


def _share_that_leaves_some(value: Any) -> float:
    try:
        share = number(0, 1)(value)
    except ValueError:
        share = 1.0
    if share == 1.0:
        raise ValueError("a number, 0 or more, below 1")
    return share


@dataclass(frozen=True)
class FinetuneBackbone:
    objective: str = checked(text)
    full_depth_frac: float = checked(_share_that_leaves_some)
    class_weights: str = checked(one_of(("none", "balanced")))
    truncate_to: int | None = checked(or_default(whole(2)))
    epochs: float | None = checked(or_default(number(0, MAX_EPOCHS)))
    learning_rate: float | None = checked(or_default(number(0, above=True)))
    batch_size: int | None = checked(or_default(whole(1, MAX_BATCH)))
    max_length: int = checked(whole(8))
    precision: str = checked(one_of(("auto", "fp32", "bf16")))
