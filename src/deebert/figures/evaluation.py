"""The paper's figures, drawn from rows alone; `drawing` says what rows and headers are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deebert.analysis.baseline_table import BASELINES
from deebert.base.rows import Row
from deebert.exits.rule import layers_saved_frac
from deebert.figures.drawing import (
    BLUE,
    DASHED,
    GREY,
    INK,
    ORANGE,
    Header,
    grade_colors,
    layer_ticks,
    line_style,
    looks,
    metric_name,
    name_points,
    new_figure,
    of_criterion,
    of_split,
    percents,
    set_score_axis,
    split_name,
    styled,
    validation_splits,
)

PANELS_PER_ROW = 4


@styled
def draw_tradeoff(header: Header, sweep: Sequence[Row], bands: Sequence[Row], thresholds: Sequence[float]) -> Figure:
    """Score against layers saved, one entropy curve per split (figure 2 of the paper), and what to hold it against.

    Reads `split, criterion, threshold, score, layers_saved_frac` of `sweep` and `split, layers_saved_frac, score_low,
    score_high` of `bands`. Each of `thresholds` has its row, and so has 0.0, full depth. They are marked on validation
    curves and named on the first, whose split's baselines are drawn in grey.
    """
    figure = new_figure("Score against layers saved", header, (7.5, 5.6))
    ax = figure.add_subplot()
    num_layers, first = header["num_layers"], validation_splits(header)[0]
    entropy = of_criterion(sweep, "entropy")
    curves = {
        split: {
            row["threshold"]: (100 * row["layers_saved_frac"], 100 * row["score"]) for row in of_split(entropy, split)
        }
        for split in header["splits"]
    }
    for split, look in looks(header).items():
        curve, color = curves[split], look["color"]
        full_depth = curve[0.0][1]
        label = f"{split_name(header, split)}: {full_depth:.1f} % at full depth"
        ax.axhline(full_depth, color=color, **DASHED)
        ax.plot(*np.transpose([curve[threshold] for threshold in sorted(curve)]), label=label, **look)
        if split in validation_splits(header):
            band = of_split(bands, split)
            saved, low = percents(band, "score_low")
            _, high = percents(band, "score_high")
            label = "its 95 % interval, threshold by threshold" if split == first else None
            ax.fill_between(saved, low, high, color=color, alpha=0.2, linewidth=0, label=label)
            marks = np.transpose([curve[threshold] for threshold in thresholds])
            ax.plot(*marks, "o", color=color, markeredgecolor="white", markersize=7, zorder=4)
    ax.plot([], [], "o", color=GREY, label="numbers: entropy threshold (nats)")
    baselines = of_split(sweep, first)
    beside = {name: entry for name, entry in BASELINES.items() if name != "oracle"}  # which would stretch the axis
    for name, entry in beside.items():
        if rows := of_criterion(baselines, name):
            ax.plot(*percents(rows), label=entry.label, **line_style(entry))
    ax.set(xlabel="layers saved (%)", ylabel=f"{metric_name(header['metric'])} (%)")
    ax.set_xlim(-2, 100 - 100 / num_layers + 4)
    drawn = [row for row in baselines if row["criterion"] in beside]
    around = [score for key in ("score_low", "score_high") for score in percents(bands, key)[1]]
    within = [score for curve in curves.values() for _, score in curve.values()]
    set_score_axis(ax, [*within, *around, *percents(drawn)[1]])
    depth = ax.secondary_xaxis(
        "top", functions=(lambda saved: num_layers * (1 - saved / 100), lambda mean: 100 - 100 * mean / num_layers)
    )
    depth.set(xlabel=f"mean exit layer (of {num_layers})", xticks=layer_ticks(header, 12))
    figure.legend(loc="outside lower center", ncols=2)
    name_points(ax, {threshold: curves[first][threshold] for threshold in thresholds})
    return figure


@styled
def draw_layers(header: Header, rows: Sequence[Row]) -> Figure:
    """Score of the head after every layer, one panel per metric (figure 4 of the paper).

    Reads `split, layer, metric, score`. The dashed line is the last layer's score.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    figure = new_figure("Score after each layer", header, (7.5 if len(metrics) == 1 else 10, 4.6))
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for ax, metric in zip(panels, metrics, strict=True):
        of_metric = [row for row in rows if row["metric"] == metric]
        for split, look in looks(header).items():
            scores = {row["layer"]: 100 * row["score"] for row in of_split(of_metric, split)}
            ax.axhline(scores[header["num_layers"]], color=look["color"], **DASHED)
            ax.plot(*np.transpose(sorted(scores.items())), marker="o", label=split_name(header, split), **look)
        ax.set(xlabel="layer", ylabel=f"{metric_name(metric)} (%)")
        ax.set_xticks(layer_ticks(header, 24 // len(metrics)))
        set_score_axis(ax, [100 * row["score"] for row in of_metric])
    panels[0].plot([], [], color=GREY, label="full depth", **DASHED)
    figure.legend(handles=panels[0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return figure


@styled
def draw_exits(header: Header, rows: Sequence[Row]) -> Figure:
    """Share of the samples that leave after each layer, one panel per threshold (figure 6 of the paper).

    Reads `split, threshold, layer, exits`. Bars are the validation splits, the dotted outline is the test split. Beside
    other thresholds 0 gets no panel: nobody leaves early there.
    """
    thresholds = sorted({row["threshold"] for row in rows})
    thresholds = [threshold for threshold in thresholds if threshold > 0] or thresholds
    columns = min(PANELS_PER_ROW, len(thresholds))
    lines = -(-len(thresholds) // columns)
    figure = new_figure("Where samples leave", header, (max(2.5 * columns, 6), 1.4 + 2.0 * lines))
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    bars = validation_splits(header)
    layers = np.arange(1, header["num_layers"] + 1)
    for ax, threshold in zip(panels.flat, thresholds, strict=False):
        at_threshold = [row for row in rows if row["threshold"] == threshold]
        for split, look in looks(header).items():
            exits = {row["layer"]: row["exits"] for row in of_split(at_threshold, split)}
            shares = np.array([exits[layer] for layer in layers]) / sum(exits.values())  # (L,)
            if split in bars:
                width = 0.8 / len(bars)
                left = layers - 0.4 + width * bars.index(split)
                edges, heights = np.ravel([left, left + width], "F"), np.insert(100 * shares, layers[:-1], 0)
                ax.stairs(heights, edges, fill=True, color=look["color"], label=split_name(header, split))
            else:
                outline_exits(ax, shares, split_name(header, split))
            if split == bars[0]:
                saved = 100 * layers_saved_frac(shares @ layers, header["num_layers"])
                ax.set_title(f"threshold {threshold:g} nats\n{saved:.0f} % of layers saved")
        ax.set(xlim=(0.3, header["num_layers"] + 0.7), xticks=layer_ticks(header, 8))
        ax.grid(axis="x", visible=False)
    label_exit_panels(panels, len(thresholds))
    figure.legend(handles=panels[0, 0].get_legend_handles_labels()[0], loc="outside lower center", ncols=3)
    return figure


def outline_exits(ax: Axes, shares: np.ndarray, label: str) -> None:
    """Draw shares (L,) of the samples that leave after each layer as a dotted outline, for bars to be held against."""
    ax.stairs(100 * shares, np.arange(len(shares) + 1) + 0.5, color=INK, linestyle=":", label=label)


def label_exit_panels(panels: np.ndarray, count: int) -> None:
    """Keep the first `count` of a grid of panels (lines, columns), and name the axes at its edges."""
    for ax in panels.flat[count:]:
        ax.remove()
    for ax in panels.flat[count - panels.shape[1] : count]:
        ax.set_xlabel("exit layer")
        ax.tick_params(labelbottom=True)
    for ax in panels[:, 0]:
        ax.set(ylabel="samples (%)", ylim=(0, None))


@styled
def draw_entropy(header: Header, rows: Sequence[Row], depth: Sequence[Row]) -> Figure:
    """How sure every head is: entropy by layer, for right and wrong answers and, where there are grades, by difficulty.

    Reads `split, layer, group, q05, q25, q50, q75, q95` and, from `depth` (empty without grades), `split, threshold,
    difficulty, mean_exit_layer`. Each validation split has a panel of boxes: median and quartiles, whiskers from 5 % to
    95 %. The graded panels show the first validation split.
    """
    splits = validation_splits(header)
    grades = sorted({row["group"] for row in rows if row["group"].startswith("difficulty")})
    figure = new_figure("How sure each layer is", header, (8.5, 8.2 if grades else 4.6))
    grid = figure.add_gridspec(2 if grades else 1, 1)
    upper = grid[0].subgridspec(1, len(splits)).subplots(sharey=True, squeeze=False)[0]
    for ax, split in zip(upper, splits, strict=True):
        _draw_boxes(ax, header, of_split(rows, split))
        ax.set_title(split_name(header, split))
    upper[0].set_ylabel("entropy (nats)")
    upper[0].set_ylim(0, 1.05 * max(row["q95"] for row in rows))
    handles = upper[0].get_legend_handles_labels()[0]
    if grades:
        by_layer, by_threshold = grid[1].subgridspec(1, 2).subplots()
        _draw_grades(by_layer, header, of_split(rows, splits[0]), grades)
        _draw_depth(by_threshold, header, of_split(depth, splits[0]))
        handles += by_threshold.get_legend_handles_labels()[0]
    figure.legend(handles=handles, loc="outside lower center", ncols=6)  # outside: boxes may be anywhere up to ln C
    return figure


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
    ax.set_xticks(layer_ticks(header, 24 // len(validation_splits(header))))
    ax.grid(axis="x", visible=False)


def _draw_grades(ax: Axes, header: Header, rows: Sequence[Row], grades: Sequence[str]) -> None:
    """Median entropy after every layer, a line per difficulty over the band between its quartiles."""
    for grade, color in zip(grades, grade_colors(len(grades)), strict=True):
        of_grade = sorted((row for row in rows if row["group"] == grade), key=lambda row: row["layer"])
        layers, low, median, high = np.transpose(
            [[row[key] for key in ("layer", "q25", "q50", "q75")] for row in of_grade]
        )
        ax.fill_between(layers, low, high, color=color, alpha=0.15, linewidth=0)
        ax.plot(layers, median, color=color, marker="o", markersize=5)
    ax.set(title="Entropy: median and quartiles", xlabel="layer", ylabel="entropy (nats)", ylim=(0, None))
    ax.set_xticks(layer_ticks(header, 12))


def _draw_depth(ax: Axes, header: Header, rows: Sequence[Row]) -> None:
    """Mean exit layer against threshold, a line per difficulty."""
    grades = sorted({row["difficulty"] for row in rows})
    for difficulty, color in zip(grades, grade_colors(len(grades)), strict=True):
        curve = sorted((r["threshold"], r["mean_exit_layer"]) for r in rows if r["difficulty"] == difficulty)
        ax.plot(*np.transpose(curve), color=color, label=f"difficulty {difficulty}")
    ax.set(title="Where samples of a difficulty leave", xlabel="entropy threshold (nats)", ylabel="mean exit layer")
    ax.set_yticks(layer_ticks(header, 12))
