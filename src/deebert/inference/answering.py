"""Answers to a chunk of rows, as records to keep and as columns to write."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from deebert.data.tables.chunk import Chunk
from deebert.inference.classifier import EarlyExitClassifier, Text
from deebert.inference.kept import NO_TEXT, RECORD
from deebert.inference.monitor import Monitor

COLUMNS = pa.schema([("label", pa.string()), ("probability", pa.float32()), ("exit_layer", pa.int32())])


@dataclass(frozen=True)
class Answering:
    """A classifier, and when a text may leave.

    Attributes:
        threshold_nats: below an entropy of so many, at each ramp or by ramp; at 0 it does not.
        monitor: the watch over this classifier; None = nobody watches.
    """

    classifier: EarlyExitClassifier
    threshold_nats: float | list[float]
    monitor: Monitor | None = None

    def records(self, texts: Sequence[Text]) -> np.ndarray:
        """Answers (B,) of `RECORD` to the texts or pairs of B rows; a row of which a text is blank has none."""
        parts = [(text,) if isinstance(text, str) else text for text in texts]
        there = [row for row, each in enumerate(parts) if all(map(str.strip, each))]
        records = np.zeros(len(texts), RECORD)
        records["exit_layer"] = NO_TEXT
        if there:
            asked = [texts[row] for row in there]
            (answers,) = self.classifier.predict_iter(asked, self.threshold_nats, len(asked))
            names = self.classifier.label_names
            records["label_id"][there] = [names.index(label) for label in answers.labels]
            records["probability"][there] = answers.probabilities.max(axis=1)
            records["exit_layer"][there] = answers.exit_layers
        return records

    def answers(self, batches: Iterator[list[Text]]) -> Iterator[np.ndarray]:
        """The `records` of each batch of texts."""
        for texts in batches:
            yield self.records(texts)

    def audit(self, chunk: Chunk, text_columns: Sequence[str], records: np.ndarray) -> None:
        """Show the monitor, if there is one, the answers of a chunk."""
        if self.monitor is None:
            return
        there = np.flatnonzero(records["exit_layer"] != NO_TEXT)
        texts, names = texts_of(chunk, text_columns), self.classifier.label_names
        labels = [names[label_id] for label_id in records["label_id"][there]]
        self.monitor.audit([texts[row] for row in there], labels, records["exit_layer"][there], self.threshold_nats)

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


def texts_of(chunk: Chunk, text_columns: Sequence[str]) -> list[Text]:
    """A text or a pair of each row, empty where it is missing."""
    columns = [chunk.texts(column) for column in text_columns]
    return list(zip(*columns, strict=True)) if len(columns) > 1 else list(columns[0])
