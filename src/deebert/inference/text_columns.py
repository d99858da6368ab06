"""Which columns of a file a model reads."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from deebert.base.errors import UserError
from deebert.data.sources.own_columns import TEXTS
from deebert.data.tables.columns import check_columns
from deebert.data.tables.text import separator_told

log = logging.getLogger(__name__)


def text_count(about: Mapping[str, Any]) -> int:
    """How many texts the model reads of a sample, by what is known `about` it: one, or the two of a pair."""
    return len(about.get("text_columns", ())) or 1


def find_text_columns(
    where: str, names: Sequence[str], wanted: tuple[str, ...] | None, about: Mapping[str, Any]
) -> tuple[str, ...]:
    """The columns that are `wanted`, else those that the model was trained on, else those with usual names.

    Where nobody wants any, case does not matter, and the log says which are read.

    Args:
        about: of the model; its `text_columns` say how many texts it reads, and its `columns`, where there are any,
            what these were called in the files that it was trained on.

    Raises:
        UserError: there are none, or not as many as the model reads.
    """
    trained = tuple(about.get("text_columns", ()))
    if wanted is not None:
        if trained and len(wanted) != len(trained):
            reads = "one text: --text alone" if len(trained) == 1 else "two texts: --text and --pair"
            raise UserError(f"--text, --pair: {', '.join(wanted)} are not as many as the model reads; expected {reads}")
        check_columns(where, wanted, names)
        if len(set(wanted)) < len(wanted):
            raise UserError(f"--pair: {wanted[1]} is the column of --text; expected another one")
        return wanted
    by_name = {name.strip().lower(): name for name in reversed(names)} | {name: name for name in names}
    for group in (tuple(about.get("columns", ())), trained, *TEXTS):
        known = [by_name.get(name, by_name.get(name.strip().lower())) for name in group]
        if len(group) == text_count(about) and None not in known:
            texts = tuple(name for name in known if name is not None)
            log.info("%s: text from column %s", where, " and ".join(texts))
            return texts
    asked = "--text" if len(trained) < 2 else "--text and --pair"
    told = f"{where}: has no column {' and '.join(trained) or 'text'}; found {', '.join(names)}"
    raise UserError(f"{told}; name yours with {asked}{separator_told(names)}")
