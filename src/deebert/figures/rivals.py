"""Score against time: early exit beside what a person could run instead, drawn from the benchmark's rows alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from deebert.base.rows import Row
from deebert.figures.drawing import (
    BLUE,
    GREY,
    INK,
    ORANGE,
    legend_entries,
    metric_name,
    name_points,
    new_figure,
    set_score_axis,
    styled,
)

MODES = {"batch_1": "one at a time", "batched": "all at once"}
COLORS = {
    "DeeBERT": BLUE,
    "DeeBERT in ONNX Runtime": "#CC79A7",
    "transformers": GREY,
    "torch.compile": "#E69F00",
    "ONNX Runtime": ORANGE,
    "OpenVINO": "#009E73",
}
MARKERS = {"fp32": "o", "bf16": "D", "int8": "^"}


@styled
def draw_rivals(result: Mapping[str, Any]) -> Figure:
    """A panel for each mode and number of threads: time of a sentence (ms, logarithmic) and score (%).

    A mark is a full model. Early exit is a curve from the plain engine on. Models cut to fewer layers are joined with
    the whole one, in the rival that is the fastest in that panel.

    Args:
        result: what `make rivals` writes. Of its rows `kind, library, precision, layers, threads, mode, ms, score,
            layers_saved_frac` are read.
    """
    rows = result["rows"]
    threads = sorted({row["threads"] for row in rows})
    figure = new_figure(f"Score against time, {result['n']:,} sentences", result, (max(9, 5.2 * len(threads)), 8.6))
    panels = figure.subplots(len(MODES), len(threads), squeeze=False)
    for axes, (mode, told) in zip(panels, MODES.items(), strict=True):
        for ax, count in zip(axes, threads, strict=True):
            here = [row for row in rows if (row["mode"], row["threads"]) == (mode, count)]
            _draw_panel(ax, here, result["precision"])
            ax.set(title=f"{told}, threads: {count}", ylabel=f"{metric_name(result['metric'])} (%)")
            ax.set_xlabel("time of a sentence (ms)")
    figure.legend(*legend_entries(panels.flat), loc="outside lower center", ncols=2)
    for ax in panels.flat:
        if hasattr(ax, "exits"):
            name_points(ax, ax.exits)
    return figure


def _draw_panel(ax: Axes, rows: Sequence[Row], precision: str) -> None:
    ax.set_xscale("log")
    for row in rows:
        if row["kind"] in ("rival", "plain"):
            name = f"{row['library']} {row['precision']}" + (", plain" if row["kind"] == "plain" else "")
            looks = {"color": COLORS[row["library"]], "marker": MARKERS[row["precision"]]}
            ax.plot(*_point(row), **looks, linestyle="None", markersize=7, label=name, zorder=4)
    if line := cut_line(rows):
        label = "cut models and the whole one, in the fastest rival"
        ax.plot(*zip(*map(_point, line), strict=True), color=INK, linestyle="--", marker="x", label=label)
    own = [row for row in rows if row["kind"] in ("plain", "early_exit") and row["precision"] == precision]
    ways = sorted({row["library"] for row in own if row["kind"] == "early_exit"})
    for way in ways:
        curve = sorted((row for row in own if row["library"] == way), key=lambda row: row["layers_saved_frac"])
        numbers = "; numbers: layers saved (%)" if way == ways[0] else ""
        looks = {"color": COLORS[way], "marker": ".", "zorder": 3}
        ax.plot(*zip(*map(_point, curve), strict=True), **looks, label=f"{way} {precision}, early exit{numbers}")
    numbered = [row for row in own if row["kind"] == "early_exit" and row["library"] == ways[0]]
    ax.exits = {round(100 * row["layers_saved_frac"]): _point(row) for row in numbered}
    set_score_axis(ax, [100 * row["score"] for row in rows if row["kind"] != "cut" or row in line])
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())


def cut_line(rows: Sequence[Row]) -> list[Row]:
    """Of a panel's rows cut models and the whole one, from few layers to all, in the fastest rival that ran them.

    Empty where there are none.
    """
    cut = [row for row in rows if row["kind"] == "cut"]
    runs = {_runs(row) for row in cut}
    whole = min((row for row in rows if row["kind"] == "rival" and _runs(row) in runs), key=_point, default=None)
    if whole is None:
        return []
    return [*sorted((row for row in cut if _runs(row) == _runs(whole)), key=lambda row: row["layers"]), whole]


def _runs(row: Row) -> tuple[str, str]:
    return row["library"], row["precision"]


def _point(row: Row) -> tuple[float, float]:
    return row["ms"], 100 * row["score"]
