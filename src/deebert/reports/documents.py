"""Numbers of the committed run in README.md and docs/: written between markers, so that they cannot be stale.

A document marks the place, and `fill` writes the text between the two comments, each on a line of its own:

    <!-- numbers: recommended -->
    <!-- end -->

`document_blocks.BLOCKS` has the names and makes the text.
"""

import re
from pathlib import Path

from deebert.base.errors import UserError
from deebert.reports.document_blocks import BLOCKS, Run

START, END = "<!-- numbers: {} -->", "<!-- end -->"
MARKER = re.compile(r"<!-- numbers: (.*) -->")


def fill(document: Path, text: str, run: Run) -> str:
    """Return the `text` of `document` with every marked block made anew; all other lines stay as they are.

    Raises:
        UserError: an unknown name or comment, a block that is not closed, or an end without a start. The message has
            the number of the line.
    """
    lines: list[str] = []
    opened = 0  # the line that opened the block at hand, counted from 1; 0 = outside of any
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{document}:{number}: {line!r}"
        if not line.startswith("<!--"):
            lines += [] if opened else [line]
        elif line == END:
            if not opened:
                raise UserError(f"{where}: no block is open here; expected {START.format('NAME')!r} before it")
            lines.append(line)
            opened = 0
        elif not (marker := MARKER.fullmatch(line)):
            raise UserError(f"{where}: unknown marker; expected {START.format('NAME')!r} or {END!r}")
        elif marker[1] not in BLOCKS:
            raise UserError(f"{where}: unknown block; expected one of {', '.join(BLOCKS)}")
        elif opened:
            raise UserError(f"{where}: the block of line {opened} is still open; expected {END!r} before this line")
        else:
            lines += [line, BLOCKS[marker[1]](run)]
            opened = number
    if opened:
        raise UserError(f"{document}:{opened}: this block is not closed; expected {END!r} after it")
    return "\n".join(lines)
