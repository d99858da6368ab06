"""How a model is fine-tuned: what comes with the model unless `params.yaml` says otherwise."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Settings of AdamW and of its linear schedule.

    Attributes:
        epochs: passes over the training split; a part of one is allowed.
        learning_rate: at its peak.
        batch_size: samples per optimizer step.
        warmup_frac: share of the steps in which the rate rises in a line from 0.
        weight_decay: of matrices; biases and normalisations do not decay.
        cpu_threads: None = as many as PyTorch takes.
    """

    epochs: float
    learning_rate: float
    batch_size: int
    warmup_frac: float = 0.0
    weight_decay: float = 0.0
    adam_beta2: float = 0.999
    cpu_threads: int | None = None
