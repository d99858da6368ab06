"""Standard input: a text a line, or two with a tab between them."""

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from deebert.base.errors import UserError
from deebert.data.tables.chunk import cut
from deebert.data.tables.delimited import Fields

WHERE = "standard input"


def read(stream: BinaryIO, size: int, names: Sequence[str]) -> Iterator[Fields]:
    """A row per line, an empty line too, `size` at a time.

    Args:
        names: of the columns, one or two; with two each line has two texts, or is blank.

    Raises:
        UserError: a line is not UTF-8, or is not blank and has not as many texts.
    """
    for part in cut(_rows(stream, len(names)), size):
        yield Fields(WHERE, [number for number, _ in part], names, [texts for _, texts in part])


def _rows(stream: BinaryIO, count: int) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise UserError(f"{WHERE}: line {number}: not UTF-8") from None
        texts = text.split("\t") if count == 2 else [text]
        if len(texts) != count:
            if text.strip():
                raise UserError(f"{WHERE}: line {number}: {len(texts)} texts; expected 2 with a tab between them")
            texts = [""] * count
        yield number, texts
