"""Tables as text on a terminal."""

from collections.abc import Iterable, Sequence


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
