"""The six GLUE tasks DeeBERT was measured on, from the Hugging Face Hub or from a folder in the classic layout.

Both sources give the same rows in the same order with the same label ids, so that a model trained on one may be judged
on the other. `idx` is a row's place in its split, counted from 0: the index the GLUE server asks for in predictions,
and the one that `load_dataset(...)[split][idx]` takes. The Hub's own `idx` column is not kept: it counts the lines of
the files the data set was once made from, which leaves gaps in QQP and, in MRPC, counts train and validation together
in an order that a classic folder no longer tells.
"""

import hashlib
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pyarrow import ArrowException

from deebert.base.errors import UserError, one_line
from deebert.base.files import read_json, write_json

if TYPE_CHECKING:
    from datasets import DatasetDict

HUB_ID = "nyu-mll/glue"
HUB_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
HUB_ANSWER_TIMEOUT_S = 5
HUB_RETRY_PAUSES_S = (1, 2)
HIDDEN_LABEL = -1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A classification task: names as the Hub has them, `label_names` in the order of the label ids."""

    name: str
    hub_config: str
    label_names: tuple[str, ...]
    text_columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)  # the main one first
    validation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", *self.validation_splits, *self.test_splits)


@dataclass(frozen=True)
class GlueData:
    """What the folder `data/glue` holds.

    `task` is the content of `task.json` (see `describe`). `splits` has one frame per split with the columns `idx`
    (int64), the task's text columns (str) and `label` (int64, -1 where it is hidden), and whatever else a source adds.
    """

    task: dict[str, Any]
    splits: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class _Layout:
    """How a task looks in a classic folder: files of each split (the first that exists counts), columns, labels."""

    text_columns: tuple[str, ...]
    label_column: str
    label_ids: Mapping[str, int]
    files: Mapping[str, tuple[str, ...]]
    has_torn_rows: bool = False


GLUE_TASKS = {
    task.name: task
    for task in (
        Task("SST-2", "sst2", ("negative", "positive"), ("sentence",)),
        Task("MRPC", "mrpc", ("not_equivalent", "equivalent"), ("sentence1", "sentence2"), ("f1", "accuracy")),
        Task("RTE", "rte", ("entailment", "not_entailment"), ("sentence1", "sentence2")),
        Task("QNLI", "qnli", ("entailment", "not_entailment"), ("question", "sentence")),
        Task("QQP", "qqp", ("not_duplicate", "duplicate"), ("question1", "question2"), ("f1", "accuracy")),
        Task(
            "MNLI",
            "mnli",
            ("entailment", "neutral", "contradiction"),
            ("premise", "hypothesis"),
            validation_splits=("validation_matched", "validation_mismatched"),
            test_splits=("test_matched", "test_mismatched"),
        ),
    )
}

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


def describe(
    task: Task,
    splits: Mapping[str, pd.DataFrame],
    source: str,
    left_out: Mapping[str, int] | None = None,
    **origin: Any,
) -> dict[str, Any]:
    """The content of `task.json`: what a later stage or a reader must know of the data without opening it.

    `source` is hub, folder or toy; where a folder lies is not said, so that equal files give equal bytes anywhere.
    `left_out` counts the rows of a split that were too broken to read; `origin` (`revision`, `checksums`, `seed`) tells
    which state of the source it was.
    """
    return {
        "task": task.name,
        "label_names": list(task.label_names),
        "text_columns": list(task.text_columns),
        "metrics": list(task.metrics),
        "validation_splits": list(task.validation_splits),
        "test_splits": list(task.test_splits),
        "source": source,
        **origin,
        "sizes": {split: len(frame) for split, frame in splits.items()},
        "left_out": {split: (left_out or {}).get(split, 0) for split in splits},
    }


def trained_on(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's `training.json` tells of the data set that `task` (see `describe`) is about."""
    return {"task": task["task"], "text_columns": task["text_columns"], "metric": task["metrics"][0]}


def from_hub(task: Task) -> GlueData:
    """Download `task` from the Hugging Face Hub at HUB_REVISION, or take it from the local cache of an earlier time.

    Raises:
        UserError: the Hub cannot be reached (told within half a minute), or what came is not what we know.
    """
    dataset = _load_from_hub(task)
    splits = {}
    for split in task.splits:
        where = f"{HUB_ID} ({task.hub_config}, {split})"
        if split not in dataset:
            raise UserError(f"{where}: no such split; found {', '.join(dataset)}")
        _check_columns(where, [*task.text_columns, "label"], dataset[split].column_names)
        label_names = getattr(dataset[split].features["label"], "names", None)
        if label_names != list(task.label_names):
            raise UserError(f"{where}: labels are {label_names}; expected {list(task.label_names)} in this order")
        if not len(dataset[split]):
            raise UserError(f"{where}: has no rows")
        frame = dataset[split].to_pandas()
        splits[split] = _frame({column: frame[column] for column in task.text_columns}, frame["label"])
    return GlueData(describe(task, splits, "hub", revision=HUB_REVISION), splits)


def _load_from_hub(task: Task) -> "DatasetDict":
    """All splits at the pinned revision."""
    # Imported here, because it takes a second that no other use of this module should pay.
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import httpx

    for pause_s in (*HUB_RETRY_PAUSES_S, None):
        try:
            # Without a network `load_dataset` keeps trying for half a minute: ask first whether the Hub is there.
            if not constants.HF_HUB_OFFLINE:
                HfApi().dataset_info(HUB_ID, revision=HUB_REVISION, timeout=HUB_ANSWER_TIMEOUT_S)
            dataset = load_dataset(HUB_ID, task.hub_config, revision=HUB_REVISION)
            break
        except (OSError, ValueError, httpx.HTTPError, DatasetsError) as error:
            # A connection refused or dropped is worth another try; a silent Hub and unreadable data are not.
            hopeless = isinstance(error, (httpx.TimeoutException, ValueError, DatasetsError))
            if hopeless or pause_s is None or constants.HF_HUB_OFFLINE:
                reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
                raise UserError(
                    f"{HUB_ID}: cannot be downloaded from {constants.ENDPOINT}: {one_line(reason)}; without a network"
                    f" set download_glue.source to a folder that holds {task.name}/train.tsv and its like"
                ) from error
            time.sleep(pause_s)

    # When the Hub cannot be asked, `load_dataset` takes whatever revision its cache saw last.
    for file in (Path(file["filename"]) for split in dataset.values() for file in split.cache_files):
        if HUB_REVISION not in file.parts:
            raise UserError(f"{file}: is {HUB_ID} of another revision; expected {HUB_REVISION}, which takes a network")
    return dataset


def from_folder(task: Task, folder: Path) -> GlueData:
    """Read `task` from a folder in the classic layout, `folder/RTE/train.tsv` and so on.

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
    splits, left_out, checksums = {}, {}, {}
    for split, names in layout.files.items():
        path = next((home / name for name in names if (home / name).exists()), home / names[-1])
        try:
            splits[split], left_out[split] = _read_split(path, task, layout, hidden=split in task.test_splits)
            with path.open("rb") as file:
                checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {task.name} needs it for its {split} split") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    return GlueData(describe(task, splits, "folder", left_out, checksums=checksums), splits)


def _read_split(path: Path, task: Task, layout: _Layout, *, hidden: bool) -> tuple[pd.DataFrame, int]:
    """The rows of one file, and how many were left out; only where `hidden` may the label column be absent."""
    lines = _split_lines(path)
    _, header = next(lines, (1, []))
    _check_columns(str(path), layout.text_columns, header)
    text_places = [header.index(column) for column in layout.text_columns]
    label_place = None
    if not hidden or layout.label_column in header:
        _check_columns(str(path), [layout.label_column], header)
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
    return _frame(dict(zip(task.text_columns, zip(*rows, strict=True), strict=True)), labels), len(torn)


def _check_columns(where: str, expected: Sequence[str], found: Sequence[str]) -> None:
    for column in expected:
        if column not in found:
            raise UserError(f"{where}: has no column {column}; found {', '.join(found) or 'none'}")


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
        raise UserError(f"{path}: line {_first_line_not_utf8(path)}: not UTF-8") from None


def _first_line_not_utf8(path: Path) -> int:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} was not UTF-8 a moment ago")


def _frame(texts: Mapping[str, Sequence[str]], labels: Sequence[int]) -> pd.DataFrame:
    idx = np.arange(len(labels), dtype=np.int64)
    columns = {name: pd.array(list(column), dtype="str") for name, column in texts.items()}
    return pd.DataFrame({"idx": idx, **columns, "label": np.array(labels, dtype=np.int64)})


def save(data: GlueData, folder: Path) -> None:
    """Write `task.json` and a `{split}.parquet` per split into `folder`, which exists; same data, same bytes."""
    for split, frame in data.splits.items():
        frame.to_parquet(folder / f"{split}.parquet", index=False)
    write_json(folder / "task.json", data.task)


def load(folder: Path, splits: Sequence[str] | None = None) -> GlueData:
    """Read back what `save` wrote: all splits, or only those named.

    Raises:
        UserError: a file is missing, damaged or does not fit `task.json`.
    """
    task_file = folder / "task.json"
    task = read_json(task_file)
    try:
        sizes = dict(task["sizes"])
        needed = ["idx", *task["text_columns"], "label"]
    except (TypeError, KeyError, ValueError):
        raise UserError(
            f"{task_file}: is not a description of a data set; `dvc repro download_glue` makes it"
        ) from None
    frames = {}
    for split in sizes if splits is None else splits:
        path = folder / f"{split}.parquet"
        try:
            frame = pd.read_parquet(path)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; {task_file.name} has the splits {', '.join(sizes)}") from None
        except (OSError, ArrowException) as error:
            raise UserError(f"{path}: not readable as parquet: {one_line(error)}") from error
        if len(frame) != sizes.get(split) or not set(needed) <= set(frame.columns):
            raise UserError(
                f"{path}: {len(frame)} rows of {', '.join(frame.columns)}; by {task_file.name} expected"
                f" {sizes.get(split)} rows of {', '.join(needed)}"
            )
        frames[split] = frame
    return GlueData(task, frames)
