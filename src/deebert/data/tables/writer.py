"""What every format's writer has in common."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, BinaryIO

import pyarrow as pa

from deebert.data.tables.chunk import Chunk

NewColumn = Sequence[Any]  # a value per row of a chunk, None where there is none


class Writer(ABC):
    """Writes chunks with new columns behind their own: `begin`, then `write` for each, then `end`."""

    def __init__(self, file: BinaryIO, schema: pa.Schema, new: Sequence[pa.Field]) -> None:
        """Prepare for rows of the columns `schema`; a format without types reads the names alone."""
        self.file = file
        self.schema = schema
        self.new = list(new)

    def begin(self) -> None:  # noqa: B027  (not every format has a head)
        """Write what comes before all rows."""

    @abstractmethod
    def write(self, chunk: Chunk, new: Sequence[NewColumn]) -> None: ...

    def end(self) -> None:  # noqa: B027
        """Write what comes after all rows; the file stays open."""
