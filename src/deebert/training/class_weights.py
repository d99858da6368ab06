"""Weights of classes in the loss, of the backbone's head and of ramps alike."""

from pathlib import Path

import numpy as np

from deebert.base.errors import UserError
from deebert.base.files import read_json


def class_weights(kind: str, labels: np.ndarray, num_labels: int) -> np.ndarray | None:
    """Weights of the C classes, (C,) float32, as `finetune_backbone.class_weights` has them.

    balanced: N / (C n_c), with n_c of the N samples in class c, so that each class has the same share in the loss and
    the N samples weigh N together. none: None.

    Args:
        labels: of the train split, (N,) in 0..C-1.

    Raises:
        UserError: a class has no sample, and so no weight.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=num_labels)
    if not counts.all():
        raise UserError(
            f"params.yaml: finetune_backbone.class_weights: {kind} is not allowed, for class {counts.argmin()} has no"
            " train sample; expected none"
        )
    return (len(labels) / (num_labels * counts)).astype(np.float32)


def class_weights_of(backbone: Path, labels: np.ndarray, num_labels: int) -> np.ndarray | None:
    """`class_weights` as the fine-tuning of the model in the folder `backbone` had them, by its `training.json`."""
    return class_weights(read_json(backbone / "training.json").get("class_weights", "none"), labels, num_labels)
