"""jsonl: an object a line. From jsonl to jsonl each line stays as it was, with the new keys at its end."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from deebert.base.errors import UserError, one_line
from deebert.data.tables.chunk import Chunk, as_cell, as_json, cut
from deebert.data.tables.text import objects
from deebert.data.tables.writer import NewColumn, Writer


@dataclass(frozen=True, eq=False)
class Objects(Chunk):
    """Lines, and what they hold."""

    lines: Sequence[str]
    contents: Sequence[dict[str, Any]]

    @property
    def names(self) -> Sequence[str]:
        return list(dict.fromkeys(name for content in self.contents for name in content))

    def values(self, column: str) -> Sequence[Any]:
        return [content.get(column) for content in self.contents]

    def cells(self, names: Sequence[str]) -> Iterator[list[str]]:
        return ([as_cell(content.get(name)) for name in names] for content in self.contents)

    def objects(self) -> Iterator[str]:
        return (line.strip() for line in self.lines)

    def schema(self) -> pa.Schema:
        """Types that hold every value of a column.

        Raises:
            UserError: there is none, since the values are of different kinds.
        """
        fields = []
        for name in self.names:
            try:
                fields.append((name, pa.array(self.values(name)).type))
            except (pa.ArrowException, OverflowError) as error:
                where = f"{self.where}: {self.unit}s {self.places[0]} to {self.places[-1]}"
                raise UserError(
                    f"{where}: column {name}: no type of parquet holds all its values: {one_line(error)}"
                ) from None
        return pa.schema(fields)


def read(file: Path, size: int) -> Iterator[Objects]:
    """The rows of a file, `size` at a time."""
    for part in cut(_whole(file), size):
        places, lines, contents = zip(*part, strict=True) if part else ((), (), ())
        yield Objects(str(file), places, lines, contents)


def _whole(file: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The objects of a file, every character of them whole."""
    for number, line, content in objects(file):
        if "\\u" in line:  # else nothing else than UTF-8 can stand there
            try:
                json.dumps(content, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                raise UserError(f"{file}: line {number}: has half of a character (a lone surrogate)") from None
        yield number, line, content


class ObjectsWriter(Writer):
    """Appends the new keys to each object's text, so that numbers and spaces in it stay as they were."""

    def write(self, chunk: Chunk, new: Sequence[NewColumn]) -> None:
        keys = [as_json(field.name) for field in self.new]
        lines = []
        for line, values in zip(chunk.objects(), zip(*new, strict=True), strict=True):
            inside = line[:-1].rstrip()
            more = ", ".join(f"{key}: {as_json(value)}" for key, value in zip(keys, values, strict=True))
            lines.append(f"{inside}{'' if inside == '{' else ', '}{more}}}\n")
        self.file.write("".join(lines).encode())
