"""A person's own data: the same samples from every kind of file, one rule for labels, and whatever is odd is told."""

import csv
import io
import json
import logging
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.data.dataset import DataSet
from deebert.data.sources import own, table
from deebert.data.sources.own_files import Rows
from deebert.data.sources.own_labels import label_names, read_labels
from deebert.settings.download_glue import Columns, DownloadGlue
from tests.hub import Repo, serve

ROOT = Path(__file__).parents[3]
Table = Mapping[str, Sequence[Any]]
ODD_TEXTS = [
    'a, "b"',
    "two\nlines",
    "carriage\rreturn",
    "tab\there",
    " NA ",
    "null",
    "日本 🎬",
    "line\u2028separator",
    '"',
]
TRAIN: Table = {"text": [f"text {i}" for i in range(20)], "label": ["yes", "no"] * 10}


def wanted(**changed: Any) -> DownloadGlue:
    columns = Columns(*(changed.pop(key, None) for key in ("text", "pair", "label")))
    rest = {"labels": None, "metric": None, "validation_frac": 0.1, "split_seed": 0} | changed
    return DownloadGlue("hub", 0, columns, **rest)


def write(path: Path, content: Table) -> Path:
    """Write a table as the ending of `path` says."""
    rows = list(zip(*content.values(), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pa.table({name: list(values) for name, values in content.items()}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(content, row, strict=True))) + "\n" for row in rows))
    else:
        stream = io.StringIO()
        csv.writer(stream, delimiter="," if path.suffix == ".csv" else "\t").writerows([list(content), *rows])
        path.write_bytes(stream.getvalue().encode())
    return path


def folder(path: Path, ending: str = ".csv", **splits: Table) -> str:
    for split, content in splits.items():
        write(path / f"{split}{ending}", content)
    return str(path)


def load(dataset: str, **changed: Any) -> DataSet:
    return own.load(dataset, wanted(**changed))


def error(dataset: str, **changed: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(dataset, **changed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_samples(tmp_path: Path, ending: str) -> None:
    """Quotes, line breaks, tabs and words such as NA come back as they are, with the ids of their classes."""
    train = {"text": ODD_TEXTS, "label": ["b", "a", "c"] * 3}
    data = load(folder(tmp_path / "mine", ending, train=train, dev=train, test={"text": ["x"], "label": ["c"]}))
    (tmp_path / "out").mkdir()
    data.save(tmp_path / "out")
    for found in (data, DataSet.load(tmp_path / "out")):
        assert (found.task.name, found.task.label_names, found.task.text_columns) == (
            "mine",
            ("a", "b", "c"),
            ("text",),
        )
        assert (found.task.metrics, found.task.splits) == (("accuracy",), ("train", "validation", "test"))
        for split in ("train", "validation"):
            assert found[split]["text"].tolist() == ODD_TEXTS
            assert found[split]["label"].tolist() == [1, 0, 2] * 3
            assert found[split]["idx"].tolist() == list(range(9))
        assert found["test"]["label"].tolist() == [2]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8")).filter(str.strip), min_size=2))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """Whatever characters a text has, csv, tsv, jsonl and parquet bring it back."""
    path = tmp_path_factory.mktemp("any")
    labels = [str(i % 2) for i in range(len(texts))]
    for ending in (".csv", ".tsv", ".jsonl", ".parquet"):
        content = {"text": texts, "label": labels}
        assert load(folder(path / ending[1:], ending, train=content, dev=content))["train"]["text"].tolist() == texts


@pytest.mark.parametrize(
    "rewrite",
    [
        lambda content: content.replace(b"\r\n", b"\n"),
        lambda content: content.replace(b"\r\n", b"\r"),
        lambda content: b"\xef\xbb\xbf" + content,
        lambda content: content.removesuffix(b"\r\n"),
        lambda content: content.replace(b"\r\n", b"\r\n\r\n"),
    ],
    ids=["lf", "cr", "byte order mark", "no final line end", "blank lines"],
)
def test_how_a_file_was_saved_does_not_matter(tmp_path: Path, rewrite: Any) -> None:
    """Line ends, a byte order mark and blank lines change no sample."""
    path = write(tmp_path / "mine.csv", TRAIN)
    before = load(str(path))
    path.write_bytes(rewrite(path.read_bytes()))
    after = load(str(path))
    for split in before.task.splits:
        pd.testing.assert_frame_equal(before[split], after[split])


@pytest.mark.parametrize(
    ("names", "texts", "label"),
    [
        (["Text", "LABEL"], ["Text"], "LABEL"),
        (["id", "sentence", "category"], ["sentence"], "category"),
        (["sentence1", "sentence2", "class"], ["sentence1", "sentence2"], "class"),
        (["premise", "hypothesis", "target"], ["premise", "hypothesis"], "target"),
        (["question", "answer", "labels"], ["question", "answer"], "labels"),
        (["question", "sentence", "intent"], ["question", "sentence"], "intent"),
        (["sentence", "text", "class", "label"], ["text"], "label"),
    ],
)
def test_usual_columns_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], texts: list[str], label: str
) -> None:
    """Text, pair and label are known by their names in whatever case; what was taken is told and written down."""
    caplog.set_level(logging.INFO)
    content = {name: [f"{name} {row}" for row in range(6)] for name in names} | {label: ["a", "b"] * 3}
    data = load(str(write(tmp_path / "mine.csv", content)))
    columns = ["text", "pair"][: len(texts)]
    assert data.task.text_columns == tuple(columns)
    assert data.task.origin["columns"] == dict(zip([*columns, "label"], [*texts, label], strict=True))
    train = data["train"]
    assert all(train[column].str.startswith(name).all() for column, name in zip(columns, texts, strict=True))
    assert f"text from column {' and '.join(texts)}, label from column {label}" in caplog.text


def test_a_table_with_semicolons(tmp_path: Path) -> None:
    """It is one of one column, and the message says why that may be."""
    path = tmp_path / "own.csv"
    path.write_text("text;label\na;x\nb;y\n")
    assert error(str(path)).endswith("; 'text;label' may be several columns with a semicolon between them")


def test_columns_that_are_named_are_taken(tmp_path: Path) -> None:
    """A name in the parameters goes before the usual ones, exactly as written; `label` and `idx` may hold texts."""
    content = {"label": ["l1", "l2", "l3", "l4"], "idx": ["i1", "i2", "i3", "i4"], "kind": ["a", "b", "a", "b"]}
    path = folder(tmp_path, train=content, dev=content)
    data = load(path, text="label", pair="idx", label="kind")
    assert data["train"].to_dict("list") == {
        "idx": [0, 1, 2, 3],
        "text": content["label"],
        "pair": content["idx"],
        "label": [0, 1, 0, 1],
    }
    assert "has no column Kind; found label, idx, kind" in error(path, text="label", label="Kind")
    assert "columns.pair: 'idx' without a text" in error(path, pair="idx")
    assert "expected different columns" in error(path, text="kind", label="kind")


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (["10", "9", "-1", "9"], ("-1", "9", "10")),
        ([10, 9, -1, 9], ("-1", "9", "10")),
        ([10.0, 9.0, -1.0, 9.0], ("-1", "9", "10")),
        (["1.0", "+2", "3", "3.0"], ("1", "2", "3")),
        (["010", "10", "7", "007"], ("007", "010", "10", "7")),  # codes are words
        (["b", "B", " a ", "b"], ("B", "a", "b")),
        ([True, False, True, False], ("false", "true")),
        (["None", "NA", "nan", "null"], ("NA", "None", "nan", "null")),
    ],
)
def test_ids_follow_a_rule(tmp_path: Path, found: list[Any], names: tuple[str, ...]) -> None:
    """Numbers in numeric order, words in alphabetical order, whatever order the rows have."""
    for ending in (".csv", ".jsonl", ".parquet"):
        content = {"text": ["t1", "t2", "t3", "t4"], "label": [str(x) for x in found] if ending == ".csv" else found}
        if isinstance(found[0], bool) and ending == ".csv":
            continue  # a csv has words only
        assert load(folder(tmp_path / ending[1:], ending, train=content, dev=content)).task.label_names == names


def test_class_names_are_spelled_as_labels_are() -> None:
    """Those that come with a column of classes, too: 1.0 is 1 there, and spaces around a name do not count."""
    rows = Rows("train", {"y": [0, 1]}, "row", [1, 2], {"y": ["2.0", " 1"]})
    assert label_names(rows, "y", read_labels(rows, "y"), None) == ("2", "1")


def test_labels_in_the_order_that_is_listed(tmp_path: Path) -> None:
    """`labels` decides the ids, also of words and numbers mixed; they must be the classes of train, all of them."""
    path = str(write(tmp_path / "mine.csv", TRAIN))
    data = load(path, labels=("yes", "no"))
    assert data.task.label_names == ("yes", "no")
    assert (data["train"]["label"] == data["train"]["text"].str[5:].astype(int) % 2).all()
    assert "'no' is not in download_glue.labels" in error(path, labels=("yes", "maybe"))
    assert "'maybe' is in download_glue.labels, and in no row" in error(path, labels=("yes", "no", "maybe"))
    codes = write(tmp_path / "codes.csv", {"text": TRAIN["text"], "label": ["010", "007"] * 10})
    assert load(str(codes), labels=("010", "007")).task.label_names == ("010", "007")
    assert error(str(codes), labels=("8", "7")).endswith("; codes need quotes, as '007', or YAML reads numbers")
    numbers = write(tmp_path / "numbers.csv", {"text": TRAIN["text"], "label": ["1", "2"] * 10})
    assert "download_glue.labels: names '1' twice" in error(str(numbers), labels=("1", "1.0", "2"))
    mixed = write(tmp_path / "mixed.csv", {"text": TRAIN["text"], "label": ["1", "one"] * 10})
    assert "mixes numbers and words (1 and one)" in error(str(mixed))
    assert load(str(mixed), labels=("one", "1")).task.label_names == ("one", "1")


def test_metric(tmp_path: Path) -> None:
    """The metric asked for is the first; f1 takes two classes only."""
    two = str(write(tmp_path / "two.csv", TRAIN))
    three = str(write(tmp_path / "three.csv", {"text": TRAIN["text"], "label": [*"abc" * 6, "a", "b"]}))
    assert load(two, metric="f1").task.metrics == ("f1", "accuracy")
    assert load(three, metric="accuracy").task.metrics == ("accuracy",)
    assert load(three, metric="macro_f1").task.metrics == ("macro_f1", "accuracy")
    assert "download_glue.metric: 'f1' is not allowed with 3 classes" in error(three, metric="f1")


def test_validation_is_drawn_from_train_where_there_is_none(tmp_path: Path) -> None:
    """Of each class alike, without an overlap, each sample in one split; the seed decides, and test stays as it is."""
    labels = ["a"] * 100 + ["b"] * 40 + ["c"] * 2 + ["d"]
    content = {"text": [f"text {i // 2 if i < 20 else i}" for i in range(143)], "label": labels}
    path = folder(tmp_path, train=content, test={"text": ["text 0"], "label": ["d"]})
    data = load(path)
    assert list(data.sizes) == ["train", "validation", "test"]
    train, validation = data["train"], data["validation"]
    assert sorted([*train["text"], *validation["text"]]) == sorted(content["text"])
    assert not set(train["text"]) & set(validation["text"])
    assert Counter(validation["label"])[1] == 4 and 8 <= Counter(validation["label"])[0] <= 12
    assert 12 <= len(validation) <= 16
    assert set(train["label"]) == {0, 1, 2, 3}
    assert (data.task.origin["validation_frac"], data.task.origin["split_seed"]) == (0.1, 0)
    pd.testing.assert_frame_equal(load(path)["validation"], validation)
    assert load(path, split_seed=1)["validation"]["text"].tolist() != validation["text"].tolist()
    assert load(path, validation_frac=0.5).sizes["validation"] > 60
    assert "validation_frac: 0.001" in error(path, validation_frac=0.001)


def test_validation_of_many_small_classes(tmp_path: Path) -> None:
    """Where a class has too few samples for a share of its own, some classes give one, and together they are right."""
    content = {"text": [f"text {i}" for i in range(200)], "label": [f"class {i % 50}" for i in range(200)]}
    data = load(str(write(tmp_path / "mine.csv", content)))
    assert data.sizes == {"train": 180, "validation": 20}
    assert max(Counter(data["validation"]["label"]).values()) == 1


def test_a_text_with_two_labels_stays_in_train(tmp_path: Path) -> None:
    """A class that has no other texts is never lost to validation."""
    content = {"text": ["same"] * 20 + [f"text {i}" for i in range(20)], "label": ["a", "b"] * 10 + ["a"] * 20}
    data = load(str(write(tmp_path / "mine.csv", content)), validation_frac=0.5)
    assert "same" not in set(data["validation"]["text"]) and set(data["train"]["label"]) == {0, 1}


def test_what_is_odd_is_counted_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Empty rows, repeats, texts in two splits, missing classes and the balance: in the log, and in task.json."""
    caplog.set_level(logging.INFO)
    train = {
        "text": ["x", "x", "x", "y", "", "z", " \t", "w"],
        "label": ["a", "a", "b", "b", "a", "", "c", "c"],
    }
    path = folder(
        tmp_path / "mine", train=train, valid={"text": ["x", "new"], "label": ["a", "b"]}, test={"text": ["y"]}
    )
    data = load(path)
    (tmp_path / "out").mkdir()
    data.save(tmp_path / "out")
    told = read_json(tmp_path / "out" / "task.json")
    assert told["left_out"] == {"train": 3, "validation": 0, "test": 0}
    assert told["sizes"] == {"train": 5, "validation": 2, "test": 1}
    assert told["counts"] == {
        "smallest_class": {"label": "c", "samples": 1},
        "largest_class": {"label": "a", "samples": 2},
        "duplicates_in_train": 2,
        "duplicates_with_another_label": 1,
        "texts_also_in_train": {"validation": 1, "test": 1},
        "classes_without_samples": {"validation": ["c"]},
    }
    assert set(told["checksums"]) == {"train.csv", "valid.csv", "test.csv"} and str(tmp_path) not in json.dumps(told)
    for line in (
        "left out 3 rows of 8 whose text or label is empty, the first at line 6",
        "train: 2 samples repeat the text of an earlier one, 1 of them with another label; all are kept",
        "validation: 1 of 2 texts stand in train as well",
        "validation: has no sample of 1 classes: c",
        "train: 5 samples of 3 classes, from 1 of c to 2 of a",
    ):
        assert line in caplog.text


@pytest.mark.parametrize(
    "test",
    [
        {"text": ["t", "u"]},
        {"text": ["t", "u"], "label": ["", ""]},
        {"text": ["t", "u"], "label": ["-1", "-1"]},
    ],
    ids=["no column", "empty", "-1"],
)
def test_labels_of_the_test_split_may_be_hidden(tmp_path: Path, test: Table) -> None:
    """Without labels a test split is kept, as GLUE's."""
    assert load(folder(tmp_path, train=TRAIN, test=test))["test"]["label"].tolist() == [-1, -1]


def twice() -> bytes:
    """A parquet file with two columns of one name."""
    written = io.BytesIO()
    parquet.write_table(pa.table([["a", "b"], ["x", "y"], ["x", "y"]], names=["text", "label", "label"]), written)
    return written.getvalue()


LABELLED = b"text,label\na,x\nb,y\n"


def latin_parquet() -> bytes:
    """A table whose text says that it is UTF-8, and is not."""
    raw = pa.array([b"caf\xe9", b"b"], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": text, "label": ["x", "y"]}), buffer)
    return buffer.getvalue()


BAD_FILES: dict[str, tuple[str, bytes, list[str]]] = {
    "empty": ("train.csv", b"", ["train.csv: has no rows; it is empty"]),
    "header only": ("train.csv", b"text,label\n", ["train.csv: has no rows"]),
    "no text column": (
        "train.csv",
        b"utterance,label\na,x\n",
        ["no column for the text; found utterance, label", "text, or sentence1 and sentence2, or premise"],
    ),
    "no label column": (
        "train.csv",
        b"text,y\na,x\n",
        ["no column for the label; found text, y", "columns.label", "intent"],
    ),
    "commas in a tsv": ("train.tsv", b"text,label\na\tb,x\n", ["one column, with a comma in it", "a tab between them"]),
    "another delimiter": ("train.csv", b"text;label\na;x\n", ["no column for the text; found text;label"]),
    "a column twice": ("train.csv", b"text,label,label\na,x,y\n", ["has the column label twice"]),
    "a parquet column twice": ("train.parquet", twice(), ["has the column label twice"]),
    "too few fields": ("train.csv", LABELLED + b"c\n", ["train.csv: line 4: 1 fields; expected 2", "double quotes"]),
    "a comma unquoted": ("train.csv", LABELLED + b"c, d,x\n", ["train.csv: line 4: 3 fields; expected 2"]),
    "a quote left open": ("train.csv", LABELLED + b'"c,x\nd,y\n', ["train.csv: line 4", "double quote"]),
    "one class": ("train.csv", b"text,label\na,x\nb,x\n", ["column label: has one class only (x)", "two or more"]),
    "mixed labels": ("train.csv", LABELLED + b"c,1\n", ["mixes numbers and words (1 and x)", "download_glue.labels"]),
    "a decimal": ("train.csv", b"text,label\na,1\nb,2.5\n", ["line 3", "'2.5' is no class", "a whole number"]),
    "nothing but empty rows": ("train.csv", b"text,label\n,x\na,\n", ["no row with a text and a label"]),
    "latin-1": ("train.csv", LABELLED + b"\xe9,x\n", ["train.csv: line 4: not UTF-8"]),
    "binary": ("train.csv", b"text,label\n\0\0,x\n", ["train.csv: line 2: has a zero byte", "no text"]),
    "unknown ending": ("train.txt", LABELLED, ["train.txt: unknown ending .txt", ".csv, .tsv, .jsonl or .parquet"]),
    "no train": ("dev.csv", LABELLED, ["has no train file", "found dev.csv"]),
    "no JSON": ("train.jsonl", b'{"text": "a", "label": "x"}\n{"text\n', ["line 2: not readable as JSON"]),
    "no object": ("train.jsonl", b'["a", "x"]\n', ["line 1: expected an object"]),
    "a text that is none": ("train.jsonl", b'{"text": 1, "label": "x"}\n', ["line 1", "'1' is int; expected a text"]),
    "a label with half a character": ("train.jsonl", b'{"text": "a", "label": "\\ud800"}\n', ["line 1", "half of a"]),
    "half a character": ("train.jsonl", b'{"text": "\\ud800", "label": "x"}\n', ["line 1", "half of a character"]),
    "a label that is none": ("train.jsonl", b'{"text": "a", "label": ["x"]}\n', ["line 1", "is no class"]),
    "a float": ("train.jsonl", b'{"text": "a", "label": 1e-9}\n', ["line 1", "'1e-09' is no class"]),
    "latin-1 in parquet": ("train.parquet", latin_parquet(), ["train.parquet: column text: is not UTF-8"]),
    "no parquet": ("train.parquet", LABELLED, ["train.parquet: not readable as parquet"]),
}


@pytest.mark.parametrize(("name", "content", "told"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_told_in_one_line(tmp_path: Path, name: str, content: bytes, told: list[str]) -> None:
    """The line names the file, the place in it and what is allowed."""
    (tmp_path / name).write_bytes(content)
    message = error(str(tmp_path))
    assert [part for part in told if part not in message] == [], message


def test_splits_that_do_not_fit_train(tmp_path: Path) -> None:
    """A class or a column that another split has otherwise, two files of one split, and no place at all are told."""
    path = folder(tmp_path / "a", train=TRAIN, dev={"text": ["t"], "label": ["maybe"]})
    assert "dev.csv: line 2: label 'maybe' is in validation and not in train; expected no, yes" in error(path)
    path = folder(tmp_path / "b", train=TRAIN, dev={"text": ["t"]})
    assert "dev.csv: has no column label; found text" in error(path)
    (tmp_path / "b" / "dev.csv").unlink()
    for name in ("train.log", "test.py"):
        (tmp_path / "b" / name).write_text("no data")
    assert "test.py: unknown ending .py" in error(path)
    (tmp_path / "b" / "test.py").unlink()
    assert load(path).sizes["train"] == 18  # train.log is beside train.csv
    for name in ("dev.sh", "val.log"):
        (tmp_path / "b" / name).write_text("no data")
    assert "dev.sh: unknown ending .sh" in error(path)
    path = folder(tmp_path / "c", train=TRAIN, dev=TRAIN, valid=TRAIN)
    assert "has dev.csv and valid.csv; expected one file of the split validation" in error(path)
    assert "nowhere: no such folder or file" in error(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("name", ["Label", " label", "intent"])
def test_labels_of_test_are_not_lost_under_another_name(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A column that may be theirs is told; without one they are hidden, which is said."""
    test = {"text": ["t1", "t2"], name: ["yes", "no"]}
    path = folder(tmp_path / "a", train=TRAIN, test=test)
    told = f"test.csv: has no column label; found text, {name}; {name} may be it: expected one name in all files"
    assert error(path).endswith(told)
    load(folder(tmp_path / "b", train=TRAIN | {name: ["x"] * 20}, test=test), label="label")  # it is something else
    caplog.clear()
    with caplog.at_level(logging.INFO):
        data = load(folder(tmp_path / "c", train=TRAIN, test={"text": ["t1", "t2"], "id": [1, 2]}))
    assert data["test"]["label"].tolist() == [-1, -1]
    assert any("test.csv: has no column label, so its labels count as hidden" in each for each in caplog.messages)


@pytest.mark.parametrize("name", ["train", "dev", "test"])
def test_a_link_to_nothing_is_no_missing_split(tmp_path: Path, name: str) -> None:
    path = Path(folder(tmp_path / "own", train=TRAIN, dev=TRAIN, test=TRAIN))
    (path / f"{name}.csv").rename(tmp_path / "elsewhere.csv")
    (path / f"{name}.csv").symlink_to(tmp_path / "elsewhere.csv")
    assert load(str(path))["train"]["text"].tolist() == TRAIN["text"]
    (tmp_path / "elsewhere.csv").unlink()
    assert error(str(path)).endswith(f"{name}.csv: is a link to a file that is not there")


@pytest.mark.parametrize(
    ("key", "changed"),
    [("columns.text", {"text": "x"}), ("labels", {"labels": ("a", "b")}), ("metric", {"metric": "f1"})],
)
@pytest.mark.parametrize("dataset", ["toy", "RTE"])
def test_a_known_task_has_its_own(dataset: str, key: str, changed: dict[str, Any]) -> None:
    """What a task defines cannot be set for it: the line says so, and nothing is ignored."""
    with pytest.raises(UserError, match=rf"download_glue\.{key}: .* is not allowed, for {dataset} has its own"):
        table.fetch(dataset, wanted(**changed))


REVISION = "a" * 40


def hub_repo() -> Repo:
    """A data set of the Hub; its classes are in no alphabetical order, one has no row, and some rows have no class."""
    features = Features({"text": Value("string"), "intent": ClassLabel(names=["z", "a", "unused", "m"])})
    rows = {"text": [f"text {i}" for i in range(32)], "intent": [0, 1, 3] * 10 + [-1, -1]}
    files = {}
    splits = {"train": rows, "test": {"text": ["new"], "intent": [3]}, "extra": {"text": ["more"], "intent": [0]}}
    for split, content in splits.items():
        buffer = io.BytesIO()
        Dataset.from_dict(content, features=features).to_parquet(buffer)
        files[f"plain/{split}-00000-of-00001.parquet"] = buffer.getvalue()
    card = "---\nconfigs:\n- config_name: plain\n  data_files:\n" + "".join(
        f"  - split: {split}\n    path: plain/{split}-*\n" for split in splits
    )
    return Repo("datasets", "someone/intents", REVISION, {"README.md": f"{card}---\n".encode(), **files})


def test_a_data_set_of_the_hub(tmp_path: Path) -> None:
    """Classes keep the Hub's order, those without a row are no classes; another revision is one line that names it."""
    code = f"""
import logging
from pathlib import Path
from deebert.base.errors import UserError
from deebert.data.sources import own
from deebert.settings.download_glue import Columns, DownloadGlue
settings = DownloadGlue("hub", 0, Columns(None, None, None), None, None, 0.1, 0)
out = Path({str(tmp_path / "out")!r})
out.mkdir()
logging.basicConfig(level=logging.INFO)
own.load("hub:someone/intents@{REVISION}:plain", settings).save(out)
try:
    own.load("hub:someone/intents@{"b" * 40}", settings)
except UserError as error:
    print(error)
"""
    with serve(hub_repo()) as server:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")} | {
            "HF_HOME": str(tmp_path),
            "HF_ENDPOINT": server.endpoint,
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(ROOT / "src"),
        }
        process = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
        )
    assert process.returncode == 0, process.stderr
    data = DataSet.load(tmp_path / "out")
    assert (data.task.name, data.task.source) == ("someone/intents", "hub")
    assert data.task.label_names == ("z", "a", "m")
    assert (data.task.origin["repository"], data.task.origin["revision"]) == ("someone/intents", REVISION)
    assert "someone/intents: not read: extra" in process.stderr
    assert read_json(tmp_path / "out" / "task.json")["left_out"]["train"] == 2
    assert data.sizes == {"train": 27, "validation": 3, "test": 1} and data["test"]["label"].tolist() == [2]
    assert np.bincount(data["train"]["label"]).tolist() == [9, 9, 9]
    assert (
        process.stdout.startswith("someone/intents: cannot be downloaded")
        and "hub:owner/name@revision" in process.stdout
    )


def test_hub_data_that_come_as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not run; the line says so, and what to name instead."""

    def refuse(*given: Any, **options: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found intents.py")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *given, **options: SimpleNamespace(sha=REVISION))
    monkeypatch.setattr(time, "sleep", None)  # nothing is tried again
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    told = error(f"hub:someone/intents@{REVISION}")
    assert "scripts are no longer supported" in told and "the commit of refs/convert/parquet" in told


def test_a_folder_in_the_place_of_hub_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be read instead, whatever the revision."""
    (tmp_path / "someone" / "intents").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert error(f"hub:someone/intents@{REVISION}").startswith("someone/intents: is a data set of the Hub and a folder")


@pytest.mark.parametrize(
    ("label", "told"),
    [("", "dev.csv: has no row with a text and a label"), ("-1", "label '-1' is in validation and not in train")],
)
def test_labels_of_validation_are_not_hidden(label: str, told: str, tmp_path: Path) -> None:
    """Only those of test may be: without them nothing could be chosen."""
    dev = {"text": ["t", "u"], "label": [label] * 2}
    assert told in error(folder(tmp_path, train=TRAIN, dev=dev))


def test_a_file_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the user's home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.csv", TRAIN)
    assert load("~/mine.csv").task.name == "mine"


def test_what_is_left_out_counts_once(tmp_path: Path) -> None:
    """Of the file that is divided, and not again of its parts."""
    content = {"text": [*TRAIN["text"], "", "t"], "label": [*TRAIN["label"], "yes", ""]}
    assert load(str(write(tmp_path / "mine.csv", content))).left_out == {"train": 2, "validation": 0}


def test_the_largest_remainder_gives_one_more(tmp_path: Path) -> None:
    """Of 14 and 16 a tenth is 1.4 and 1.6: one and two."""
    content = {"text": [f"t{i}" for i in range(30)], "label": ["a"] * 14 + ["b"] * 16}
    assert Counter(load(str(write(tmp_path / "mine.csv", content)))["validation"]["label"]) == {0: 1, 1: 2}


def test_the_last_of_a_class_stays_in_train(tmp_path: Path) -> None:
    """Where each class has one sample, none is left for validation."""
    content = {"text": [f"t{i}" for i in range(20)], "label": [f"c{i}" for i in range(20)]}
    path = str(write(tmp_path / "mine.csv", content))
    assert "validation_frac: 0.5 of 20 train samples is none" in error(path, validation_frac=0.5)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_nan_is_no_label(ending: str, tmp_path: Path) -> None:
    """It is what pandas writes where there is none."""
    content = {"text": [f"t{i}" for i in range(21)], "label": [1.0, 2.0] * 10 + [float("nan")]}
    data = load(str(write(tmp_path / f"mine{ending}", content)))
    assert data.task.label_names == ("1", "2") and data.left_out["train"] == 1


def test_names_of_splits_in_any_case(tmp_path: Path) -> None:
    """As people write them."""
    for name in ("Train.csv", "DEV.csv"):
        write(tmp_path / "mine" / name, TRAIN)
    assert load(str(tmp_path / "mine")).sizes == {"train": 20, "validation": 20}


def test_a_key_that_comes_later_is_a_column(tmp_path: Path) -> None:
    """Lines of JSON need not all have the same keys."""
    rows = [{"text": "first"}, *({"text": f"t{i}", "label": "xy"[i % 2]} for i in range(20))]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load(str(tmp_path / "mine.jsonl")).left_out["train"] == 1


def test_rows_of_parquet_are_told_by_number(tmp_path: Path) -> None:
    """From 1 on."""
    path = write(tmp_path / "mine.parquet", {"text": ["a", "b", "c"], "label": [1.0, 2.0, 2.5]})
    assert error(str(path)).startswith(f"{path}: row 3: column label: '2.5' is no class")


def test_spaces_around_the_name_of_a_column(tmp_path: Path) -> None:
    """They are no part of what it means."""
    path = write(tmp_path / "mine.csv", {" Text": TRAIN["text"], "label ": TRAIN["label"]})
    assert load(str(path)).task.origin["columns"] == {"text": " Text", "label": "label "}
