"""A data set on disk: the same when made, saved and loaded, read once, and one clear line for whatever is wrong."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from deebert.base.errors import UserError
from deebert.data import dataset
from deebert.data.dataset import DataSet, Task, trained_on
from tests import tiny

TASK = Task(
    "tickets",
    ("low", "high", "urgent"),
    ("subject", "body"),
    ("f1", "accuracy"),
    validation_splits=("test_of_old", "later"),  # names tell nothing: the task does
    test_splits=("train_of_next_year",),
    source="tests",
    origin={"seed": 7, "checksums": {"a.csv": "00"}},
)
SIZES = dict(zip(TASK.splits, (12, 9, 7, 5), strict=True))


@pytest.fixture
def data() -> DataSet:
    """Pairs of texts, with a further column in one split."""
    tables = {}
    for seed, (split, size) in enumerate(SIZES.items()):
        table = tiny.samples(size, seed, labels=3)
        tables[split] = table.rename(columns={"sentence": "subject"}).assign(body=table["sentence"])
    tables["later"]["difficulty"] = 3
    return DataSet.of(TASK, tables, {"train": 2})


@pytest.fixture
def saved(data: DataSet, tmp_path: Path) -> Path:
    """The folder where `data` is saved."""
    folder = tmp_path / "saved"
    folder.mkdir()
    data.save(folder)
    return folder


def test_saved_data_come_back(saved: Path, data: DataSet) -> None:
    """Task, sizes and tables are those that were saved, further columns included."""
    loaded = DataSet.load(saved)
    assert loaded.task == data.task == TASK
    assert loaded.sizes == data.sizes == SIZES
    assert loaded.left_out == data.left_out == {**dict.fromkeys(SIZES, 0), "train": 2}
    for split in TASK.splits:
        pd.testing.assert_frame_equal(loaded[split], data[split])


def test_the_task_tells_the_validation_split(saved: Path, data: DataSet) -> None:
    """`validation` is the table of the first split that the task names so, whatever its name begins with."""
    assert data.validation is data["test_of_old"]
    pd.testing.assert_frame_equal(DataSet.load(saved).validation, data["test_of_old"])


def test_saving_again_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    """Data that were loaded make the very same files when they are saved again."""
    again = tmp_path / "again"
    again.mkdir()
    DataSet.load(saved).save(again)
    assert sorted(path.name for path in again.iterdir()) == sorted(path.name for path in saved.iterdir())
    for path in saved.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_task_json_keeps_its_keys(saved: Path) -> None:
    """Other programs read the file: its keys, their order and what stands there."""
    content = json.loads((saved / "task.json").read_text())
    assert list(content.items()) == [
        ("task", "tickets"),
        ("label_names", ["low", "high", "urgent"]),
        ("text_columns", ["subject", "body"]),
        ("metrics", ["f1", "accuracy"]),
        ("validation_splits", ["test_of_old", "later"]),
        ("test_splits", ["train_of_next_year"]),
        ("source", "tests"),
        ("seed", 7),
        ("checksums", {"a.csv": "00"}),
        ("sizes", SIZES),
        ("left_out", {**dict.fromkeys(SIZES, 0), "train": 2}),
    ]


def test_each_file_is_read_once_and_only_when_needed(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` reads task.json alone, and a table is read when it is first asked for."""
    reads: Counter[str] = Counter()

    def counted(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        return lambda path: (reads.update([path.name]), read(path))[1]

    monkeypatch.setattr(dataset, "read_json", counted(dataset.read_json))
    monkeypatch.setattr(dataset.pd, "read_parquet", counted(pd.read_parquet))
    loaded = DataSet.load(saved)
    assert reads == {"task.json": 1}
    for _ in range(2):
        assert loaded.validation is loaded["test_of_old"]
        assert len(loaded["train"]) == loaded.sizes["train"]
    assert reads == {"task.json": 1, "test_of_old.parquet": 1, "train.parquet": 1}


def test_what_a_model_keeps_of_its_task() -> None:
    """The task's name, its text columns and the main metric, as JSON holds them."""
    kept = {"task": "tickets", "text_columns": ["subject", "body"], "metric": "f1"}
    assert trained_on(TASK) == kept == json.loads(json.dumps(trained_on(TASK)))


def test_a_model_keeps_what_its_columns_were_called() -> None:
    """Where the files had other names for them; the label's apart, which the model does not read."""
    own = dataclasses.replace(TASK, origin={"columns": {"subject": "Betreff", "body": "Text", "label": "Team"}})
    assert trained_on(own) == trained_on(TASK) | {"columns": ["Betreff", "Text"], "label_column": "Team"}


def remove(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def write(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(content)


def halve(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:-100])


def change_task(**changes: Any) -> Callable[[Path], object]:
    """Other values in task.json; None takes a key out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "task.json").read_text()) | changes
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / "task.json").write_text(json.dumps(kept))

    return change


def change_table(split: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], object]:
    path = f"{split}.parquet"
    return lambda folder: change(pd.read_parquet(folder / path)).to_parquet(folder / path)


BAD_SAVED = {
    "no task.json": (remove("task.json"), ["task.json", "no such file"]),
    "half a task.json": (halve("task.json"), ["task.json", "not readable"]),
    "another task.json": (write("task.json", b"[1]"), ["task.json", "not a description"]),
    "a key less": (change_task(label_names=None), ["task.json", "not a description"]),
    "a name for a list of names": (change_task(text_columns="subject"), ["task.json", "not a description"]),
    "no metric": (change_task(metrics=[]), ["task.json", "not a description"]),
    "numbers for names": (change_task(label_names=[0, 1]), ["task.json", "not a description"]),
    "no sizes": (change_task(sizes=3), ["task.json", "not a description"]),
    "no parquet": (remove("later.parquet"), ["later.parquet", "no such file", ", ".join(SIZES)]),
    "half a parquet": (halve("train.parquet"), ["train.parquet", "not readable as parquet"]),
    "no parquet at heart": (write("train.parquet", b"index\tlabel\n"), ["train.parquet", "not readable as parquet"]),
    "fewer rows": (change_table("later", lambda table: table.head(3)), ["later.parquet", "3 rows", "7 rows"]),
    "a column less": (
        change_table("later", lambda table: table.drop(columns="label")),
        ["later.parquet", "idx, subject, body, label"],
    ),
}


@pytest.mark.parametrize(("spoil", "told"), BAD_SAVED.values(), ids=BAD_SAVED)
def test_damaged_data_are_told_in_one_line(saved: Path, spoil: Callable[[Path], object], told: list[str]) -> None:
    """Whatever was lost or damaged since `save`: the file is named in one line, at the latest when it is asked for."""
    spoil(saved)
    with pytest.raises(UserError) as caught:
        loaded = DataSet.load(saved)
        for split in SIZES:
            loaded[split]
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in told if part not in message] == [], message


def test_a_split_that_there_is_not_is_told(saved: Path) -> None:
    """Asking for it names the file and the splits that there are; the other splits can be read."""
    loaded = DataSet.load(saved)
    with pytest.raises(UserError, match=r"dev\.parquet: no such file; task\.json has the splits train, test_of_old, "):
        loaded["dev"]
    assert len(loaded["train"]) == SIZES["train"]
