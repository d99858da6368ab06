"""Tables of samples from files of a person's own: csv, tsv, jsonl and parquet, each as its format says."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

from deebert.base.errors import UserError, one_line
from deebert.data.sources.tables import first_line_not_utf8
from deebert.settings.run import FILE_ENDINGS

SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


@dataclass(frozen=True, eq=False)
class Rows:
    """What a file holds, as yet without meaning.

    Attributes:
        where: the file's name in messages.
        columns: name -> N values, as lists or as arrays of pyarrow; None where a row has no value.
        unit: what `places` count, line or row.
        places: where in the file each row begins, from 1.
        class_names: column -> names of its whole numbers, where the file says them.
    """

    where: str
    columns: Mapping[str, Any]
    unit: str
    places: Sequence[int]
    class_names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.places)

    def values(self, column: str) -> list[Any]:
        """The values of a column; what stands for a named class is given as its name."""
        found = self.columns[column]
        values = found.to_pylist() if hasattr(found, "to_pylist") else found
        if names := self.class_names.get(column):
            values = [names[value] if isinstance(value, int) and 0 <= value < len(names) else value for value in values]
        return values

    def place(self, row: int) -> str:
        return f"{self.where}: {self.unit} {self.places[row]}"


def find_files(path: Path) -> dict[str, Path]:
    """The file of each split that there is; of a single file, that one as train.

    Raises:
        UserError: no such folder or file, no file of train, two files of one split, or an unknown ending.
    """
    if path.is_file():
        return {"train": _known(path)}
    if not path.is_dir():
        raise UserError(
            f"params.yaml: dataset: {path}: no such folder or file; expected a folder with train{FILE_ENDINGS[0]} and"
            f" its like, or a file of {_endings()}"
        )
    there = sorted(file for file in path.iterdir() if file.is_file())
    files: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        found = [file for file in there if file.stem.lower() in names and not file.name.endswith(".dvc")]
        if len(found) > 1:
            raise UserError(
                f"{path}: has {' and '.join(file.name for file in found)}; expected one file of the split {split}"
            )
        if found:
            files[split] = _known(found[0])
    if "train" not in files:
        listed = ", ".join(file.name for file in there[:10]) or "nothing"
        raise UserError(f"{path}: has no train file; expected train with the ending {_endings()}; found {listed}")
    return files


def _endings() -> str:
    return ", ".join(FILE_ENDINGS[:-1]) + f" or {FILE_ENDINGS[-1]}"


def _known(file: Path) -> Path:
    if file.suffix.lower() not in FILE_ENDINGS:
        raise UserError(f"{file}: unknown ending {file.suffix or 'of none'}; expected {_endings()}")
    return file


def read_file(file: Path) -> Rows:
    """All rows of a file, told apart by its ending.

    Raises:
        UserError: it cannot be read, is empty, is not UTF-8, or a row of it cannot be right.
    """
    readers: Mapping[str, Callable[[Path], Rows]] = dict(
        zip(FILE_ENDINGS, (_read_csv, _read_tsv, _read_jsonl, _read_parquet), strict=True)
    )
    try:
        rows = readers[file.suffix.lower()](file)
    except UnicodeDecodeError:
        raise UserError(f"{file}: line {first_line_not_utf8(file)}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or one_line(error)}") from error
    if not len(rows):
        raise UserError(f"{file}: has no rows{'' if rows.columns else '; it is empty'}")
    return rows


def _read_csv(file: Path) -> Rows:
    return _read_delimited(file, ",")


def _read_tsv(file: Path) -> Rows:
    return _read_delimited(file, "\t")


def _read_delimited(file: Path, delimiter: str) -> Rows:
    """Quotes as RFC 4180 has them, so that a field in quotes may hold delimiters and line breaks."""
    with _lines(file) as lines, _any_field_size():
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        places, rows, header = [], [], None
        begins = 1
        try:
            for fields in reader:
                if not fields:  # a blank line
                    pass
                elif header is None:
                    header = fields
                elif len(fields) != len(header):
                    raise UserError(
                        f"{file}: line {begins}: {len(fields)} fields; expected {len(header)}, as in the header; a text"
                        f" with a {'comma' if delimiter == ',' else 'tab'} in it stands in double quotes"
                    )
                else:
                    places.append(begins)
                    rows.append(fields)
                begins = reader.line_num + 1
        except csv.Error as error:
            raise UserError(
                f"{file}: line {begins}: {one_line(error)}; a field that begins with a double quote ends with one, and"
                " those inside are doubled"
            ) from None
    header = header or []
    if twice := [name for name in header if header.count(name) > 1]:
        raise UserError(f"{file}: has the column {twice[0]} twice; expected different names")
    columns = {name: [fields[place] for fields in rows] for place, name in enumerate(header)}
    return Rows(str(file), columns, "line", places)


def _read_jsonl(file: Path) -> Rows:
    """One object a line; a key that a line lacks is None there."""
    places, objects = [], []
    with _lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}: line {number}: not readable as JSON: {one_line(error)}") from None
            if not isinstance(content, dict):
                raise UserError(f'{file}: line {number}: expected an object, such as {{"text": .., "label": ..}}')
            places.append(number)
            objects.append(content)
    names = dict.fromkeys(name for content in objects for name in content)
    return Rows(str(file), {name: [content.get(name) for content in objects] for name in names}, "line", places)


def _read_parquet(file: Path) -> Rows:
    try:
        table = parquet.read_table(file)
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        raise UserError(f"{file}: not readable as parquet: {one_line(error)}") from None
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Rows(str(file), columns, "row", range(1, table.num_rows + 1))


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[str]]:
    """The lines of a text, with their ends; a byte order mark is dropped."""

    def checked() -> Iterator[str]:
        for number, line in enumerate(stream, start=1):
            if "\0" in line:
                raise UserError(f"{file}: line {number}: has a zero byte, so it is no text; expected UTF-8")
            yield line

    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield checked()


@contextmanager
def _any_field_size() -> Iterator[None]:
    """Within the block a field may be of any length; the module's own limit is 128 KiB."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)
