"""Which format a file has, and what has to be known of a whole file before its first row leaves it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from deebert.base.errors import UserError, one_line
from deebert.data.tables import arrow, delimited, json_lines
from deebert.data.tables.chunk import Chunk
from deebert.data.tables.text import read_errors
from deebert.data.tables.writer import Writer


@dataclass(frozen=True)
class Format:
    """How rows are read and written.

    Attributes:
        read: of a file and a number of rows: chunks of so many rows; at least one, maybe without rows.
        writer: what writes chunks, of this format or of another.
        is_typed: a column has a type, which has to be known before its first value is written.
        is_ragged: each row says which columns it has.
    """

    read: Callable[..., Iterator[Chunk]]
    writer: type[Writer]
    is_typed: bool = False
    is_ragged: bool = False


FORMATS = {
    ".csv": Format(partial(delimited.read, delimiter=","), delimited.CsvWriter),
    ".tsv": Format(partial(delimited.read, delimiter="\t"), delimited.TsvWriter),
    ".jsonl": Format(json_lines.read, json_lines.ObjectsWriter, is_ragged=True),
    ".parquet": Format(arrow.read, arrow.BatchWriter, is_typed=True),
}


def format_of(file: Path) -> Format:
    """The format that the ending of a file's name says.

    Raises:
        UserError: it says none.
    """
    if found := FORMATS.get(file.suffix.lower()):
        return found
    *endings, last = FORMATS
    found = f"unknown ending {file.suffix}" if file.suffix else "has no ending"
    raise UserError(f"{file}: {found}; expected {', '.join(endings)} or {last}")


def chunks(file: Path, size: int) -> Iterator[Chunk]:
    """The rows of a file, `size` at a time; at least one chunk, maybe without rows.

    Raises:
        UserError: the file cannot be read, or a row of it cannot be right.
    """
    with read_errors(file):
        yield from format_of(file).read(file, size)


def column_names(file: Path, size: int) -> list[str]:
    """The columns of a file, of all of its rows; `size` of them are read at a time.

    Raises:
        UserError: as of `chunks`, or there are none.
    """
    parts = chunks(file, size)
    read = parts if format_of(file).is_ragged else itertools.islice(parts, 1)
    names = list(dict.fromkeys(name for chunk in read for name in chunk.names))
    if not names:
        raise UserError(f"{file}: has no rows; it is empty")
    return names


@dataclass(frozen=True)
class Overview:
    """What a file holds: how many rows, and which columns; their types where they were asked for."""

    rows: int
    schema: pa.Schema


def look_through(parts: Callable[[], Iterator[Chunk]], texts: Sequence[str], target: Format) -> Overview:
    """Read a whole file, so that what is wrong in its last row is told before the first is worked on.

    Args:
        parts: gives the file's chunks, from the first on whenever it is called.
        texts: columns that must hold texts.
        target: the format that the rows will be written in.

    Raises:
        UserError: a row cannot be right, or the columns cannot be written in that format.
    """
    rows, schema, types = 0, pa.schema([]), set()
    for chunk in parts():
        rows += len(chunk)
        for column in texts:
            chunk.texts(column)
        if target.is_typed:
            found = chunk.schema()
            types |= {(field.name, field.type) for field in found}
            schema = _unified(chunk, schema, found)
        else:
            chunk.check_as_text()
            schema = pa.schema([(name, pa.null()) for name in dict.fromkeys([*schema.names, *chunk.names])])
        where = chunk.where
    if target.is_typed:
        arrow.check_schema(where, schema)
        if types != {(field.name, field.type) for field in schema}:  # a common type need not hold each chunk's values
            for chunk in parts():
                chunk.arrow(schema)
    return Overview(rows, schema)


def _unified(chunk: Chunk, before: pa.Schema, found: pa.Schema) -> pa.Schema:
    """The columns of a file whose chunks up to this one have those of `before`, and this one those that were `found`.

    Raises:
        UserError: no types go with both.
    """
    if not len(before):
        return found
    try:
        return pa.unify_schemas([before, found], promote_options="permissive")
    except pa.ArrowException as error:
        told = f"{chunk.where}: {chunk.unit} {chunk.places[0]} or later"
        raise UserError(f"{told}: no type of parquet holds all values of a column: {one_line(error)}") from None
