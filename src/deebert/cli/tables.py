"""Tables as text on a terminal."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deebert.export.folder import Chosen
    from deebert.inference.thresholds import Certified, Recommended, Thresholds

PAIRS_PER_LINE = 6


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


def thresholds_told(known: "Thresholds") -> list[str]:
    """The score of each layer, and what is recommended and certified."""
    metric = known.metric or "score"
    return [
        f"measured on {known.n:,} samples of {known.split}, in {known.precision}:",
        "",
        f"if everybody leaves after layer: {metric} (%)",
        *_side_by_side([(str(each.layer), percent(each.score)) for each in known.scores]),
        "",
        *recommended_table(metric, known.recommended),
        *certified_tables(known),
    ]


def certified_tables(known: "Thresholds | Chosen") -> list[str]:
    """For each kind of loss an empty line, a heading, and a row for each share that is allowed."""
    lines = []
    for what, certified in (
        ("points of accuracy lost at most", known.certified),
        ("% of answers other than full depth's at most", known.certified_changed),
    ):
        if certified:
            sure = f"certified with {100 * known.certified_confidence:g} % confidence, by"
            rows = map(_certified_row, certified)
            lines += ["", f"{sure} {what}: threshold (nats), layers saved (%)", *table(rows)]
    return lines


def _certified_row(each: "Certified") -> list[str]:
    if each.threshold_nats == 0:
        return [f"{100 * each.risk:g}", "none", ""]
    return [f"{100 * each.risk:g}", f"{each.threshold_nats}", percent(each.layers_saved_frac)]


def _side_by_side(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs of numbers, several on a line, as of a column each."""
    left, right = (max(map(len, side)) for side in zip(*pairs, strict=True))
    cells = [f"{first.rjust(left)}  {second.rjust(right)}" for first, second in pairs]
    starts = range(0, len(cells), PAIRS_PER_LINE)
    return [f"  {'     '.join(cells[start : start + PAIRS_PER_LINE])}" for start in starts]
