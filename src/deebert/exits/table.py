"""The one table of exit criteria: rows, figures, `dvc plots` and the documents' table all follow from it.

A new criterion is a class in `criteria` and an entry here. Then `python tools/criteria.py` and `make docs` bring the
files in git up to date.
Smaller models, oracles and the like are no criteria; their table, of the same entries, is `analysis.baseline_table`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from deebert.base.rows import Row
from deebert.exits.criteria import ConfidentStreak, Criterion, Margin, MaxProbability, Patience

Grid = Callable[[int, int, int], Sequence[Criterion]]


@dataclass(frozen=True)
class Entry:
    """What is compared on the trade-off of score and layers saved: how it is described and how it looks.

    Attributes:
        label: in legends.
        leaves: when a sample leaves, as the documents' table says it.
        color: as #RRGGBB.
        line: a line style of Matplotlib; None = no line.
        line_width: in typographic points.
        marker: a marker of Matplotlib; None = no marks.
        marker_size: in typographic points.
        grid: makes a criterion's settings from L, C and at most how many of them there may be, from the one by which
            nobody leaves early to the boldest; all are finite numbers. Empty where the criterion has no curve of its
            own: L is too small, or C makes it another one's. None where settings come from elsewhere: from
            `params.yaml`, or fitted.
    """

    label: str
    leaves: str
    color: str
    line: str | tuple[int, tuple[int, int]] | None = "solid"
    line_width: float = 1.5
    marker: str | None = None
    marker_size: float = 5
    grid: Grid | None = None


def full_depth_row(rows: Iterable[Row]) -> Row:
    """Of one split's sweep rows, entropy's at threshold 0: everybody leaves at layer L."""
    return next(row for row in rows if (row["criterion"], row["threshold"]) == ("entropy", 0.0))


# By the names in rows, in the order of legends. The colours are of Okabe and Ito's palette, wine and indigo of Paul
# Tol's: told apart with every common kind of colour blindness. With two classes maximum probability lies on entropy,
# hence its gaps.
CRITERIA: dict[str, Entry] = {
    "entropy": Entry(
        label="entropy",
        leaves="at the first ramp with entropy below the threshold; the paper's",
        color="#0072B2",
        line_width=2.5,
    ),
    "max_probability": Entry(
        label="maximum probability",
        leaves="at the first ramp with top probability above the threshold; for two classes the same order of samples",
        color="#E69F00",
        line=(0, (3, 3)),
        line_width=2,
        grid=MaxProbability.grid,
    ),
    "margin": Entry(
        label="margin of the top two",
        leaves="at the first ramp whose top two probabilities differ by more than the threshold; not for two classes",
        color="#882255",
        line="dashdot",
        line_width=2,
        grid=Margin.grid,
    ),
    "layer_thresholds": Entry(
        label="a threshold per ramp",
        leaves="as by entropy, with a threshold per ramp; fitted on one half of the samples and judged on the other",
        color="#56B4E9",
        marker="^",
    ),
    "consistency": Entry(
        label="consistency",
        leaves="at the first ramp where full depth is likely enough to answer alike, by this ramp and the one before; "
        "fitted on one half of the samples and judged on the other (CATs)",
        color="#332288",
        line="dashed",
        line_width=2,
    ),
    "patience": Entry(
        label="patience",
        leaves="after so many heads in a row that repeat the answer before (PABEE)",
        color="#009E73",
        marker="o",
        grid=Patience.grid,
    ),
    "confident_streak_2": Entry(
        label="2 sure ramps in a row",
        leaves="after 2 ramps in a row with top probability above the threshold (PCEE)",
        color="#CC79A7",
        grid=partial(ConfidentStreak.grid, 2),
    ),
    "confident_streak_3": Entry(
        label="3 sure ramps in a row",
        leaves="after 3 ramps in a row with top probability above the threshold (PCEE)",
        color="#D55E00",
        grid=partial(ConfidentStreak.grid, 3),
    ),
}
