"""GLUE from a folder in the classic layout: `RTE/train.tsv` and its like, as the usual download script leaves them."""

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from deebert.base.errors import UserError
from deebert.base.files import sha256_of
from deebert.data.dataset import DataSet, Task
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.data.sources.tables import HIDDEN_LABEL, split_table
from deebert.data.tables.columns import check_columns
from deebert.data.tables.text import first_line_not_utf8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Layout:
    """How a task looks in a classic folder: files of each split (the first that exists counts), columns, labels."""

    text_columns: tuple[str, ...]
    label_column: str
    label_ids: Mapping[str, int]
    files: Mapping[str, tuple[str, ...]]
    has_torn_rows: bool = False


_FILES = {"train": ("train.tsv",), "validation": ("dev.tsv",), "test": ("test.tsv",)}
_MNLI_FILES = {"train": ("train.tsv",)} | {
    f"{split}_{half}": (f"{stem}_{half}.tsv",)
    for split, stem in (("validation", "dev"), ("test", "test"))
    for half in ("matched", "mismatched")
}
# MRPC's test labels are public: the corpus' own file has them, the test.tsv made from it has not.
_MRPC_FILES = _FILES | {"test": ("msr_paraphrase_test.txt", "test.tsv")}


def _ids(words: Sequence[str]) -> dict[str, int]:
    return {word: label for label, word in enumerate(words)}


_LAYOUTS = {
    "SST-2": _Layout(("sentence",), "label", _ids("01"), _FILES),
    "MRPC": _Layout(("#1 String", "#2 String"), "Quality", _ids("01"), _MRPC_FILES),
    "RTE": _Layout(("sentence1", "sentence2"), "label", _ids(GLUE_TASKS["RTE"].label_names), _FILES),
    "QNLI": _Layout(("question", "sentence"), "label", _ids(GLUE_TASKS["QNLI"].label_names), _FILES),
    "QQP": _Layout(("question1", "question2"), "is_duplicate", _ids("01"), _FILES, has_torn_rows=True),
    "MNLI": _Layout(("sentence1", "sentence2"), "gold_label", _ids(GLUE_TASKS["MNLI"].label_names), _MNLI_FILES),
}


def load(task: Task, folder: Path) -> DataSet:
    """Read a GLUE `task` from a folder in the classic layout, `folder/RTE/train.tsv` and so on.

    A test file without a label column gives hidden labels (-1). Some rows of QQP are torn by a line feed inside a
    question; they are left out, as they are on the Hub, and counted. In any other task a torn row is an error.

    Raises:
        UserError: a file or column is missing, a file is empty, not UTF-8, or has a row that cannot be right.
    """
    layout = _LAYOUTS[task.name]
    home = folder.expanduser() / task.name
    if not home.parent.is_dir():
        raise UserError(
            f"download_glue.source: {folder}: no such folder; expected hub or a folder that holds {task.name}/"
        )
    if not home.is_dir():
        raise UserError(f"download_glue.source: {folder}: holds no folder {task.name}; expected {home}/train.tsv")
    tables, left_out, checksums = {}, {}, {}
    for split, names in layout.files.items():
        path = next((home / name for name in names if (home / name).exists()), home / names[-1])
        try:
            tables[split], left_out[split] = _read_split(path, task, layout, hidden=split in task.test_splits)
            checksums[path.name] = sha256_of(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {task.name} needs it for its {split} split") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    task = dataclasses.replace(task, source="folder", origin={"checksums": checksums})
    return DataSet.of(task, tables, left_out)


def _read_split(path: Path, task: Task, layout: _Layout, *, hidden: bool) -> tuple[pd.DataFrame, int]:
    """The rows of one file, and how many were left out; only where `hidden` may the label column be absent."""
    lines = _split_lines(path)
    _, header = next(lines, (1, []))
    check_columns(str(path), layout.text_columns, header)
    text_places = [header.index(column) for column in layout.text_columns]
    label_place = None
    if not hidden or layout.label_column in header:
        check_columns(str(path), [layout.label_column], header)
        label_place = header.index(layout.label_column)

    rows, labels, torn = [], [], []
    for number, fields in lines:
        complete = len(fields) == len(header)
        word = fields[label_place] if complete and label_place is not None else None
        if layout.has_torn_rows and (not complete or word == ""):
            torn.append(number)
        elif not complete:
            raise UserError(f"{path}: line {number}: {len(fields)} fields; expected {len(header)}, as in line 1")
        elif word is not None and word not in layout.label_ids:
            allowed = ", ".join(layout.label_ids)
            raise UserError(f"{path}: line {number}: {layout.label_column} {word!r} is unknown; expected {allowed}")
        else:
            rows.append([fields[place] for place in text_places])
            labels.append(HIDDEN_LABEL if word is None else layout.label_ids[word])

    if not rows:
        raise UserError(f"{path}: has no rows below its header")
    if torn:
        found = len(torn) + len(rows)
        log.warning("%s: left out %d torn rows of %d, the first at line %d", path, len(torn), found, torn[0])
    return split_table(dict(zip(task.text_columns, zip(*rows, strict=True), strict=True)), labels), len(torn)


def _split_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number from 1, fields) of a tab-separated file; blank lines hold no row.

    A quote is a character like any other. Lines end in LF, CRLF or CR and nothing else (`str.splitlines` would also
    cut at the form feeds and line separators inside a text). A byte order mark is dropped.
    """
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line := line.removesuffix("\n"):
                    yield number, line.split("\t")
    except UnicodeDecodeError:
        raise UserError(f"{path}: line {first_line_not_utf8(path)}: not UTF-8") from None
