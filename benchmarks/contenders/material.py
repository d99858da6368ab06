"""What is answered: sentences of a split whose labels are known, the same for all; and at which thresholds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedTokenizerBase

from contenders.interface import ALONE, CALIBRATION, PADDED, WHOLE
from contenders.sentences import ROWS
from deebert.analysis.curves import entropy_curve
from deebert.data.dataset import DataSet
from deebert.data.encoded import Encoded, encode
from deebert.data.scores import is_labelled
from deebert.exits.grids import threshold_grid
from deebert.exits.rule import layers_saved_frac
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.engine import Engine
from deebert.model import DeeBert

CPU = torch.device("cpu")
TIMED_ALONE = 100  # sentences of those that are timed one at a time
CALIBRATED_ON = 300  # training sentences, as many as NNCF takes by default
SAVED = (0.3, 0.5, 0.7, 0.85)  # shares of the layers that early exit is timed at, whatever they cost
GRID_POINTS = 400


@dataclass(frozen=True)
class Setting:
    """A threshold of early exit; 0 = full depth.

    Attributes:
        drop_points: the loss that it is recommended for, None where it is not.
        saved_frac: the share of layers that it was chosen to save on validation, likewise.
    """

    threshold: float = 0.0
    drop_points: float | None = None
    saved_frac: float | None = None


def spread(count: int, most: int) -> np.ndarray:
    """At most so many of the numbers from 0 to `count` - 1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def evenly(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """At most `count` rows, evenly spread."""
    return frame.iloc[spread(len(frame), count)]


def judged_split(data: DataSet) -> str:
    """The split to answer: test, of which no threshold was chosen, or where its labels are hidden validation."""
    with_labels = [split for split in data.task.test_splits if is_labelled(data[split]["label"].to_numpy())]
    return (with_labels or [data.task.validation_splits[0]])[0]


def write_sentences(path: Path, tokenizer: PreTrainedTokenizerBase, data: DataSet, frame: pd.DataFrame) -> None:
    """Write the sentences of `frame` and training sentences to calibrate with, as `sentences.py` reads them."""
    encoded = encode(tokenizer, frame, data.task.text_columns)
    by_length = np.argsort(-encoded.lengths, kind="stable")
    count = len(encoded)
    groups: dict[int, list[np.ndarray]] = {
        ALONE: list(np.arange(count)[:, None]),
        WHOLE: [np.arange(count)],
        **{size: np.split(by_length, range(size, count, size)) for size in PADDED},
    }
    arrays = {
        "count": np.array(count),
        "alone": spread(count, TIMED_ALONE),
    }
    for size, batches in groups.items():
        arrays |= _padded(str(size), encoded, batches, tokenizer.pad_token_id)
    seen = encode(tokenizer, evenly(data["train"], CALIBRATED_ON), data.task.text_columns)
    arrays |= _padded(CALIBRATION, seen, list(np.arange(len(seen))[:, None]), tokenizer.pad_token_id)
    np.savez(path, **arrays)


def _padded(group: str, encoded: Encoded, batches: list[np.ndarray], padding: int) -> dict[str, np.ndarray]:
    arrays = {}
    for i, rows in enumerate(batches):
        arrays[f"{group}/{i}/{ROWS}"] = rows
        for name, values in encoded.padded(rows, padding, CPU).items():
            arrays[f"{group}/{i}/{name}"] = values.numpy()
    return arrays


def settings_of(model: Path, metrics: Path, precision: str, data: DataSet, samples: int) -> list[Setting]:
    """Full depth, the thresholds recommended for the model, and those that save SAVED on validation.

    The recommended ones are of the model's own `thresholds.json`, or else of the pipeline's `metrics`.

    Raises:
        UserError: there are neither, or they are of another model.
    """
    classifier = EarlyExitClassifier.from_pretrained(model, device="cpu")
    known = classifier.thresholds() or classifier.thresholds(metrics)
    recommended = [Setting(each.threshold_nats, drop_points=each.drop_points) for each in known.recommended]
    deebert, tokenizer = DeeBert.load(model)
    engine = Engine(deebert, precision, CPU)
    logits = engine.all_logits(encode(tokenizer, evenly(data.validation, samples), data.task.text_columns))
    curve = entropy_curve(logits, threshold_grid(logits.shape[2], GRID_POINTS))
    saved = layers_saved_frac(curve.exit_layers.mean(axis=1), curve.num_layers)
    wanted = [Setting(curve.settings[int(np.abs(saved - share).argmin())], saved_frac=share) for share in SAVED]
    # A recommended threshold of 0, or two alike, would be timed twice; of these the smaller loss is told.
    found = {each.threshold: each for each in [*wanted, *reversed(recommended)] if each.threshold > 0}
    return [Setting(), *sorted(found.values(), key=lambda each: each.threshold)]
