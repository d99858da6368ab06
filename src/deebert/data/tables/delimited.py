"""csv and tsv: every value is a text, and stays the text that it was."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from deebert.base.errors import UserError
from deebert.data.tables.chunk import Chunk, as_cell, as_json, cut
from deebert.data.tables.text import records
from deebert.data.tables.writer import NewColumn, Writer

MAX_FIELD_CHARS = 2**24  # far more than a model reads; what a quote that nobody closes may swallow before it is told


@dataclass(frozen=True, eq=False)
class Fields(Chunk):
    """Rows of texts, in the order of the columns `header`."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def names(self) -> Sequence[str]:
        return self.header

    def values(self, column: str) -> Sequence[str]:
        place = self.header.index(column)
        return [fields[place] for fields in self.rows]

    def cells(self, names: Sequence[str]) -> Iterator[list[str]]:
        assert list(names) == list(self.header)
        return iter(map(list, self.rows))

    def objects(self) -> Iterator[str]:
        return (as_json(dict(zip(self.header, fields, strict=True))) for fields in self.rows)

    def schema(self) -> pa.Schema:
        return pa.schema([(name, pa.string()) for name in self.header])


def read(file: Path, size: int, delimiter: str) -> Iterator[Fields]:
    """The rows of a file, `size` at a time."""
    found = records(file, delimiter, MAX_FIELD_CHARS)
    _, header = next(found, (0, None))
    if header is None:
        raise UserError(f"{file}: is empty; expected a line with the names of its columns")
    for part in cut(found, size):
        yield Fields(str(file), [begins for begins, _ in part], header, [fields for _, fields in part])


class FieldsWriter(Writer):
    """Lines end in a line feed; what needs quotes gets them."""

    delimiter: str

    def begin(self) -> None:
        self._write([[*self.schema.names, *(field.name for field in self.new)]])

    def write(self, chunk: Chunk, new: Sequence[NewColumn]) -> None:
        added = zip(*new, strict=True)
        cells = chunk.cells(self.schema.names)
        self._write(row + list(map(as_cell, more)) for row, more in zip(cells, added, strict=True))

    def _write(self, rows: Iterator[list[str]] | list[list[str]]) -> None:
        lines = _Lines()
        csv.writer(lines, delimiter=self.delimiter).writerows(rows)
        self.file.write("".join(lines).encode())


class _Lines(list[str]):
    """What a csv writer with CRLF as its line's end has written, which then quotes either sign in a text, with LF."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


class CsvWriter(FieldsWriter):
    delimiter = ","


class TsvWriter(FieldsWriter):
    delimiter = "\t"
