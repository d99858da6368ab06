"""parquet: values keep their types."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pyarrow import parquet

from deebert.base.errors import UserError, one_line
from deebert.data.tables.chunk import Chunk, as_cell, as_json
from deebert.data.tables.columns import check_names
from deebert.data.tables.writer import NewColumn, Writer

READ_BYTES = 2**20  # of a column at a time, however large the row groups are
ROW_GROUP_ROWS, ROW_GROUP_BYTES = 2**16, 2**25  # a row group is written once it has either


@dataclass(frozen=True, eq=False)
class Batch(Chunk):
    """A stretch of a parquet file's rows."""

    batch: pa.RecordBatch
    unit: ClassVar[str] = "row"

    @property
    def names(self) -> Sequence[str]:
        return self.batch.schema.names

    def values(self, column: str) -> Sequence[Any]:
        with _read_errors(self.where):
            try:
                return self.batch.column(column).to_pylist()
            except (OverflowError, ValueError) as error:  # a time beyond Python's
                raise UserError(f"{self.where}: column {column}: cannot stand in a text: {one_line(error)}") from None

    def cells(self, names: Sequence[str]) -> Iterator[list[str]]:
        columns = [map(as_cell, self.values(name)) for name in names]
        return map(list, zip(*columns, strict=True))

    def objects(self) -> Iterator[str]:
        columns = [self.values(name) for name in self.names]
        return (as_json(dict(zip(self.names, row, strict=True))) for row in zip(*columns, strict=True))

    def schema(self) -> pa.Schema:
        return self.batch.schema

    def check_as_text(self) -> None:
        for field in self.batch.schema:
            if _holds(field.type, _is_bytes):
                told = f"{self.where}: column {field.name}: bytes cannot stand in a text file"
                raise UserError(f"{told}; expected a .parquet file to write to")
            if _holds(field.type, lambda kind: pa.types.is_temporal(kind) or pa.types.is_struct(kind)):
                self.values(field.name)

    def arrow(self, schema: pa.Schema) -> pa.Table:
        return pa.Table.from_batches([self.batch], schema)


def read(file: Path, size: int) -> Iterator[Batch]:
    """The rows of a file, `size` at a time."""
    with _read_errors(str(file)), parquet.ParquetFile(file, buffer_size=READ_BYTES, pre_buffer=False) as opened:
        schema = opened.schema_arrow
        check_names(file, schema.names)
        start = 0
        for batch in opened.iter_batches(size):
            for row in range(0, len(batch), size):
                part = batch[row : row + size]
                yield Batch(str(file), range(start + 1, start + len(part) + 1), part)
                start += len(part)
        if not start:
            yield Batch(str(file), range(0), pa.RecordBatch.from_pylist([], schema))


def check_schema(where: str, schema: pa.Schema) -> None:
    """UserError where parquet has no place for these columns, such as one whose objects are all empty."""
    try:
        parquet.ParquetWriter(pa.BufferOutputStream(), schema).close()
    except pa.ArrowException as error:
        raise UserError(f"{where}: cannot be written as parquet: {one_line(error)}") from None


def _holds(kind: pa.DataType, is_such: Callable[[pa.DataType], bool]) -> bool:
    """Whether values of a type are such, or have such inside of them."""
    if pa.types.is_dictionary(kind):
        return _holds(kind.value_type, is_such)
    return is_such(kind) or any(_holds(kind.field(i).type, is_such) for i in range(kind.num_fields))


def _is_bytes(kind: pa.DataType) -> bool:
    return str(kind).startswith(("binary", "large_binary", "fixed_size_binary"))


@contextmanager
def _read_errors(where: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{where}: not readable as parquet: {one_line(error)}") from None


class BatchWriter(Writer):
    """Row groups are as large as others make them, however few rows a chunk has."""

    def begin(self) -> None:
        columns = pa.schema([*self.schema, *self.new], self.schema.metadata)
        self._parquet = parquet.ParquetWriter(self.file, columns)
        self._wait_for_more()

    def write(self, chunk: Chunk, new: Sequence[NewColumn]) -> None:
        table = chunk.arrow(self.schema)
        for field, values in zip(self.new, new, strict=True):
            table = table.append_column(field, pa.array(values, field.type))
        self._waiting.append(table)
        self._rows += len(table)
        self._bytes += table.nbytes
        if self._rows >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
            self._flush()

    def end(self) -> None:
        self._flush()
        self._parquet.close()

    def close(self) -> None:
        self._parquet.is_open = False  # else it would write the file's end when it is deleted, and complain

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.concat_tables(self._waiting), row_group_size=self._rows)
        self._wait_for_more()

    def _wait_for_more(self) -> None:
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0
