"""Rows in the middle of a file's way through memory, whatever format they came in and whatever they leave in."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar
from uuid import UUID

import pyarrow as pa

from deebert.base.errors import UserError, one_line

MAX_SHOWN = 40  # characters of a wrong value
AS_TEXT = date | datetime | time | timedelta | Decimal | UUID  # what JSON has no kind of value for


@dataclass(frozen=True, eq=False)
class Chunk(ABC):
    """Some rows of a file, in their order.

    Attributes:
        where: the file's name in messages.
        places: where in the file each row begins, from 1, in `unit`s.
    """

    where: str
    places: Sequence[int]
    unit: ClassVar[str] = "line"

    def __len__(self) -> int:
        return len(self.places)

    def place(self, row: int) -> str:
        return f"{self.where}: {self.unit} {self.places[row]}"

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """Columns that are known from these rows."""

    @abstractmethod
    def values(self, column: str) -> Sequence[Any]:
        """A value per row, None where a row has none."""

    @abstractmethod
    def cells(self, names: Sequence[str]) -> Iterator[list[str]]:
        """For csv and tsv: per row the texts of the columns `names`, empty where there is no value."""

    @abstractmethod
    def objects(self) -> Iterator[str]:
        """For jsonl: per row a JSON object on one line, without the line's end."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """For parquet: the columns with their types, as far as these rows tell."""

    def check_as_text(self) -> None:  # noqa: B027  (most formats hold nothing else)
        """UserError where a column holds what no text file can."""

    def arrow(self, schema: pa.Schema) -> pa.Table:
        """For parquet: the rows as a table.

        Raises:
            UserError: a value does not fit its column's type.
        """
        columns = []
        for field in schema:
            try:
                columns.append(pa.array(self.values(field.name), field.type))
            except pa.ArrowException as error:
                told = f"{self.place(0)} or later: column {field.name}: no type of parquet holds all its values"
                raise UserError(f"{told}: {one_line(error)}") from None
        return pa.table(columns, schema=schema)

    def texts(self, column: str) -> list[str]:
        """The column's texts, empty where a row has none.

        Raises:
            UserError: a value is no text.
        """
        texts = []
        for row, value in enumerate(self.values(column)):
            if value is not None and not isinstance(value, str):
                found = f"{str(value)[:MAX_SHOWN]!r} is {type(value).__name__}"
                raise UserError(f"{self.place(row)}: column {column}: {found}; expected a text")
            texts.append(value or "")
        return texts


def cut(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` rows, the last of as many as are left; one that is empty where there are no rows at all."""
    part = list(islice(rows, size))
    yield part
    while part := list(islice(rows, size)):
        yield part


def as_cell(value: Any) -> str:
    """A value of a file that has types, in a file that has none: a text as it is, and others as JSON has them."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | float | AS_TEXT) else as_json(value)


def as_json(value: Any) -> str:
    """JSON on one line. Dates and decimals are texts there; NaN and infinity, which JSON does not know, are null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_known)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, default=_known)


def _known(value: Any) -> str:
    if not isinstance(value, AS_TEXT):
        raise TypeError(f"{type(value).__name__} is no value that a text file can hold")
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
