"""Labelled texts that somebody brings: a data set of the pipeline, or a table with texts and labels."""

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from deebert.base.errors import UserError, some
from deebert.data.dataset import DataSet
from deebert.data.scores import is_labelled
from deebert.data.sources.own_columns import LABELS
from deebert.data.sources.own_labels import CODE, WHOLE, canonical
from deebert.data.tables.columns import check_columns
from deebert.data.tables.formats import chunks, column_names
from deebert.inference.answering import COLUMNS
from deebert.inference.classifier import Text
from deebert.inference.text_columns import find_text_columns, text_count

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Samples:
    """N labelled texts.

    Attributes:
        name: what they are, in words.
        labels: (N,) int64, ids of the model's classes.
        metric: a key of `scores.METRICS`.
    """

    name: str
    texts: list[Text]
    labels: np.ndarray
    metric: str

    def digest(self) -> str:
        """12 hexadecimal digits that tell them, in their order, from any others."""
        content = json.dumps([self.texts, self.labels.tolist()], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Columns:
    """Columns of a table that are wanted; None = found by their names."""

    texts: tuple[str, ...] | None
    label: str | None


def read_samples(path: Path, columns: Columns, about: dict[str, Any]) -> Samples:
    """The first validation split of a data set's folder, or all rows of a file, which may be a split of such a folder.

    Labels are spelled as the pipeline reads them, and rows that it leaves out are left out here, which is told.

    Args:
        about: of the model, as `EarlyExitClassifier.about` tells.

    Raises:
        UserError: the data are missing or damaged, or not for this model.
    """
    # Labels are ids there, whatever the classes are called.
    is_split = path.suffix == ".parquet" and path.with_name("task.json").is_file()
    if (path.is_dir() or is_split) and columns != Columns(None, None):
        told = f"--text, --pair, --label: {path} is of a data set, whose columns are known; expected a file of your own"
        raise UserError(told)
    if is_split:
        found = _of_data_set(path.parent, path.stem, about)
    else:
        found = _of_data_set(path, None, about) if path.is_dir() else _of_table(path, columns, about)
    if len(found.texts) < 2:
        raise UserError(f"{path}: {len(found.texts)} labelled texts; expected two or more")
    return found


def _of_data_set(folder: Path, split: str | None, about: dict[str, Any]) -> Samples:
    """A split of a data set; None = its first validation split."""
    data = DataSet.load(folder)
    task = data.task
    if list(task.label_names) != about["label_names"]:
        found, expected = task.label_names, about["label_names"]
        told = f"has the classes {some(found, expected)}; expected the model's: {some(expected, found)}"
        raise UserError(f"{folder}: {told}")
    if len(task.text_columns) != text_count(about):
        raise UserError(f"{folder}: texts in {', '.join(task.text_columns)} are not as many as the model reads")
    split = split or task.validation_splits[0]
    if split not in task.splits:
        raise UserError(f"{folder}: has no split {split}; expected one of {', '.join(task.splits)}")
    table = data[split]
    labels = table["label"].to_numpy()
    if not is_labelled(labels):
        raise UserError(f"{folder}: the labels of {split} are hidden; expected labelled texts")
    return Samples(split, _texts([table[name].tolist() for name in task.text_columns]), labels, task.metrics[0])


def _of_table(path: Path, columns: Columns, about: dict[str, Any]) -> Samples:
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    are_codes = any(map(CODE.fullmatch, about["label_names"]))
    ids = _ids([canonical(name, are_codes) for name in about["label_names"]])
    found = _columns(path, column_names(path, ROWS_AT_ONCE), columns, about)
    texts, labels, left_out = [], [], []
    for chunk in chunks(path, ROWS_AT_ONCE):
        rows = zip(*(chunk.texts(name) for name in found.texts), strict=True)
        for row, (parts, label) in enumerate(zip(rows, chunk.values(found.label), strict=True)):
            name = canonical(label, are_codes)
            if not name or not all(map(str.strip, parts)):
                left_out.append(chunk.place(row))
                continue
            if name not in ids:
                told = f"column {found.label}: {name!r:.60}; expected one of {some(about['label_names'])}"
                raise UserError(f"{chunk.place(row)}: {told}")
            texts.append(parts if len(parts) > 1 else parts[0])
            labels.append(ids[name])
    if left_out:
        told = "left out %d rows of %d whose text or label is empty, the first at %s"
        log.warning(told, len(left_out), len(texts) + len(left_out), left_out[0])
    return Samples(_readable(path.name), texts, np.array(labels, dtype=np.int64), about.get("metric") or "accuracy")


def _ids(names: Sequence[str]) -> dict[str, int]:
    """The id of each class by its name, and by its number where no class is named by a number."""
    numbers = {} if any(map(WHOLE.fullmatch, names)) else {str(i): i for i in range(len(names))}
    return numbers | {name: i for i, name in enumerate(names)}


def _columns(path: Path, names: Sequence[str], wanted: Columns, about: dict[str, Any]) -> Columns:
    texts = find_text_columns(str(path), names, wanted.texts, about)
    trained = about.get("label_column") or LABELS[0]
    if wanted.label is not None:
        check_columns(str(path), [wanted.label], names)
        return Columns(texts, wanted.label)
    are_answered = {*COLUMNS.names} <= {*names}  # one of them is then the label that a model has given
    known = {name.strip().lower(): name for name in reversed(names) if not (are_answered and name in COLUMNS.names)}
    known |= {name: name for name in known.values()}
    label = next((known[name] for name in (trained, trained.strip().lower(), *LABELS) if name in known), None)
    if label is None and are_answered:
        told = (
            f"{', '.join(COLUMNS.names)} are what `deebert predict` adds; expected the true label, named with --label"
        )
        raise UserError(f"{path}: {told}")
    check_columns(str(path), [label or trained], names, "; name yours with --label")
    log.info("%s: label from column %s", path, label)
    return Columns(texts, label)


def _readable(name: str) -> str:
    """A file's name as UTF-8 can have it; on Linux it is bytes of any kind."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _texts(columns: list[list[str]]) -> list[Text]:
    return list(zip(*columns, strict=True)) if len(columns) > 1 else columns[0]
