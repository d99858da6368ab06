"""Which columns a table has."""

from collections.abc import Sequence

from deebert.base.errors import UserError


def check_columns(where: str, expected: Sequence[str], found: Sequence[str], hint: str = "") -> None:
    """UserError where one of the `expected` columns is not `found`; it ends with `hint`."""
    for column in expected:
        if column not in found:
            raise UserError(f"{where}: has no column {column}; found {', '.join(found) or 'none'}{hint}")
