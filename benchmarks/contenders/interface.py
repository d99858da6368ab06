"""What the file of a library has: `load`, and `build` where the library has files of its own.

    build(graph: Path, folder: Path, precision: str, calibration: Sequence[Batch]) -> None
    load(folder: Path, precision: str, threads: int) -> Runner

`build` writes into `folder` what a person would make once and deploy, from the plain model's ONNX `graph`; it is not
timed. `load` gets that folder, or the model's own where there is no `build`. It loads the tokenizer too, as whoever
answers texts needs one. A file imports its library at the top, so that loading is timed without Python's imports.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# `input_ids`, `attention_mask` and, where the model reads them, `token_type_ids`: (B, T) int64, padded on the right.
Batch = Mapping[str, np.ndarray]
GRAPH = "plain.onnx"
ALONE = 1  # sentences to a call, one at a time
WHOLE = 0  # a call of its own size: the whole data set, which this project's engine packs itself
PADDED = (32, 64)  # sentences to a padded batch, both of which are tried
CALIBRATION = "calibration"  # the group of training sentences that a library may look at to round well


class Answers(NamedTuple):
    """Of one batch.

    Attributes:
        logits: (B, C) float32.
        exit_layers: (B,), None for a model without early exit.
    """

    logits: np.ndarray
    exit_layers: np.ndarray | None = None


class Runner:
    """A loaded model."""

    def prepare(self, batch: Batch) -> Any:
        """The batch as the library takes it; outside the clock."""
        return batch

    def answer_one(self, batch: Any, threshold: float) -> Answers:
        """Answer one prepared batch; `threshold`, in nats, is 0 for all but early exit."""
        raise NotImplementedError

    def answer(self, batches: Sequence[Any], threshold: float) -> list[Answers]:
        """Answer all batches of a data set."""
        return [self.answer_one(batch, threshold) for batch in batches]
