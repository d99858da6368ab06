"""What all figures share: style, colours, titles, axes, names beside points, and files of equal bytes for equal rows.

Figures are drawn from rows alone: no model, no data set, no pyplot state. Rows are lists of flat dicts; every function
that draws says which keys it reads. A `header` tells what they are about: `{task, model, metric, num_layers, splits:
[...], test_splits: [...], n: {split: samples}}`. Scores are fractions in [0, 1], entropies and thresholds nats, layers
1..L. A test split is drawn grey and dashed beside the validation splits.
"""

import functools
import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from deebert.base.files import write_bytes
from deebert.base.rows import Row
from deebert.data.scores import METRIC_NAMES
from deebert.exits.table import Entry

Header = dict[str, Any]

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#444444"
LONGEST_MODEL_NAME = 36  # characters
NARROWEST_SCORE_AXIS = 4.0  # points; below that, noise would look like a slope
PLACES = [  # around a point, in typographic points: near ones first, above the curve first
    radius * np.array([np.cos(angle), np.sin(angle)])
    for radius in (16, 24, 34, 46, 60, 76, 94, 114)
    for angle in np.radians((50, 90, 20, 130, -130, -90, -50, 180, -20, 160, 70, 110, 0, -160, -110, -70))
]

STYLE = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "svg.fonttype": "path",  # the same letters in a README, a browser and an editor
    "svg.hashsalt": "deebert",
    "text.parse_math": False,  # `$` in a model's path is a letter
}
DASHED = {"linewidth": 1, "linestyle": (0, (4, 3))}


def styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Run `draw`, which draws or saves a figure, with STYLE on matplotlib's defaults, whatever the user has set."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return wrapped


@styled
def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as SVG, letters as outlines, without date and version; return `path`."""
    drawing = io.BytesIO()
    settle(figure)
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    write_bytes(path, drawing.getvalue())
    return path


def settle(figure: Figure) -> None:
    """Give all parts of `figure` their places, once: else each drawing of it does, and that takes most of its time."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def name_points(ax: Axes, points: dict[float, tuple[float, float]]) -> None:
    """Write each number beside its point, clear of curves and of other numbers; one range for points that coincide.

    The first free of PLACES is taken, tied to the point by a thin line. A number that finds none is left out; its mark
    stays.
    """
    settle(ax.get_figure())  # before places can be compared
    pixels = ax.get_figure().dpi / 72  # per typographic point
    named: list[tuple[np.ndarray, list[float]]] = []
    for number, point in points.items():
        center = ax.transData.transform(point)
        if named and np.hypot(*(center - named[-1][0])) < 5 * pixels:
            named[-1][1].append(number)
        else:
            named.append((center, [number]))
    drawn = np.concatenate([_points_along(line) for line in ax.get_lines() if len(line.get_xdata())])
    taken: list[Bbox] = []
    for center, numbers in named:
        name = "–".join(f"{number:g}" for number in dict.fromkeys((numbers[0], numbers[-1])))
        tie = {"arrowstyle": "-", "color": INK, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 4}
        text = ax.annotate(name, points[numbers[0]], (0, 0), textcoords="offset points", arrowprops=tie)
        text.set(ha="center", va="center", in_layout=False)
        half = text.get_window_extent().padded(2).size / 2
        for place in PLACES:
            middle = center + pixels * place
            box = Bbox([middle - half, middle + half])
            way = np.linspace(center, middle, 10)
            covers = box.count_contains(drawn) or box.count_overlaps(taken) or any(b.count_contains(way) for b in taken)
            if not covers and ax.bbox.count_contains(box.corners()) == 4:
                text.xyann = tuple(place)
                taken.append(box)
                break
        else:
            text.remove()


def _points_along(line: Line2D) -> np.ndarray:
    """Points (n, 2) in pixels of what is drawn: of marks middle and corners, of a line close points all along it."""
    path = line.get_path() if line.get_linestyle() == "None" else line.get_path().interpolated(400)
    points = line.get_transform().transform(path.vertices)
    if line.get_marker() == "None":
        return points
    middles = line.get_transform().transform(line.get_path().vertices)
    half = line.get_markersize() / 2 * line.get_figure().dpi / 72
    corners = [middles + half * np.array(way) for way in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
    return np.concatenate([points, *corners])


def grade_colors(count: int) -> np.ndarray:
    """Colours from easy to hard, darker and darker: in order on a grey print as well."""
    return colormaps["plasma_r"](np.linspace(0.15, 0.95, count))


def of_split(rows: Sequence[Row], split: str) -> list[Row]:
    """Rows of one split."""
    return [row for row in rows if row["split"] == split]


def validation_splits(header: Header) -> list[str]:
    """Names of the validation splits; the first is the one that figures of one split show."""
    return [split for split in header["splits"] if split not in header["test_splits"]]


def looks(header: Header) -> dict[str, dict[str, Any]]:
    """Colour and line of each split: validation splits in full, test splits behind them."""
    colors = dict(zip(validation_splits(header), itertools.cycle((BLUE, ORANGE)), strict=False))
    return {
        split: {"color": colors[split], "zorder": 3}
        if split in colors
        else {"color": GREY, "linestyle": "--", "linewidth": 1.5}
        for split in header["splits"]
    }


def of_criterion(rows: Sequence[Row], criterion: str) -> list[Row]:
    """Rows of one criterion or baseline, in their order."""
    return [row for row in rows if row["criterion"] == criterion]


def line_style(entry: Entry) -> dict[str, Any]:
    """What `Axes.plot` is told of how a criterion or baseline looks."""
    return {
        "color": entry.color,
        "linestyle": entry.line or "None",
        "linewidth": entry.line_width,
        "marker": entry.marker or "None",
        "markersize": entry.marker_size,
    }


def percents(rows: Sequence[Row], key: str = "score") -> tuple[list[float], list[float]]:
    """Layers saved and `key` of sweep rows, both in percent: what trade-off figures plot."""
    return [100 * row["layers_saved_frac"] for row in rows], [100 * row[key] for row in rows]


def split_name(header: Header, split: str) -> str:
    """A split and its number of samples, for a legend."""
    return f"{split.replace('_', ' ')} (n = {header['n'][split]:,})"


def metric_name(metric: str) -> str:
    """A metric as people write it."""
    return METRIC_NAMES[metric]


def legend_entries(panels: Iterable[Axes]) -> tuple[list[Any], list[str]]:
    """Handles and labels of all panels, each label once, for one legend of the whole figure."""
    found: dict[str, Any] = {}
    for ax in panels:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def new_figure(what: str, header: Header, size_inches: tuple[float, float]) -> Figure:
    """An empty figure whose title says `what`, task and model."""
    figure = Figure(figsize=size_inches, layout="constrained")
    figure.suptitle(f"{what}: {header['task']}, {short_model_name(header['model'])}")
    return figure


def short_model_name(model: str) -> str:
    """`model` (a short name, Hub id or folder) in at most LONGEST_MODEL_NAME characters; of a path, the end counts."""
    name = " ".join(model.split()).rstrip("/")
    while len(name) > LONGEST_MODEL_NAME and "/" in name.removeprefix("…/"):
        name = "…/" + name.removeprefix("…/").split("/", 1)[1]
    if len(name) > LONGEST_MODEL_NAME:
        half = (LONGEST_MODEL_NAME - 1) // 2
        name = f"{name[:half]}…{name[-half:]}"
    return name


def layer_ticks(header: Header, most: int) -> list[int]:
    """Layers to name on an axis that has room for `most` of them: each, or every second, third, ... up to L."""
    num_layers = header["num_layers"]
    step = -(-num_layers // most)
    return list(range(num_layers, 0, -step))[::-1]


def set_score_axis(ax: Axes, percents: Sequence[float]) -> None:
    """Limits that hold all `percents` and never blow up noise: at least NARROWEST_SCORE_AXIS points."""
    low, high = min(percents), max(percents)
    span = max(high - low, NARROWEST_SCORE_AXIS)
    high = min((low + high + span) / 2, max(high, 100.0))
    ax.set_ylim(high - 1.06 * span, high + 0.06 * span)
