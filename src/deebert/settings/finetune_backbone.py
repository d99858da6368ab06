"""What the stage `finetune_backbone` is told; None stands for `default`, the value that comes with the model."""

from dataclasses import dataclass
from typing import Any

from deebert.settings.checks import MAX_BATCH, MAX_EPOCHS, checked, number, one_of, or_default, text, whole


def _epochs(value: Any) -> float:
    """A whole number stays one: 3 and 3.0, and `default` where that is 3, are one run with one record."""
    epochs = number(0, MAX_EPOCHS)(value)
    return int(epochs) if epochs.is_integer() else epochs


@dataclass(frozen=True)
class FinetuneBackbone:
    objective: str = checked(text)
    full_depth_frac: float | None = checked(or_default(number(0, 1)))
    class_weights: str = checked(one_of(("none", "balanced")))
    truncate_to: int | None = checked(or_default(whole(2)))
    epochs: float | None = checked(or_default(_epochs))
    learning_rate: float | None = checked(or_default(number(0, above=True)))
    batch_size: int | None = checked(or_default(whole(1, MAX_BATCH)))
    max_length: int = checked(whole(8))
    precision: str = checked(one_of(("auto", "fp32", "bf16")))
