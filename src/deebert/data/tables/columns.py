"""Which columns a table has."""

from collections.abc import Sequence
from pathlib import Path

from deebert.base.errors import UserError


def check_columns(where: str, expected: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    """UserError where one of the `expected` columns is not `found`; it ends with `hint`."""
    for column in expected:
        if column not in found:
            raise UserError(f"{where}: has no column {column}; found {', '.join(found) or 'none'}{hint}")


def check_names(file: Path, names: Sequence[str]) -> None:
    """UserError where two columns of a file have one name."""
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{file}: has the column {twice[0]} twice; expected different names")
