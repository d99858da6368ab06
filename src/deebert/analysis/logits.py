"""What `data/logits` holds: for each split every head's answer to every sample, enough to study exits with no model."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from deebert.base.errors import UserError
from deebert.base.files import check_readable


@dataclass(frozen=True)
class SplitLogits:
    """One split. `difficulty` is None where the data set has no such grade.

    Attributes:
        logits: (N, L, C) float32, head by head; samples in the order of the data set.
        labels: (N,) int64, -1 where hidden.
        idx: (N,) int64, the data set's own number of each sample.
        token_counts: (N,) int64, tokens read by the model.
        difficulty: (N,) int64.
    """

    logits: np.ndarray
    labels: np.ndarray
    idx: np.ndarray
    token_counts: np.ndarray
    difficulty: np.ndarray | None = None

    def save(self, path: Path) -> None:
        arrays = {name: array for name, array in vars(self).items() if array is not None}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    @classmethod
    def load(cls, path: Path) -> "SplitLogits":
        check_readable(path)
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise UserError(f"{path}: not readable as saved logits: {error}; `dvc repro` makes it") from None
