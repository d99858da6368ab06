"""Tables of samples from files of a person's own: csv, tsv, jsonl and parquet, each as its format says."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pyarrow import ArrowException, parquet

from deebert.base.errors import UserError, one_line
from deebert.data.tables.columns import check_names
from deebert.data.tables.text import objects, read_errors, records
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
        """The values of a column; what stands for a named class is given as its name, and -1 there as no value.

        Raises:
            UserError: a text in it is not UTF-8.
        """
        found = self.columns[column]
        try:
            values = found.to_pylist() if hasattr(found, "to_pylist") else found
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where}: column {column}: is not UTF-8: {error.reason}") from None
        if names := self.class_names.get(column):
            known = dict(enumerate(names)) | {-1: None}
            values = [known.get(value, value) if isinstance(value, int) else value for value in values]
        return values

    def place(self, row: int) -> str:
        return f"{self.where}: {self.unit} {self.places[row]}"

    def check_characters(self, row: int, column: str, text: str) -> None:
        """UserError where a text of that row cannot be written as UTF-8."""
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError(f"{self.place(row)}: column {column}: has half of a character (a lone surrogate)") from None


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
    there = sorted(file for file in path.iterdir() if not file.is_dir())
    files: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        found = [file for file in there if file.stem.lower() in names and not file.name.endswith(".dvc")]
        data = [file for file in found if file.suffix.lower() in FILE_ENDINGS]
        if len(data) > 1:
            raise UserError(
                f"{path}: has {' and '.join(file.name for file in data)}; expected one file of the split {split}"
            )
        for file in data or found[:1]:
            files[split] = _known(file)
            if not file.exists():
                raise UserError(f"{file}: is a link to a file that is not there")
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
    with read_errors(file):
        rows = READERS[file.suffix.lower()](file)
    if not len(rows):
        raise UserError(f"{file}: has no rows{'' if rows.columns else '; it is empty'}")
    return rows


def _read_delimited(file: Path, delimiter: str) -> Rows:
    found = records(file, delimiter)
    _, header = next(found, (0, []))
    places, rows = [], []
    for begins, fields in found:
        places.append(begins)
        rows.append(fields)
    columns = {name: [fields[place] for fields in rows] for place, name in enumerate(header)}
    return Rows(str(file), columns, "line", places)


def _read_jsonl(file: Path) -> Rows:
    """One object a line; a key that a line lacks is None there."""
    places, contents = [], []
    for number, _, content in objects(file):
        places.append(number)
        contents.append(content)
    names = dict.fromkeys(name for content in contents for name in content)
    return Rows(str(file), {name: [content.get(name) for content in contents] for name in names}, "line", places)


def _read_parquet(file: Path) -> Rows:
    try:
        with parquet.ParquetFile(file) as opened:  # read_table cannot say which column is there twice
            table = opened.read()
    except FileNotFoundError:
        raise
    except (OSError, ArrowException) as error:
        raise UserError(f"{file}: not readable as parquet: {one_line(error)}") from None
    check_names(file, table.column_names)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    return Rows(str(file), columns, "row", range(1, table.num_rows + 1))


READERS: dict[str, Callable[[Path], Rows]] = {
    ".csv": partial(_read_delimited, delimiter=","),
    ".tsv": partial(_read_delimited, delimiter="\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
