"""What text files of rows are made of: checked lines of UTF-8, records of fields, JSON objects; never a file at once.

Every mistake is a UserError that names the line.
"""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError, one_line
from deebert.data.tables.columns import check_names

NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
SEPARATORS = tuple(NAMES)


def records(file: Path, delimiter: str, max_chars: int = sys.maxsize) -> Iterator[tuple[int, list[str]]]:
    """The line where each record begins, from 1, and its fields; the header comes first.

    Quotes as RFC 4180 has them, so that a field in quotes may hold delimiters and line breaks. Blank lines hold none.

    Args:
        max_chars: of one field; a longer one is a mistake, for a quote that nobody closes swallows what follows.
    """
    header, begins = None, 1
    with _lines(file) as lines, _field_size(max_chars):
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            for fields in reader:
                if header is None and fields:
                    header = fields
                    check_names(file, header)
                elif fields and len(fields) != len(header):
                    _check_delimiter(file, header, delimiter)
                    raise UserError(
                        f"{file}: line {begins}: {len(fields)} fields; expected {len(header)}, as in the header; a text"
                        f" with a {NAMES[delimiter]} in it stands in double quotes"
                    )
                if fields:
                    yield begins, fields
                begins = reader.line_num + 1
        except csv.Error as error:
            _check_delimiter(file, header or [], delimiter)
            told = one_line(str(error).replace(f"'{delimiter}'", f"a {NAMES[delimiter]}"))
            raise UserError(
                f"{file}: line {begins}: {told}; a field that begins with a double quote ends with one, and"
                " those inside are doubled"
            ) from None


def _check_delimiter(file: Path, header: list[str], delimiter: str) -> None:
    """UserError where the columns seem to be separated by something else, for then all else is told wrongly."""
    if len(header) == 1 and (found := [other for other in SEPARATORS if other in header[0]]):
        raise UserError(
            f"{file}: the header has one column, with a {NAMES[found[0]]} in it; expected columns with a"
            f" {NAMES[delimiter]} between them, as the file's ending says"
        )


def separator_told(names: Sequence[str]) -> str:
    """At the end of a message that a column is missing: if there is one column only, it may be several."""
    found = [NAMES[other] for other in SEPARATORS if len(names) == 1 and other in names[0]]
    return f"; {names[0]!r} may be several columns with a {found[0]} between them" if found else ""


def objects(file: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The number of each line that is not blank, from 1, the line itself and the JSON object that it holds."""
    with _lines(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}: line {number}: not readable as JSON: {one_line(error)}") from None
            if not isinstance(content, dict):
                raise UserError(f'{file}: line {number}: expected an object, such as {{"text": .., "label": ..}}')
            yield number, line, content


@contextmanager
def read_errors(file: Path) -> Iterator[None]:
    """Within the block, which does nothing but read `file`, what goes wrong is a UserError about it."""
    try:
        yield
    except UnicodeDecodeError:
        raise UserError(f"{file}: line {first_line_not_utf8(file)}: not UTF-8") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or one_line(error)}") from error


def first_line_not_utf8(path: Path) -> int:
    """The number, from 1, of the first line of a file that is not UTF-8."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path} was not UTF-8 a moment ago")


@contextmanager
def _lines(file: Path) -> Iterator[Iterator[str]]:
    """The lines of a text, with their ends; a byte order mark is dropped."""

    def checked() -> Iterator[str]:
        for number, line in enumerate(stream, start=1):
            if "\0" in line:
                raise UserError(f"{file}: line {number}: has a zero byte, so it is no text; expected UTF-8")
            yield line

    with file.open(encoding="utf-8-sig", newline="") as stream:
        yield checked()


@contextmanager
def _field_size(max_chars: int) -> Iterator[None]:
    """Within the block a field may be so long; the module's own limit is 128 KiB."""
    before = csv.field_size_limit(max_chars)
    try:
        yield
    finally:
        csv.field_size_limit(before)
