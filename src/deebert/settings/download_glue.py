"""What the stage `download_glue` is told; None stands for `default`, whose meaning `params.yaml` says."""

from dataclasses import dataclass
from typing import Any

from deebert.settings.checks import SEED, checked, number, one_of, or_default, text, whole

METRICS = ("accuracy", "f1", "macro_f1")
MAX_VALIDATION_FRAC = 0.5


def _labels(value: Any) -> tuple[str, ...]:
    """Names in the order of their ids, kept as text."""
    items = value if isinstance(value, list) else []
    names = tuple(str(item).strip() for item in items if isinstance(item, str | int) and not isinstance(item, bool))
    if len(items) < 2 or len(set(names)) < len(items) or "" in names:
        raise ValueError("a list of two or more different words or whole numbers")
    return names


_COLUMN = or_default(text, "found by its name")


@dataclass(frozen=True)
class Columns:
    text: str | None = checked(_COLUMN)
    pair: str | None = checked(_COLUMN)
    label: str | None = checked(_COLUMN)


@dataclass(frozen=True)
class DownloadGlue:
    source: str = checked(text)
    toy_seed: int = checked(whole(0))
    columns: Columns
    labels: tuple[str, ...] | None = checked(or_default(_labels, "in order of number or alphabet"))
    metric: str | None = checked(or_default(one_of(METRICS), "the task's own"))
    validation_frac: float = checked(number(0, MAX_VALIDATION_FRAC, above=True))
    split_seed: int = checked(SEED)
