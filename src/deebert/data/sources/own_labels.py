"""The classes of a person's own table: words or whole numbers, and their ids.

Ids follow the numbers in numeric order, or the words in alphabetical order (of code points), unless `labels` lists
them. The names of a class column of the Hub keep the order that they have there. Where one label has a leading zero, as
007 has, all are words: codes, which stay as they are written.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from deebert.base.errors import UserError, some
from deebert.data.sources.own_files import Rows

WHOLE = re.compile(r"[-+]?[0-9]{1,18}(\.0*)?")
CODE = re.compile(r"0[0-9]+")
DECIMAL = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE][-+0-9]))([eE][-+]?[0-9]+)?")


def label_names(rows: Rows, column: str, found: Iterable[str], listed: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of train in the order of their ids, from the labels `found` there.

    Raises:
        UserError: there is one class only, words and numbers are mixed, or `listed` are not the classes found.
    """
    classes = set(found)
    if len(classes) < 2:
        raise UserError(
            f"{rows.where}: column {column}: has one class only ({', '.join(classes)}); expected two or more"
        )
    are_codes = any(map(CODE.fullmatch, classes))
    if listed is not None:
        return _as_listed(rows.where, column, classes, [canonical(name, are_codes) for name in listed])
    if order := rows.class_names.get(column):
        return tuple(name for each in order if (name := canonical(each, are_codes)) in classes)
    numbers = set() if are_codes else {name for name in classes if WHOLE.fullmatch(name)}
    if numbers and numbers != classes:
        raise UserError(
            f"{rows.where}: column {column}: mixes numbers and words ({min(numbers)} and {min(classes - numbers)});"
            " expected one kind, or download_glue.labels with all names in the order of their ids"
        )
    return tuple(sorted(classes, key=int) if numbers else sorted(classes))


def _as_listed(where: str, column: str, classes: set[str], listed: Sequence[str]) -> tuple[str, ...]:
    if twice := sorted(name for name in set(listed) if listed.count(name) > 1):
        raise UserError(f"params.yaml: download_glue.labels: names {twice[0]!r} twice; expected each class once")
    for names, told in (
        (sorted(classes - set(listed)), "is not in download_glue.labels"),
        (sorted(set(listed) - classes), "is in download_glue.labels, and in no row"),
    ):
        if names:
            hint = "; codes need quotes, as '007', or YAML reads numbers" if any(map(CODE.fullmatch, classes)) else ""
            raise UserError(
                f"{where}: column {column}: {names[0]!r} {told}; expected the classes {some(sorted(classes))}{hint}"
            )
    return tuple(listed)


def read_labels(rows: Rows, column: str) -> list[str]:
    """The label of each row as text, empty where there is none.

    Raises:
        UserError: a value is neither a word nor a whole number.
    """
    values, seen = rows.values(column), {}
    are_codes = any(isinstance(value, str) and CODE.fullmatch(value.strip()) for value in values)
    for row, value in enumerate(values):
        if (key := (type(value), value if isinstance(value, str | int | float) else None)) not in seen:
            is_known = isinstance(value, str | int | float | None)
            if not is_known or DECIMAL.fullmatch(name := canonical(value, are_codes)):
                raise UserError(
                    f"{rows.place(row)}: column {column}: {str(value)[:40]!r} is no class; expected a word or a whole"
                    " number"
                )
            rows.check_characters(row, column, name)
            seen[key] = name
    return [seen[type(value), value] for value in values]


def canonical(value: Any, are_codes: bool) -> str:
    """One spelling for each label: spaces around it do not count, 1.0 and +1 are 1, true and false are words.

    Args:
        are_codes: numbers stay as they are written.
    """
    if value is None or value != value:  # NaN: what a missing number is read as
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value).strip()
    return str(int(text.partition(".")[0])) if WHOLE.fullmatch(text) and not are_codes else text
