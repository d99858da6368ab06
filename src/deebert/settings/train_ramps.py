"""What the stage `train_ramps` is told."""

from dataclasses import dataclass

from deebert.settings.checks import MAX_BATCH, MAX_EPOCHS, checked, number, one_of, whole

RAMP_KINDS = ("pooler", "linear")


@dataclass(frozen=True)
class TrainRamps:
    ramp: str = checked(one_of(RAMP_KINDS))
    epochs: int = checked(whole(1, MAX_EPOCHS))
    learning_rate: float = checked(number(0, above=True))
    batch_size: int = checked(whole(1, MAX_BATCH))
    weight_decay: float = checked(number(0))
