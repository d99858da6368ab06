"""Which columns of a person's own table hold the texts and the class."""

from collections.abc import Sequence
from dataclasses import dataclass

from deebert.base.errors import UserError
from deebert.data.tables.columns import check_columns
from deebert.data.tables.text import separator_told
from deebert.settings.download_glue import Columns

TEXTS = (  # usual names, in the order in which they are looked for
    ("text",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "answer"),
    ("question", "sentence"),
    ("sentence",),
)
LABELS = ("label", "labels", "category", "class", "intent", "target")


@dataclass(frozen=True)
class Found:
    """The names of one text column or two, and of the one of the class."""

    texts: tuple[str, ...]
    label: str


def find_columns(where: str, names: Sequence[str], wanted: Columns) -> Found:
    """The columns that are `wanted`, else those of `names` that have usual names, whatever their case.

    Raises:
        UserError: there is none; it tells the names that are there.
    """
    if wanted.pair is not None and wanted.text is None:
        raise UserError(
            f"params.yaml: download_glue.columns.pair: {wanted.pair!r} without a text is not allowed; set"
            " download_glue.columns.text as well"
        )
    texts = tuple(name for name in (wanted.text, wanted.pair) if name is not None)
    texts = texts or _usual(where, names, TEXTS, "text")
    label = wanted.label or _usual(where, names, [(name,) for name in LABELS], "label")[0]
    check_columns(where, [*texts, label], names)
    if len({*texts, label}) <= len(texts):
        raise UserError(f"params.yaml: download_glue.columns: {', '.join([*texts, label])}: expected different columns")
    return Found(texts, label)


def is_as_label(name: str, label: str) -> bool:
    """Whether a column `name` may be what another table calls `label`: by case or spaces alone, or as a usual name."""
    return name.strip().lower() in (label.strip().lower(), *LABELS)


def _usual(where: str, names: Sequence[str], usual: Sequence[tuple[str, ...]], kind: str) -> tuple[str, ...]:
    lower = {name.strip().lower(): name for name in reversed(names)}
    for group in usual:
        if all(name in lower for name in group):
            return tuple(lower[name] for name in group)
    looked_for = ", or ".join(" and ".join(group) for group in usual)
    raise UserError(
        f"{where}: has no column for the {kind}; found {', '.join(names) or 'none'}; set download_glue.columns.{kind};"
        f" looked for {looked_for}{separator_told(names)}"
    )
