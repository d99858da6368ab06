"""The paper's figures, drawn from rows alone: no model, no data set, no pyplot state.

Rows are lists of flat dicts; every function says which keys it reads. `header` tells what they are about:
`{task, model, metric, num_layers, splits: [...], n: {split: samples}}`. Scores are fractions in [0, 1], entropies and
thresholds nats, layers 1..L. A `test` split is drawn grey and dashed beside the validation splits. Equal rows give
equal bytes of SVG, whatever the user's matplotlib settings are.
"""

import functools
import io
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from deebert.errors import UserError

Row = dict[str, Any]
Header = dict[str, Any]

# Okabe and Ito's palette, told apart with every common kind of colour blindness.
BLUE, ORANGE, GREY, INK = "#0072B2", "#D55E00", "#8A8A8A", "#444444"
METRIC_NAMES = {"f1": "F1"}
LONGEST_MODEL_NAME = 36  # characters
NARROWEST_SCORE_AXIS = 4.0  # points; below that, noise would look like a slope
PANELS_PER_ROW = 4
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


def _styled(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Run `draw` with STYLE on top of matplotlib's defaults instead of the user's settings."""

    @functools.wraps(draw)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with style.context(["default", STYLE]):
            return draw(*args, **kwargs)

    return wrapped


@_styled
def draw_tradeoff(header: Header, sweep: Sequence[Row], thresholds: Sequence[float]) -> Figure:
    """Score against layers saved, one curve per split (figure 2 of the paper).

    Reads `split, criterion, threshold, score, layers_saved_frac` of the rows whose criterion is `entropy`. Each of
    `thresholds` has its row, and so has 0.0, full depth. They are marked on validation curves and named on the first.
    """
    figure = _figure("Score against layers saved", header, (7.5, 5.2))
    ax = figure.add_subplot()
    num_layers, first = header["num_layers"], _validation(header)[0]
    curves = {
        split: {
            row["threshold"]: (100 * row["layers_saved_frac"], 100 * row["score"])
            for row in _of(sweep, split)
            if row["criterion"] == "entropy"
        }
        for split in header["splits"]
    }
    for split, look in _looks(header).items():
        curve, color = curves[split], look["color"]
        full_depth = curve[0.0][1]
        label = f"{_split_name(header, split)}: {full_depth:.1f} % at full depth"
        ax.axhline(full_depth, color=color, **DASHED)
        ax.plot(*np.transpose([curve[threshold] for threshold in sorted(curve)]), label=label, **look)
        if split in _validation(header):
            marks = np.transpose([curve[threshold] for threshold in thresholds])
            ax.plot(*marks, "o", color=color, markeredgecolor="white", markersize=7, zorder=4)
    ax.plot([], [], "o", color=GREY, label="numbers: entropy threshold (nats)")
    full_depth = curves[first][0.0][1]
    ax.axhspan(
        full_depth - 1, full_depth, color=BLUE, alpha=0.12, linewidth=0, label="at most 1 point below full depth"
    )
    ax.set(xlabel="layers saved (%)", ylabel=f"{_metric_name(header['metric'])} (%)")
    ax.set_xlim(-2, 100 - 100 / num_layers + 4)
    _set_score_axis(ax, [score for curve in curves.values() for _, score in curve.values()])
    depth = ax.secondary_xaxis(
        "top", functions=(lambda saved: num_layers * (1 - saved / 100), lambda mean: 100 - 100 * mean / num_layers)
    )
    depth.set(xlabel=f"mean exit layer (of {num_layers})", xticks=_layer_ticks(header, 12))
    figure.legend(loc="outside lower center", ncols=2)
    _name_points(ax, {threshold: curves[first][threshold] for threshold in thresholds})
    return figure


@_styled
def draw_layers(header: Header, rows: Sequence[Row]) -> Figure:
    """Score of the head after every layer, one panel per metric (figure 4 of the paper).

    Reads `split, layer, metric, score`. The dashed line is the last layer's score.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    figure = _figure("Score after each layer", header, (7.5 if len(metrics) == 1 else 10, 4.6))
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(panels, metrics, strict=True):
        of_metric = [row for row in rows if row["metric"] == metric]
        for split, look in _looks(header).items():
            scores = {row["layer"]: 100 * row["score"] for row in _of(of_metric, split)}
            ax.axhline(scores[header["num_layers"]], color=look["color"], **DASHED)
            ax.plot(*np.transpose(sorted(scores.items())), marker="o", label=_split_name(header, split), **look)
        ax.set(xlabel="layer", ylabel=f"{_metric_name(metric)} (%)")
        ax.set_xticks(_layer_ticks(header, 24 // len(metrics)))
        _set_score_axis(ax, [100 * row["score"] for row in of_metric])
    panels[0].plot([], [], color=GREY, label="full depth", **DASHED)
    figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return figure


@_styled
def draw_exits(header: Header, rows: Sequence[Row]) -> Figure:
    """Share of the samples that leave after each layer, one panel per threshold (figure 6 of the paper).

    Reads `split, threshold, layer, exits`. Bars are the validation splits, the dotted outline is the test split. Beside
    other thresholds 0 gets no panel: nobody leaves early there.
    """
    thresholds = sorted({row["threshold"] for row in rows})
    thresholds = [threshold for threshold in thresholds if threshold > 0] or thresholds
    columns = min(PANELS_PER_ROW, len(thresholds))
    lines = -(-len(thresholds) // columns)
    figure = _figure("Where samples leave", header, (max(2.5 * columns, 6), 1.4 + 2.0 * lines))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    bars = _validation(header)
    layers = np.arange(1, header["num_layers"] + 1)
    for ax, threshold in zip(panels.flat, thresholds, strict=False):
        at_threshold = [row for row in rows if row["threshold"] == threshold]
        for split, look in _looks(header).items():
            exits = {row["layer"]: row["exits"] for row in _of(at_threshold, split)}
            shares = np.array([exits[layer] for layer in layers]) / sum(exits.values())  # (L,)
            if split in bars:
                width = 0.8 / len(bars)
                left = layers - 0.4 + width * bars.index(split)
                edges, heights = np.ravel([left, left + width], "F"), np.insert(100 * shares, layers[:-1], 0)
                ax.stairs(heights, edges, fill=True, color=look["color"], label=_split_name(header, split))
            else:
                edges = np.append(layers - 0.5, layers[-1] + 0.5)
                ax.stairs(100 * shares, edges, color=INK, linestyle=":", label=_split_name(header, split))
            if split == bars[0]:
                saved = 100 * (1 - shares @ layers / header["num_layers"])
                ax.set_title(f"threshold {threshold:g} nats\n{saved:.0f} % of layers saved")
        ax.set(xlim=(0.3, header["num_layers"] + 0.7), xticks=_layer_ticks(header, 8))
        ax.grid(axis="x", visible=False)
    for ax in panels.flat[len(thresholds) :]:
        ax.remove()
    for ax in panels.flat[len(thresholds) - columns : len(thresholds)]:
        ax.set_xlabel("exit layer")
        ax.tick_params(labelbottom=True)
    for ax in panels[:, 0]:
        ax.set(ylabel="samples (%)", ylim=(0, None))
    figure.legend(handles=panels[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return figure


@_styled
def draw_entropy(header: Header, rows: Sequence[Row], depth: Sequence[Row]) -> Figure:
    """How sure every head is: entropy by layer, for right and wrong answers and, where there are grades, by difficulty.

    Reads `split, layer, group, q05, q25, q50, q75, q95` and, from `depth` (empty without grades), `split, threshold,
    difficulty, mean_exit_layer`. Each validation split has a panel of boxes: median and quartiles, whiskers from 5 % to
    95 %. The graded panels show the first validation split.
    """
    splits = _validation(header)
    grades = sorted({row["group"] for row in rows if row["group"].startswith("difficulty")})
    figure = _figure("How sure each layer is", header, (8.5, 8.2 if grades else 4.6))
    grid = figure.add_gridspec(2 if grades else 1, 1)
    upper = grid[0].subgridspec(1, len(splits)).subplots(sharey=True, squeeze=False)[0]
    for ax, split in zip(upper, splits, strict=True):
        _draw_boxes(ax, header, _of(rows, split))
        ax.set_title(_split_name(header, split))
    upper[0].set_ylabel("entropy (nats)")
    upper[0].set_ylim(0, 1.15 * max(row["q95"] for row in rows))  # room for the legend above the whiskers
    upper[-1].legend(loc="upper right", ncols=2, borderpad=0)
    if grades:
        by_layer, by_threshold = grid[1].subgridspec(1, 2).subplots()
        _draw_grades(by_layer, header, _of(rows, splits[0]), grades)
        _draw_depth(by_threshold, header, _of(depth, splits[0]))
    return figure


def draw_all(
    header: Header,
    layers: Sequence[Row],
    sweep: Sequence[Row],
    exits: Sequence[Row],
    entropy: Sequence[Row],
    depth: Sequence[Row],
    folder: Path,
) -> list[Path]:
    """Write `tradeoff.svg`, `layers.svg`, `exits.svg` and `entropy.svg` into `folder` and return their paths.

    The thresholds of `exits` are the ones the trade-off curve names.
    """
    figures = {
        "tradeoff": draw_tradeoff(header, sweep, sorted({row["threshold"] for row in exits})),
        "layers": draw_layers(header, layers),
        "exits": draw_exits(header, exits),
        "entropy": draw_entropy(header, entropy, depth),
    }
    return [save(figure, folder / f"{name}.svg") for name, figure in figures.items()]


@_styled
def save(figure: Figure, path: Path) -> Path:
    """Write `figure` as SVG, letters as outlines, without date and version; return `path`."""
    drawing = io.BytesIO()
    figure.savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawing.getvalue())
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _draw_boxes(ax: Axes, header: Header, rows: Sequence[Row]) -> None:
    """Two boxes per layer, from quantiles: entropy where that layer's head is right and where it is wrong."""
    for group, color, shift in (("correct", BLUE, -0.2), ("wrong", ORANGE, 0.2)):
        of_group = [row for row in rows if row["group"] == group]
        if not of_group:
            continue  # a head without mistakes has no entropy of mistakes
        ax.bxp(
            [
                {"whislo": row["q05"], "q1": row["q25"], "med": row["q50"], "q3": row["q75"], "whishi": row["q95"]}
                for row in of_group
            ],
            positions=[row["layer"] + shift for row in of_group],
            widths=0.34,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": color, "edgecolor": color, "alpha": 0.45},
            whiskerprops={"color": color},
            capprops={"color": color},
            medianprops={"color": color, "linewidth": 2},
            manage_ticks=False,
            label=f"answer {group}",
        )
    ax.set(xlabel="layer (box: quartiles, whiskers: 5 % to 95 %)", xlim=(0.4, header["num_layers"] + 0.6))
    ax.set_xticks(_layer_ticks(header, 24 // len(_validation(header))))
    ax.grid(axis="x", visible=False)


def _draw_grades(ax: Axes, header: Header, rows: Sequence[Row], grades: Sequence[str]) -> None:
    """Median entropy after every layer, a line per difficulty over the band between its quartiles."""
    for grade, color in zip(grades, _grade_colors(len(grades)), strict=True):
        of_grade = sorted((row for row in rows if row["group"] == grade), key=lambda row: row["layer"])
        layers, low, median, high = np.transpose(
            [[row[key] for key in ("layer", "q25", "q50", "q75")] for row in of_grade]
        )
        ax.fill_between(layers, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(layers, median, color=color, marker="o", markersize=5)
    ax.set(title="Entropy: median and quartiles", xlabel="layer", ylabel="entropy (nats)", ylim=(0, None))
    ax.set_xticks(_layer_ticks(header, 12))


def _draw_depth(ax: Axes, header: Header, rows: Sequence[Row]) -> None:
    """Mean exit layer against threshold, a line per difficulty."""
    grades = sorted({row["difficulty"] for row in rows})
    for difficulty, color in zip(grades, _grade_colors(len(grades)), strict=True):
        curve = sorted((r["threshold"], r["mean_exit_layer"]) for r in rows if r["difficulty"] == difficulty)
        ax.plot(*np.transpose(curve), color=color, label=f"difficulty {difficulty}")
    ax.set(title="Where samples of a difficulty leave", xlabel="entropy threshold (nats)", ylabel="mean exit layer")
    ax.set_yticks(_layer_ticks(header, 12))
    ax.legend()


def _name_points(ax: Axes, points: dict[float, tuple[float, float]]) -> None:
    """Write each number beside its point, clear of curves and of other numbers; one range for points that coincide.

    The first free of PLACES is taken, tied to the point by a thin line. A number that finds none is left out; its mark
    stays.
    """
    ax.get_figure().draw_without_rendering()  # the layout must be settled before places can be compared
    pixels = ax.get_figure().dpi / 72  # per typographic point
    named: list[tuple[np.ndarray, list[float]]] = []
    for number, point in points.items():
        center = ax.transData.transform(point)
        if named and np.hypot(*(center - named[-1][0])) < 5 * pixels:
            named[-1][1].append(number)
        else:
            named.append((center, [number]))
    curves = [line for line in ax.get_lines() if line.get_linestyle() != "None"]
    drawn = np.concatenate(
        [line.get_transform().transform(line.get_path().interpolated(400).vertices) for line in curves]
    )
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


def _grade_colors(count: int) -> np.ndarray:
    """Colours from easy to hard, darker and darker: in order on a grey print as well."""
    return colormaps["plasma_r"](np.linspace(0.15, 0.95, count))


def _of(rows: Sequence[Row], split: str) -> list[Row]:
    return [row for row in rows if row["split"] == split]


def _validation(header: Header) -> list[str]:
    return [split for split in header["splits"] if not split.startswith("test")]


def _looks(header: Header) -> dict[str, dict[str, Any]]:
    """Colour and line of each split: validation splits in full, test splits behind them."""
    colors = dict(zip(_validation(header), itertools.cycle((BLUE, ORANGE)), strict=False))
    return {
        split: {"color": colors[split], "zorder": 3}
        if split in colors
        else {"color": GREY, "linestyle": "--", "linewidth": 1.5}
        for split in header["splits"]
    }


def _split_name(header: Header, split: str) -> str:
    return f"{split.replace('_', ' ')} (n = {header['n'][split]:,})"


def _metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def _figure(what: str, header: Header, size_inches: tuple[float, float]) -> Figure:
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


def _layer_ticks(header: Header, most: int) -> list[int]:
    """Layers to name on an axis that has room for `most` of them: each, or every second, third, ... up to L."""
    num_layers = header["num_layers"]
    step = -(-num_layers // most)
    return list(range(num_layers, 0, -step))[::-1]


def _set_score_axis(ax: Axes, percents: Sequence[float]) -> None:
    low, high = min(percents), max(percents)
    span = max(high - low, NARROWEST_SCORE_AXIS)
    high = min((low + high + span) / 2, max(high, 100.0))
    ax.set_ylim(high - 1.06 * span, high + 0.06 * span)
