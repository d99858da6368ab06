"""A data set as all stages read it: its task, and one table of samples for each split.

It lies in a folder as `task.json` and one `{split}.parquet` per split.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pyarrow import ArrowException

from deebert.base.errors import UserError, one_line
from deebert.base.files import read_json, write_json

TASK_FILE = "task.json"


@dataclass(frozen=True)
class Task:
    """A classification task.

    Attributes:
        name: such as RTE or toy.
        label_names: the C classes in the order of their ids.
        text_columns: the column of the text, or the two of a pair.
        metrics: keys of `scores.METRICS`, the main one first.
        validation_splits: the first is the one that trainings are scored on.
        test_splits: their labels may be hidden.
        source: the kind of source that the samples came from, empty while there are none. Where a folder lies is not
            said, so that equal files give equal bytes anywhere.
        origin: which state of the source it was, such as its `revision`, `checksums` or `seed`.
    """

    name: str
    label_names: tuple[str, ...]
    text_columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    validation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    source: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", *self.validation_splits, *self.test_splits)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A task and its samples; `data["train"]` is the table of a split.

    A table has the columns `idx` (int64, a row's place in its split), the task's text columns (str) and `label`
    (int64, -1 where it is hidden), and whatever else a source adds.

    Attributes:
        sizes: how many rows each split has.
        left_out: how many rows of each split were too broken to read.
        read: gives the table of a split, the same one whenever it is asked.
    """

    task: Task
    sizes: Mapping[str, int]
    left_out: Mapping[str, int]
    read: Callable[[str], pd.DataFrame]

    @classmethod
    def of(cls, task: Task, tables: Mapping[str, pd.DataFrame], left_out: Mapping[str, int] | None = None) -> "DataSet":
        """A data set in memory. Splits that are not named in `left_out` have lost no row."""
        sizes = {split: len(table) for split, table in tables.items()}
        return cls(task, sizes, {split: (left_out or {}).get(split, 0) for split in tables}, tables.__getitem__)

    @classmethod
    def load(cls, folder: Path) -> "DataSet":
        """What `save` wrote. The table of a split is read when it is asked for, and once.

        Raises:
            UserError: `task.json` is missing or damaged; when a split is asked for: its file is missing, damaged or
                does not fit `task.json`.
        """
        path = folder / TASK_FILE
        content = read_json(path)
        try:
            task = _task(content)
            sizes, left_out = dict(content["sizes"]), dict(content["left_out"])
        except (TypeError, KeyError, ValueError):
            raise UserError(f"{path}: is not a description of a data set; `dvc repro download_glue` makes it") from None
        return cls(task, sizes, left_out, functools.cache(functools.partial(_read, folder, task, sizes)))

    def __getitem__(self, split: str) -> pd.DataFrame:
        return self.read(split)

    @property
    def validation(self) -> pd.DataFrame:
        """The table of the first validation split."""
        return self[self.task.validation_splits[0]]

    def save(self, folder: Path) -> None:
        """Write the files into `folder`, which exists; the same data give the same bytes."""
        for split in self.sizes:
            self[split].to_parquet(folder / f"{split}.parquet", index=False)
        write_json(folder / TASK_FILE, _described(self))


def trained_on(task: Task) -> dict[str, Any]:
    """What a model's `training.json` tells of the task that it was trained on.

    Of data of one's own `columns` has the names that `text_columns` had in its files, and `label_column` the label's.
    """
    about = {"task": task.name, "text_columns": list(task.text_columns), "metric": task.metrics[0]}
    named = task.origin.get("columns")
    if not named:
        return about
    return about | {"columns": [named[column] for column in task.text_columns], "label_column": named["label"]}


_LISTS = ("label_names", "text_columns", "metrics", "validation_splits", "test_splits")


def _described(data: DataSet) -> dict[str, Any]:
    """The content of `task.json`: what a stage or a reader must know of the data without opening it."""
    task = data.task
    return {
        "task": task.name,
        **{name: list(getattr(task, name)) for name in _LISTS},
        "source": task.source,
        **task.origin,
        "sizes": dict(data.sizes),
        "left_out": dict(data.left_out),
    }


def _task(content: Mapping[str, Any]) -> Task:
    """The task that `_described` told of; a TypeError, KeyError or ValueError where it did not."""
    lists = {name: _strings(content[name], may_be_empty=name == "test_splits") for name in _LISTS}
    origin = {key: content[key] for key in content if key not in ("task", *_LISTS, "source", "sizes", "left_out")}
    return Task(str(content["task"]), **lists, source=str(content["source"]), origin=origin)


def _strings(values: Any, *, may_be_empty: bool) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    if not values and not may_be_empty:
        raise ValueError
    return tuple(values)


def _read(folder: Path, task: Task, sizes: Mapping[str, int], split: str) -> pd.DataFrame:
    path = folder / f"{split}.parquet"
    needed: Sequence[str] = ("idx", *task.text_columns, "label")
    try:
        table = pd.read_parquet(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {TASK_FILE} has the splits {', '.join(sizes)}") from None
    except (OSError, ArrowException) as error:
        raise UserError(f"{path}: not readable as parquet: {one_line(error)}") from error
    if len(table) != sizes.get(split) or not set(needed) <= set(table.columns):
        raise UserError(
            f"{path}: {len(table)} rows of {', '.join(table.columns)}; by {TASK_FILE} expected"
            f" {sizes.get(split)} rows of {', '.join(needed)}"
        )
    return table
