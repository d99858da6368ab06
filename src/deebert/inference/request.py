"""What to answer and where to, and what came of it."""

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deebert.base.errors import UserError
from deebert.data.tables.chunk import Chunk
from deebert.data.tables.formats import format_of
from deebert.inference.kept import NO_TEXT, check_free


@dataclass(frozen=True)
class Request:
    """What to answer, and where to.

    Attributes:
        source: a file; None = standard input, a text a line.
        target: a file; None = standard output.
        texts: names of one column or two; None = found by the names that the model knows.
        prefix: of the new columns' names.
        batch_rows: rows that are answered together; a command that is broken off loses no more than these, and with
            workers no more than those that are on their way.
        replace: whether a target that exists may be lost.
    """

    source: Path | None
    target: Path | None
    texts: tuple[str, ...] | None
    prefix: str
    batch_rows: int
    replace: bool

    def check(self) -> None:
        """UserError where it cannot be done, as far as that is seen without reading a row."""
        for place, stream, name in ((self.source, sys.stdin, "input"), (self.target, sys.stdout, "output")):
            if place is None and stream is None:
                raise UserError(f"standard {name}: is closed; expected it open, or a file")
        if not self.prefix.isprintable():
            raise UserError(f"--prefix: {self.prefix!r} is not allowed; expected characters that can be written")
        if self.source is not None:
            format_of(self.source)
            if not self.source.is_file():
                raise UserError(f"{self.source}: no such file")
        elif self.texts is not None:
            raise UserError("--text: standard input has no columns, but a text a line; expected a file")
        if self.target is not None:
            format_of(self.target)
            check_free(self.target, self.replace)
            if self.source is not None and self.target.exists() and self.target.samefile(self.source):
                raise UserError(f"{self.target}: is the input; expected another file")


@dataclass
class Summary:
    """What was done, counted while the output is written.

    Attributes:
        rows: of the output.
        earlier: how many of them an earlier run has answered.
        layers: the sum of all exit layers.
        without_text: rows that have none, and the place of the first.
        seconds: of this run.
    """

    num_layers: int
    rows: int = 0
    earlier: int = 0
    layers: int = 0
    without_text: int = 0
    first_without: str = ""
    start: float = field(default_factory=time.monotonic)

    def add(self, chunk: Chunk, answers: np.ndarray) -> None:
        without = np.flatnonzero(answers["exit_layer"] == NO_TEXT)
        if len(without) and not self.without_text:
            self.first_without = chunk.place(int(without[0]))
        self.without_text += len(without)
        self.rows += len(answers)
        self.layers += int(answers["exit_layer"].sum()) - NO_TEXT * len(without)

    def told(self) -> str:
        """One line, or two where rows have no text."""
        seconds = time.monotonic() - self.start
        answered, here = self.rows - self.without_text, max(0, self.rows - self.earlier)
        parts = [f"{answered:,} texts answered"]
        if answered:
            parts.append(f"{100 * (1 - self.layers / (answered * self.num_layers)):.1f} % of the layers saved")
        parts.append(f"{here:,} rows in {seconds:.1f} s ({here / seconds:,.0f} per second)")
        if self.earlier:
            parts.append(f"{self.earlier:,} by an earlier run")
        told = "; ".join(parts)
        if self.without_text:
            told += f"\n{self.without_text:,} rows have no text and so no answer, the first at {self.first_without}"
        return told
