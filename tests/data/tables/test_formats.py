"""Rows go from any format to any other a chunk at a time: values stay, and what is wrong is told with its place."""

import csv
import datetime
import gc
import io
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from deebert.base.errors import UserError
from deebert.data.tables import arrow, delimited, lines
from deebert.data.tables.formats import FORMATS, chunks, column_names, format_of, look_through

NEW = pa.schema([("label", pa.string()), ("probability", pa.float32())])
ODD = [
    'a, "b"',
    "two\nlines",
    "carriage\r\nreturn",
    "tab\there",
    "NA",
    "null",
    "007",
    "",
    " spaces ",
    "日本 🎬",
    "line\u2028separator",
    '"',
    "\ufeffmark",
    "'",
    "\\n",
]
each_pair = pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)))


def convert(source: Path, target: Path, size: int = 4, texts: Sequence[str] = ()) -> Path:
    """Write the rows of a file into another, with new columns that count them."""
    kind = format_of(target)
    overview = look_through(lambda: chunks(source, size), texts, kind)
    count = itertools.count()
    with target.open("wb") as file, kind.writer(file, overview.schema, list(NEW)) as writer:
        for chunk in chunks(source, size):
            numbers = list(itertools.islice(count, len(chunk)))
            writer.write(chunk, [[f"n{number}" for number in numbers], [number / 2 for number in numbers]])
    assert overview.rows == next(count)
    return target


def write(path: Path, columns: dict[str, list[Any]]) -> Path:
    rows = list(zip(*columns.values(), strict=True))
    if path.suffix == ".parquet":
        parquet.write_table(pa.table(columns), path)
    elif path.suffix == ".jsonl":
        written = "".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        path.write_text(written, encoding="utf-8")
    else:
        stream = io.StringIO()
        csv.writer(stream, delimiter="," if path.suffix == ".csv" else "\t").writerows([list(columns), *rows])
        path.write_bytes(stream.getvalue().encode())
    return path


def read(path: Path) -> dict[str, list[Any]]:
    """The columns of a file, by other code than ours."""
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pydict()
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_bytes().decode().removesuffix("\n").split("\n")]
        return {name: [row[name] for row in rows] for name in rows[0]}
    text = io.StringIO(path.read_bytes().decode(), newline="")
    header, *rows = csv.reader(text, delimiter="," if path.suffix == ".csv" else "\t", strict=True)
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


@each_pair
def test_texts_stay_as_they_were(tmp_path: Path, source: str, target: str) -> None:
    """From every format to every format: each text, the columns' order and the rows' order; new columns come last."""
    columns = {"id": [f"{i:03}" for i in range(len(ODD))], "odd, name": ODD}
    found = read(convert(write(tmp_path / f"in{source}", columns), tmp_path / f"out{target}"))
    assert list(found) == ["id", "odd, name", "label", "probability"]
    assert {name: found[name] for name in columns} == columns
    assert found["label"] == [f"n{i}" for i in range(len(ODD))]
    assert [float(value) for value in found["probability"]] == [i / 2 for i in range(len(ODD))]


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=1, max_size=9),
    size=st.integers(1, 5),
    pair=st.sampled_from(list(itertools.product(FORMATS, FORMATS))),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_any_text_survives_in_chunks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int, pair: tuple[str, str]
) -> None:
    """Whatever the texts are, and however many rows are in memory at a time, the file is the same."""
    folder = tmp_path_factory.mktemp("any")
    source = write(folder / f"in{pair[0]}", {"id": list(map(str, range(len(texts)))), "text": texts})
    target = convert(source, folder / f"out{pair[1]}", size)
    assert read(target)["text"] == texts
    again = convert(source, folder / f"again{pair[1]}", 100)
    assert read(target) == read(again)


def test_a_line_of_json_stays_as_it_was(tmp_path: Path) -> None:
    """Numbers, spaces, escapes and a key that comes twice: the new keys stand behind, and nothing else changes."""
    written = [
        '{"text":"\\u00e9", "n": 1e5,  "m":0.10}',
        '{ "text" : "a", "text": "b" , "deep": [1, {"x": null}] }',
        "{}",
    ]
    source = tmp_path / "in.jsonl"
    source.write_text("\n\n".join(written) + "\r\n")
    told = convert(source, tmp_path / "out.jsonl").read_text().splitlines()
    assert told == [
        '{"text":"\\u00e9", "n": 1e5,  "m":0.10, "label": "n0", "probability": 0.0}',
        '{ "text" : "a", "text": "b" , "deep": [1, {"x": null}], "label": "n1", "probability": 0.5}',
        '{"label": "n2", "probability": 1.0}',
    ]


def table() -> pa.Table:
    """Values of many types, some missing."""
    frame = pd.DataFrame({"text": ["a", None, "c"], "kind": pd.Categorical(["x", "y", "x"])}, index=[5, 6, 7])
    more = {
        "whole": pa.array([1, None, 2**60]),
        "small": pa.array([1, 2, 3], pa.int8()),
        "real": pa.array([0.1, float("nan"), None]),
        "half": pa.array([0.5, None, 0.1], pa.float32()),
        "yes": pa.array([True, None, False]),
        "at": pa.array([datetime.datetime(2020, 1, 2, 3, 4, 5, 678), None, None], pa.timestamp("us", "UTC")),
        "money": pa.array([Decimal("1.10"), None, None]),
        "many": pa.array([[1, 2], None, []]),
        "deep": pa.array([{"x": "1", "y": [1.5]}, None, None]),
    }
    made = pa.Table.from_pandas(frame)
    for name, values in more.items():
        made = made.append_column(name, values)
    return made


def test_types_of_parquet_stay(tmp_path: Path) -> None:
    """From parquet to parquet: all types, missing values and what pandas has noted of its index."""
    made = table().append_column("bytes", pa.array([b"\0", None, b"\xff"]))
    parquet.write_table(made, tmp_path / "in.parquet", row_group_size=2)
    before = parquet.read_table(tmp_path / "in.parquet")
    after = parquet.read_table(convert(tmp_path / "in.parquet", tmp_path / "out.parquet", 1))
    assert after.select(before.column_names).schema.equals(before.schema, check_metadata=True)
    assert repr(after.select(before.column_names).to_pylist()) == repr(before.to_pylist())  # where NaN is NaN
    assert after.to_pandas().index.tolist() == [5, 6, 7]
    assert after.schema.field("probability").type == pa.float32()


def test_typed_values_in_text_files(tmp_path: Path) -> None:
    """JSON has them as JSON, NaN as null; csv has texts, nothing where there is no value, and JSON for what nests."""
    parquet.write_table(table(), tmp_path / "in.parquet")
    rows = [json.loads(line) for line in convert(tmp_path / "in.parquet", tmp_path / "out.jsonl").open()]
    assert rows[0]["deep"] == {"x": "1", "y": [1.5]} and rows[0]["whole"] == 1 and rows[0]["yes"] is True
    assert rows[0]["money"] == "1.10" and rows[0]["at"] == "2020-01-02 03:04:05.000678+00:00"
    assert rows[1]["real"] is None and rows[1]["text"] is None and rows[2]["whole"] == 2**60
    found = read(convert(tmp_path / "in.parquet", tmp_path / "out.csv"))
    assert found["whole"] == ["1", "", str(2**60)] and found["yes"] == ["true", "", "false"]
    assert found["real"] == ["0.1", "nan", ""] and found["deep"] == ['{"x": "1", "y": [1.5]}', "", ""]
    assert found["money"][0] == "1.10" and found["many"] == ["[1, 2]", "", "[]"]


def test_keys_that_come_later(tmp_path: Path) -> None:
    """A csv of JSON lines has every key of the file as a column; parquet has a type that holds every value."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "n": null}\n{"text": "b", "n": 1}\n{"more": [], "n": 2.5}\n{"more": ["x"]}\n')
    found = read(convert(source, tmp_path / "out.csv", 1))
    assert list(found) == ["text", "n", "more", "label", "probability"]
    assert found["n"] == ["", "1", "2.5", ""] and found["more"] == ["", "", "[]", '["x"]']
    typed = parquet.read_table(convert(source, tmp_path / "out.parquet", 1)).to_pydict()
    assert typed["n"] == [None, 1.0, 2.5, None] and typed["more"] == [None, None, [], ["x"]]
    assert typed["text"] == ["a", "b", None, None]


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbftext\na\nb\n", b"text\r\na\r\nb\r\n", b"text\ra\rb", b'"text"\n\n"a"\n\nb'],
    ids=["byte order mark", "CRLF", "CR", "quotes and blank lines"],
)
def test_how_a_csv_was_saved_does_not_matter(tmp_path: Path, content: bytes) -> None:
    """Its rows are written with line feeds, without a mark, and with no more quotes than are needed."""
    (tmp_path / "in.csv").write_bytes(content)
    written = convert(tmp_path / "in.csv", tmp_path / "out.csv").read_bytes()
    assert written == b"text,label,probability\na,n0,0.0\nb,n1,0.5\n"


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", [".csv", ".tsv", ".parquet"])
def test_a_file_without_rows(tmp_path: Path, source: str, target: str) -> None:
    """Its columns are there, and the new ones."""
    path = write(tmp_path / f"in{source}", {"text": []})
    if source == ".parquet":
        parquet.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    out = convert(path, tmp_path / f"out{target}", texts=["text"])
    if target == ".parquet":
        assert parquet.read_table(out).column_names == ["text", "label", "probability"]
    else:
        delimiter = "\t" if target == ".tsv" else ","
        assert out.read_text() == ("" if target == ".jsonl" else delimiter.join(["text", "label", "probability\n"]))


def test_row_groups_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows a chunk has; yet none grows without bounds, in rows or in bytes."""
    source = write(tmp_path / "in.csv", {"text": [f"{i:03}" for i in range(100)]})
    groups = []
    for rows, size in ((40, 2**25), (2**16, 500)):
        monkeypatch.setattr(arrow, "ROW_GROUP_ROWS", rows)
        monkeypatch.setattr(arrow, "ROW_GROUP_BYTES", size)
        found = parquet.ParquetFile(convert(source, tmp_path / "out.parquet", 7)).metadata
        groups.append([found.row_group(i).num_rows for i in range(found.num_row_groups)])
        assert sum(groups[-1]) == 100
    assert groups[0] == [42, 42, 16]
    assert len(groups[1]) > 1 and min(groups[1][:-1]) >= 7


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("rows", [0, 2, 9])
def test_a_writer_that_is_broken_off_is_silent(tmp_path: Path, monkeypatch, target: str, rows: int) -> None:
    """Ctrl-C in the middle: nothing is written once the file is closed, and Python has nothing to complain of."""
    monkeypatch.setattr(arrow, "ROW_GROUP_ROWS", 4)
    source = write(tmp_path / "in.csv", {"text": [f"{i}" for i in range(10)]})
    complaints: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)

    def broken() -> None:
        parts = chunks(source, 1)
        schema = pa.schema([("text", pa.string())])
        with (tmp_path / "out").open("wb") as file, FORMATS[target].writer(file, schema, list(NEW)) as writer:
            for chunk in itertools.islice(parts, rows):
                writer.write(chunk, [["a"], [0.5]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    gc.collect()
    assert complaints == []


def parquet_of(at: pa.Array) -> bytes:
    written = io.BytesIO()
    parquet.write_table(pa.table({"text": ["a"], "at": at}), written)
    return written.getvalue()


FAR = pa.array([10**18], pa.timestamp("ms"))  # a time that Python cannot tell
FIELD_TWICE = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"])


BAD = {
    "too few fields": ("in.csv", b"text,n\na,1\nb\n", "in.csv: line 3: 1 fields; expected 2"),
    "a comma unquoted": ("in.csv", b"text\na, b\n", "in.csv: line 2: 2 fields; expected 1"),
    "a quote left open": ("in.csv", b'text\n"a\nb\n', "in.csv: line 2: unexpected end of data; a field that begins"),
    "semicolons": (
        "in.csv",
        b"text;n\na, b;c\n",
        "the header has one column, with a semicolon in it; expected columns",
    ),
    "tabs": ("in.csv", b'text\tn\n"a"\tb\n', "with a tab in it; expected columns with a comma between them"),
    "a quote within": ("in.tsv", b'text\tn\n"a"b\tc\n', "in.tsv: line 2: a tab expected after"),
    "a column twice": ("in.csv", b"text,text\na,b\n", "in.csv: has the column text twice"),
    "empty": ("in.csv", b"", "in.csv: is empty; expected a line with the names of its columns"),
    "latin-1": ("in.tsv", b"text\na\n\xe9\n", "in.tsv: line 3: not UTF-8"),
    "zero byte": ("in.csv", b"text\na\0\n", "in.csv: line 2: has a zero byte"),
    "no JSON": ("in.jsonl", b'{"text": "a"}\n{"text\n', "in.jsonl: line 2: not readable as JSON"),
    "no object": ("in.jsonl", b'["a"]\n', "in.jsonl: line 1: expected an object"),
    "no text": ("in.jsonl", b'{"text": "a"}\n\n{"text": 1}\n', "in.jsonl: line 3: column text: '1' is int; expected"),
    "half a character": ("in.jsonl", b'{"n": "\\ud800"}\n', "in.jsonl: line 1: has half of a character"),
    "a time beyond all": ("in.parquet", parquet_of(FAR), "in.parquet: column at: cannot stand in a text: "),
    "a list with one": (
        "in.parquet",
        parquet_of(pa.ListArray.from_arrays([0, 1], FAR)),
        "in.parquet: column at: cannot stand in a text: ",
    ),
    "a field twice": ("in.parquet", parquet_of(FIELD_TWICE), "in.parquet: column at: cannot stand in a text: "),
    "no parquet": ("in.parquet", b"text\na\n", "in.parquet: not readable as parquet"),
    "unknown ending": ("in.txt", b"a\n", "in.txt: unknown ending .txt; expected .csv, .tsv, .jsonl or .parquet"),
    "no ending": ("in", b"a\n", "in: has no ending; expected"),
}


@pytest.mark.parametrize(("name", "content", "told"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    """In one line that names the file and the line, before a row is written."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        convert(tmp_path / name, tmp_path / "out.csv", texts=["text"])
    assert "\n" not in str(caught.value) and not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([1, "a"], "lines 1 to 2: column n: no type of parquet holds all its values"),
        ([1, 2, 3, 4, "a"], "line 5 or later: no type of parquet holds all values of a column"),
        ([2**70], "column n: no type of parquet holds all its values"),
        ([2**60 + 1, 1, 1, 1, 0.5], "line 1 or later: column n: no type of parquet holds all its values: Integer"),
        ([0.5, 1, 1, 1, [2**60 + 1]], "no type of parquet holds all values of a column"),
        ([[0.5], [], [], [], [2**60 + 1]], "line 5 or later: column n: no type of parquet holds all its values"),
        ([{}, {}, {}, {}, {}], "in.jsonl: cannot be written as parquet: .*'n'"),
        ([[{}]], "in.jsonl: cannot be written as parquet: "),
    ],
)
def test_values_without_a_common_type(tmp_path: Path, values: list[Any], told: str) -> None:
    """Parquet cannot have them, which is told before a row is written; jsonl and csv can."""
    source = write(tmp_path / "in.jsonl", {"text": ["t"] * len(values), "n": values})
    with pytest.raises(UserError, match=told) as caught:
        convert(source, tmp_path / "out.parquet")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.parquet").exists()
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    assert read(convert(source, tmp_path / "out.csv"))["n"] == texts
    assert read(convert(source, tmp_path / "out.jsonl"))["n"] == values


@pytest.mark.parametrize(
    "values",
    [
        pa.array([True], pa.bool_()),
        pa.array(["a"], pa.string()),
        pa.array([{"is_binary": True}]),
        pa.array([{"binary": ["a"]}], pa.struct([("binary", pa.list_(pa.string()))])),
    ],
)
def test_a_name_makes_no_bytes(tmp_path: Path, values: pa.Array) -> None:
    """What a part of a column is called does not matter."""
    parquet.write_table(pa.table({"binary": values}), tmp_path / "in.parquet")
    for ending in (".csv", ".jsonl"):
        assert len(read(convert(tmp_path / "in.parquet", tmp_path / f"out{ending}"))["binary"]) == 1


@pytest.mark.parametrize("values", [[b"a"], [[b"a"]], [{"x": b"a"}]])
def test_bytes_stay_in_parquet(tmp_path: Path, values: list[Any]) -> None:
    """A text file cannot hold them, which is told before a row is written."""
    source = write(tmp_path / "in.parquet", {"n": values})
    with pytest.raises(UserError, match="column n: bytes cannot stand in a text file; expected a "):
        convert(source, tmp_path / "out.csv")
    assert read(convert(source, tmp_path / "out.parquet"))["n"] == values


def test_bytes_behind_numbers_are_bytes(tmp_path: Path) -> None:
    """A column may hold each value once, and which row has which."""
    parquet.write_table(pa.table({"n": pa.array([b"a", b"a"]).dictionary_encode()}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="column n: bytes cannot stand in a text file"):
        convert(tmp_path / "in.parquet", tmp_path / "out.csv")


def test_parquet_with_a_column_twice_is_told(tmp_path: Path) -> None:
    """Nobody could say which one is meant."""
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="has the column text twice"):
        next(chunks(tmp_path / "in.parquet", 4))


def from_input(content: bytes, names: Sequence[str] = ("text",)) -> Iterator[list[Any]]:
    for chunk in lines.read(io.BytesIO(content), 2, names):
        yield from zip(*map(chunk.values, names), strict=True)


def test_a_text_a_line() -> None:
    """Every line is a row, an empty one too, whatever its end; with two columns a tab stands between two texts."""
    assert list(from_input("\ufeffa\r\n\nb\tc\u2028d\re\n'last'".encode())) == [
        ("a",),
        ("",),
        ("b\tc\u2028d\re",),
        ("'last'",),
    ]
    assert list(from_input(b"")) == []
    assert list(from_input(b"a\tb\n\tc\n", ("text", "pair"))) == [("a", "b"), ("", "c")]
    blank = [b"", b"\r", b" ", b"\t\t", b" \t"]
    found = from_input(b"\n".join([b"a\tb", *blank, b"c\td"]), ("text", "pair"))
    assert list(found) == [("a", "b"), ("", ""), ("", ""), ("", ""), ("", ""), (" ", ""), ("c", "d")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a\tb\nc\n", "standard input: line 2: 1 texts; expected 2 with a tab between them"),
        (b"a\tb\tc\n", "standard input: line 1: 3 texts; expected 2"),
        (b"a\tb\n\xe9\tb\n", "standard input: line 2: not UTF-8"),
    ],
)
def test_lines_that_cannot_be(content: bytes, told: str) -> None:
    """The line is named."""
    with pytest.raises(UserError, match=told):
        list(from_input(content, ("text", "pair")))


def test_lines_after_a_break_in_a_field_are_told_right(tmp_path: Path) -> None:
    """As an editor counts them."""
    (tmp_path / "in.csv").write_bytes(b'text,n\n"a\nb",1\n\nc\n')
    with pytest.raises(UserError, match=r"in\.csv: line 5: 1 fields; expected 2"):
        convert(tmp_path / "in.csv", tmp_path / "out.csv")


def test_json_too_deep(tmp_path: Path) -> None:
    """Python gives up on it with an error of its own."""
    (tmp_path / "in.jsonl").write_text('{"text": ' + "[" * 200_000 + "\n")
    with pytest.raises(UserError, match=r"in\.jsonl: line 1: not readable as JSON"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.csv")


def test_numbers_that_json_does_not_know(tmp_path: Path) -> None:
    """Wherever they stand in a row, nothing is told in their place; a time of day is told as text."""
    odd = [math.inf, -math.inf, math.nan]
    columns = {"real": odd, "many": [odd, [1.5], None], "deep": [{"x": each} for each in odd]}
    parquet.write_table(pa.table({**columns, "at": [datetime.time(3, 4), None, None]}), tmp_path / "in.parquet")

    def never(name: str) -> None:
        raise AssertionError(name)

    lines = convert(tmp_path / "in.parquet", tmp_path / "out.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=never) for line in lines]
    assert [row["real"] for row in rows] == [row["deep"]["x"] for row in rows] == [None] * 3
    assert [row["many"] for row in rows] == [[None] * 3, [1.5], None] and rows[0]["at"] == "03:04:00"


def test_rows_of_parquet_are_told_by_number(tmp_path: Path) -> None:
    """From 1 on, whatever groups the file has and however many rows are read at a time."""
    path = tmp_path / "in.parquet"
    parquet.write_table(pa.table({"text": list("abcdefghij")}), path, row_group_size=4)
    found = [chunk.place(row) for chunk in chunks(path, 3) for row in range(len(chunk))]
    assert found == [f"{path}: row {row}" for row in range(1, 11)]


def test_bytes_of_one_length_are_bytes(tmp_path: Path) -> None:
    """They are no text either."""
    parquet.write_table(pa.table({"n": pa.array([b"ab"], pa.binary(2))}), tmp_path / "in.parquet")
    with pytest.raises(UserError, match="column n: bytes cannot stand in a text file"):
        convert(tmp_path / "in.parquet", tmp_path / "out.csv")


def test_endings_in_any_case() -> None:
    """As people write them."""
    assert [format_of(Path(f"a{ending.upper()}")) for ending in FORMATS] == list(FORMATS.values())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_keys_that_come_later_in_a_chunk(tmp_path: Path, size: int) -> None:
    """However many rows are in memory at a time, none of their keys is lost."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"text": "a", "n": null}\n{"text": "b", "n": 1}\n{"more": [], "n": 2.5}\n{"more": ["x"]}\n')
    assert column_names(source, size) == ["text", "n", "more"]
    found = read(convert(source, tmp_path / "out.csv", size))
    assert found["n"] == ["", "1", "2.5", ""] and found["more"] == ["", "", "[]", '["x"]']
    assert parquet.read_table(convert(source, tmp_path / "out.parquet", size)).column_names[:-2] == [
        "text",
        "n",
        "more",
    ]


@pytest.mark.parametrize("line", [r'{"n": "\uD83D"}', r'{"n": ["a", {"b": "\udc00"}]}', r'{"\ud800": 1}'])
def test_half_a_character_wherever_it_stands(tmp_path: Path, line: str) -> None:
    """In a value, deep in one, in a key; in capitals, as Java and C# write it."""
    (tmp_path / "in.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=r"in\.jsonl: line 1: has half of a character"):
        convert(tmp_path / "in.jsonl", tmp_path / "out.csv")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_jsonl_without_rows_is_told(tmp_path: Path, content: str) -> None:
    """It is one chunk without rows, and has no columns."""
    (tmp_path / "in.jsonl").write_text(content)
    assert [len(chunk) for chunk in chunks(tmp_path / "in.jsonl", 4)] == [0]
    with pytest.raises(UserError, match=r"in\.jsonl: has no rows; it is empty"):
        column_names(tmp_path / "in.jsonl", 4)


def test_a_name_with_quotes_is_json(tmp_path: Path) -> None:
    """As `--prefix` may make one."""
    source = write(tmp_path / "in.jsonl", {"text": ["a"]})
    with (tmp_path / "out.jsonl").open("wb") as file:
        schema = pa.schema([("text", pa.string())])
        with FORMATS[".jsonl"].writer(file, schema, [pa.field('my "label"', pa.string())]) as writer:
            for chunk in chunks(source, 4):
                writer.write(chunk, [["b"]])
    assert read(tmp_path / "out.jsonl") == {"text": ["a"], 'my "label"': ["b"]}


def test_lines_are_told_by_number() -> None:
    """From 1 on, however many are read at a time."""
    found = [
        chunk.place(row) for chunk in lines.read(io.BytesIO(b"a\n\nb\nc\nd"), 2, ["text"]) for row in range(len(chunk))
    ]
    assert found == [f"standard input: line {number}" for number in range(1, 6)]


def test_a_mark_and_a_carriage_return_within() -> None:
    """A byte order mark begins the first line alone; one carriage return ends a line, and others are text."""
    assert list(from_input("\ufeffa\r\r\n\ufeffb\n".encode())) == [("a\r",), ("\ufeffb",)]


def test_a_quote_that_nobody_closes_is_told_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it stands, once it has swallowed more than a text can be; a long text is read all the same."""
    write(tmp_path / "long.csv", {"text": ["a" * 200_000]})
    assert len(read(convert(tmp_path / "long.csv", tmp_path / "out.jsonl"))["text"][0]) == 200_000
    monkeypatch.setattr(delimited, "MAX_FIELD_CHARS", 1000)
    (tmp_path / "in.csv").write_text('text\nb\n"a\n' + "c\n" * 1000 + '"\n')
    with pytest.raises(
        UserError, match=r"in\.csv: line 3: field larger than field limit \(1000\); a field that begins"
    ):
        convert(tmp_path / "in.csv", tmp_path / "no.csv")


def test_rows_of_csv_are_told_by_line(tmp_path: Path) -> None:
    """Where each begins."""
    path = tmp_path / "in.csv"
    path.write_text('text\n"a\nb"\n\nc\nd\n')
    found = [chunk.place(row) for chunk in chunks(path, 2) for row in range(len(chunk))]
    assert found == [f"{path}: line {line}" for line in (2, 5, 6)]
