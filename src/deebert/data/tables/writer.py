"""What every format's writer has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO, Self

import pyarrow as pa

from deebert.data.tables.chunk import Chunk

NewColumn = Sequence[Any]  # a value per row of a chunk, None where there is none


class Writer(ABC):
    """Writes chunks with new columns behind their own; a context manager, in whose block `write` is called for each."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, new: Sequence[pa.Field]) -> None:
        """Prepare for rows of the columns `schema`; a format without types reads the names alone."""
        self.file = file
        self.schema = schema
        self.new = list(new)

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.end()
        finally:
            self.close()

    def begin(self) -> None:  # noqa: B027  (not every format has a head)
        """Write what comes before all rows."""

    @abstractmethod
    def write(self, chunk: Chunk, new: Sequence[NewColumn]) -> None: ...

    def end(self) -> None:  # noqa: B027
        """Write what comes after all rows; the file stays open."""

    def close(self) -> None:  # noqa: B027
        """Write nothing more, be it that not all rows have come."""
