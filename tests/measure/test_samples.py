"""Labelled texts that somebody brings are those of the model, or refused in one line."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deebert.base.errors import UserError
from deebert.data.dataset import DataSet, Task
from deebert.measure import samples
from deebert.measure.samples import Columns, read_samples
from tests import tiny
from tests.data.tables.test_formats import write

ABOUT = {"label_names": list(tiny.LABEL_NAMES), "text_columns": ["sentence"], "metric": "macro_f1"}
PAIRS = ABOUT | {"text_columns": ["a", "b"]}
BY_NAME = Columns(None, None)
TASK = Task("tiny", tiny.LABEL_NAMES, ("sentence",), source="tests")


def save(folder: Path, task: Task, **columns: Any) -> Path:
    """A data set whose splits have 6 samples, 7, 8 and so on."""
    folder.mkdir()
    tables = {split: tiny.samples(6 + i, labels=3).assign(**columns) for i, split in enumerate(task.splits)}
    DataSet.of(task, tables).save(folder)
    return folder


def refused(path: Path, columns: Columns = BY_NAME, about: dict[str, Any] = ABOUT) -> str:
    with pytest.raises(UserError) as caught:
        read_samples(path, columns, about)
    return str(caught.value)


def test_a_data_set_is_what_the_pipeline_chooses_by(tmp_path: Path) -> None:
    """The first of its validation splits, by the first of its metrics; any other file beside them is one's own."""
    task = replace(TASK, metrics=("macro_f1", "accuracy"), validation_splits=("matched", "mismatched"))
    folder = save(tmp_path / "data", task)
    found = read_samples(folder, BY_NAME, ABOUT | {"metric": "accuracy"})
    expected = tiny.samples(7, labels=3)
    assert (found.name, found.metric, found.texts) == ("matched", "macro_f1", expected["sentence"].tolist())
    assert found.labels.tolist() == expected["label"].tolist()
    own = write(folder / "own.csv", {"sentence": ["w1", "w2"], "label": ["yes", "no"]})
    assert read_samples(own, BY_NAME, ABOUT).labels.tolist() == [1, 0]


def test_a_data_set_for_another_model_is_refused(tmp_path: Path) -> None:
    """Ids of classes in another order are others; and there must be something to read, and a label to judge by."""
    turned = save(tmp_path / "turned", replace(TASK, label_names=tiny.LABEL_NAMES[::-1]))
    pairs = save(tmp_path / "pairs", replace(TASK, text_columns=("sentence", "other")), other="w1")
    hidden = save(tmp_path / "hidden", TASK, label=-1)
    assert refused(turned) == f"{turned}: has the classes maybe, yes, no; expected the model's: no, yes, maybe"
    assert refused(pairs) == f"{pairs}: texts in sentence, other are not as many as the model reads"
    assert refused(hidden) == f"{hidden}: the labels of validation are hidden; expected labelled texts"
    split = hidden / "test.parquet"
    assert refused(split, Columns(None, "label")).startswith(f"--text, --pair, --label: {split} is of a data set")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_labels_of_a_file_are_names_or_ids(tmp_path: Path, ending: str) -> None:
    """In the column whose name is the most usual, in any case; spaces around names do not count; two rows will do."""
    columns = {"target": ["a", "b"], "sentence": ["w1", "w2"], " Label": ["2", " yes "]}
    found = read_samples(write(tmp_path / f"own{ending}", columns), BY_NAME, ABOUT)
    assert (found.texts, found.labels.tolist(), found.metric) == (["w1", "w2"], [2, 1], "macro_f1")
    assert found.labels.dtype == int


def test_where_numbers_are_names_there_are_no_ids(tmp_path: Path) -> None:
    """Or some labels would be read as names, and others as ids."""
    path = write(tmp_path / "own.csv", {"sentence": ["w1", "w2"], "label": ["1", "0"]})
    told = refused(path, about=ABOUT | {"label_names": ["1", "2", "3"]})
    assert told == f"{path}: line 3: column label: '0'; expected one of 1, 2, 3"


def test_pairs(tmp_path: Path) -> None:
    """In the order that the model reads them, however the file has them."""
    columns = {"label": ["no", "yes"], "b": ["w2", "w4"], "a": ["w1", "w3"]}
    found = read_samples(write(tmp_path / "own.csv", columns), BY_NAME, PAIRS)
    assert found.texts == [("w1", "w2"), ("w3", "w4")]


@pytest.mark.parametrize(
    ("trained", "asked", "taken"), [("Team", None, "Team"), ("team", None, "Team"), ("Team", "label", "label")]
)
def test_the_column_of_labels_is_the_one_of_training(
    tmp_path: Path, trained: str, asked: str | None, taken: str
) -> None:
    """Unless another is asked for, or it is not there."""
    columns = {"sentence": ["w1", "w2"], "label": ["no", "yes"], "Team": ["yes", "no"]}
    path = write(tmp_path / "own.csv", columns)
    found = read_samples(path, Columns(None, asked), ABOUT | {"label_column": trained})
    assert found.labels.tolist() == [tiny.LABEL_NAMES.index(name) for name in columns[taken]]


def test_the_column_that_is_missing_has_the_name_of_training(tmp_path: Path) -> None:
    path = write(tmp_path / "own.csv", {"sentence": ["w1"], "Klasse": ["no"]})
    told = refused(path, about=ABOUT | {"label_column": "Team"})
    assert told == f"{path}: has no column Team; found sentence, Klasse; name yours with --label"


def test_columns_that_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a jsonl file decide which columns it has, however many are read at a time."""
    monkeypatch.setattr(samples, "ROWS_AT_ONCE", 1)
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": 1}\n{"sentence": "w1", "label": "no"}\n{"label": "yes", "sentence": "w2"}\n')
    found = read_samples(path, BY_NAME, ABOUT)
    assert (found.texts, found.labels.tolist()) == (["w1", "w2"], [0, 1])


def test_a_name_of_any_bytes_can_be_kept(tmp_path: Path) -> None:
    """On Linux a file's name need not be UTF-8, and what is kept of it is."""
    path = write(tmp_path / "own.csv", {"sentence": ["w1", "w2"], "label": ["yes", "no"]})
    path = path.rename(tmp_path / os.fsdecode(b"lat\xe9.csv"))
    assert read_samples(path, BY_NAME, ABOUT).name.encode() == b"lat\\xe9.csv"


def test_what_a_model_has_answered_is_not_taken_for_the_truth(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that `predict` has written has its label beside the true one, or has no true one at all."""
    answers = {"label": ["yes", "yes"], "probability": [0.9, 0.8], "exit_layer": [1, 2]}
    path = write(tmp_path / "own.csv", {"sentence": ["w1", "w2"], "intent": ["no", "yes"]} | answers)
    with caplog.at_level("INFO"):
        assert read_samples(path, BY_NAME, ABOUT).labels.tolist() == [0, 1]
    assert f"{path}: label from column intent" in caplog.text
    assert read_samples(path, Columns(None, "label"), ABOUT).labels.tolist() == [1, 1]
    told = "label, probability, exit_layer are what `deebert predict` adds; expected the true label, named with --label"
    path = write(tmp_path / "own.csv", {"sentence": ["w1", "w2"]} | answers)
    assert refused(path) == f"{path}: {told}"
    assert refused(path, about=ABOUT | {"label_column": "label"}) == f"{path}: {told}"


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_rows_without_a_text_or_a_label_are_left_out(
    tmp_path: Path, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As the pipeline leaves them out; half a pair is none. It is told how many they are, and where the first is."""
    columns = {"a": ["w1", "w2", "w3", "w4"], "b": ["w1", " ", "w3", "w4"], "label": ["no", "yes", "", "yes"]}
    path = write(tmp_path / f"own{ending}", columns)
    found = read_samples(path, BY_NAME, PAIRS)
    assert (found.texts, found.labels.tolist()) == ([("w1", "w1"), ("w4", "w4")], [0, 1])
    line = 3 if ending == ".csv" else 2
    told = f"left out 2 rows of 4 whose text or label is empty, the first at {path}: line {line}"
    assert told in caplog.messages
    write(path, columns | {"label": [""] * 4})
    assert refused(path, about=PAIRS) == f"{path}: 0 labelled texts; expected two or more"


@pytest.mark.parametrize(
    ("names", "values", "expected"),
    [
        (("0", "1"), [1.0, 0.0, None], [1, 0]),  # a column of numbers with a gap is one of decimals
        (("no", "yes"), [1.0, 0.0, None], [1, 0]),
        (("false", "true"), [True, False, None], [1, 0]),
        (("007", "12"), ["12", " 007", ""], [1, 0]),
        (("-1", "+1"), ["1", "-1.0", ""], [1, 0]),
    ],
)
def test_labels_are_spelled_as_the_pipeline_reads_them(
    tmp_path: Path, names: tuple[str, ...], values: list[Any], expected: list[int]
) -> None:
    path = write(tmp_path / "own.parquet", {"sentence": ["w1", "w2", "w3"], "label": values})
    assert read_samples(path, BY_NAME, ABOUT | {"label_names": list(names)}).labels.tolist() == expected


def test_columns_of_a_data_sets_folder_are_known(tmp_path: Path) -> None:
    """Nobody may name others there."""
    folder = save(tmp_path / "data", TASK)
    assert refused(folder, Columns(None, "label")).startswith(f"--text, --pair, --label: {folder} is of a data set")


def test_a_model_that_tells_no_columns_reads_one_text(tmp_path: Path) -> None:
    """A data set of pairs is none for it."""
    about = {"label_names": ABOUT["label_names"]}
    assert read_samples(save(tmp_path / "one", TASK), BY_NAME, about).metric == "accuracy"
    pairs = save(tmp_path / "pairs", replace(TASK, text_columns=("sentence", "other")), other="w1")
    assert refused(pairs, about=about).endswith("are not as many as the model reads")


def test_where_one_class_is_named_by_a_number_no_number_is_an_id(tmp_path: Path) -> None:
    """Else a file's 1 could be either."""
    path = write(tmp_path / "own.csv", {"sentence": ["w1", "w2"], "label": ["1", "0"]})
    assert "'0'; expected one of 1, one" in refused(path, about=ABOUT | {"label_names": ["1", "one"]})
