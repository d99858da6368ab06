"""How a model is fine-tuned: what a table of models holds and a training follows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """The schedule of a fine-tuning, unless `params.yaml` says otherwise.

    Attributes:
        epochs: passes over the training split; 0.5 is half of one.
        learning_rate: peak of the linear schedule.
        batch_size: samples per optimizer step, of all processes together.
        warmup_frac: share of the steps in which the learning rate rises.
        weight_decay: of matrices; biases and normalisations do not decay.
        cpu_threads: None = as many as PyTorch takes.
        full_depth_frac: share of the epochs, 0 to 1, that are trained at full depth before another objective begins.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    warmup_frac: float = 0.0
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    cpu_threads: int | None = None
    full_depth_frac: float = 0.5

    @classmethod
    def of(cls, model: Mapping[str, Any], wanted: Mapping[str, Any]) -> "Recipe":
        """What comes with the model, with what is `wanted` in its place; a wanted None leaves it as it is."""
        return cls(**{key: value if wanted.get(key) is None else wanted[key] for key, value in model.items()})
