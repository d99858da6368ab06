"""Answers to a chunk of rows, as records to keep and as columns to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from deebert.data.tables.chunk import Chunk
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.kept import NO_TEXT, RECORD

COLUMNS = pa.schema([("label", pa.string()), ("probability", pa.float32()), ("exit_layer", pa.int32())])


@dataclass(frozen=True)
class Answering:
    """A classifier, and when a text may leave: below an entropy of so many nats, at 0 after the last layer only."""

    classifier: EarlyExitClassifier
    threshold_nats: float

    def records(self, chunk: Chunk, text_columns: Sequence[str]) -> np.ndarray:
        """Answers (B,) of `RECORD`; a row of which a text is missing or blank has none."""
        texts = list(zip(*(chunk.texts(column) for column in text_columns), strict=True))
        there = [row for row, parts in enumerate(texts) if all(map(str.strip, parts))]
        records = np.zeros(len(texts), RECORD)
        records["exit_layer"] = NO_TEXT
        if there:
            asked = [texts[row] if len(text_columns) > 1 else texts[row][0] for row in there]
            (answers,) = self.classifier.predict_iter(asked, self.threshold_nats, len(asked))
            names = self.classifier.label_names
            records["label_id"][there] = [names.index(label) for label in answers.labels]
            records["probability"][there] = answers.probabilities.max(axis=1)
            records["exit_layer"][there] = answers.exit_layers
        return records

    def columns(self, records: np.ndarray) -> list[list[Any]]:
        """The records as `COLUMNS`, None where there is no answer.

        A probability has as many digits as tell it from other float32 numbers.
        """
        names = self.classifier.label_names
        columns = [
            [names[label_id] for label_id in records["label_id"]],
            [float(str(probability)) for probability in records["probability"]],
            records["exit_layer"].tolist(),
        ]
        there = (records["exit_layer"] != NO_TEXT).tolist()
        return [[value if has else None for value, has in zip(column, there, strict=True)] for column in columns]
