"""Tables as text on a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deebert.inference.thresholds import Recommended


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Each row as a line; columns begin below one another."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows as lines that stand back, or that they are unknown."""
    return [f"  {line}" for line in aligned(rows)] or ["  unknown"]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def recommended_table(metric: str, recommended: Iterable["Recommended"]) -> list[str]:
    """A heading and a row for each loss of `metric` that is allowed."""
    return [
        f"recommended for a loss of so many points of {metric}: threshold (nats), layers saved (%), {metric} (%) on"
        " samples not used to choose",
        *table(
            [
                f"{each.drop_points:g}",
                f"{each.threshold_nats:g}",
                percent(each.layers_saved_frac),
                percent(each.cross_fitted_score),
            ]
            for each in recommended
        ),
    ]
