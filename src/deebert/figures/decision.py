"""The figures by which to choose: criteria side by side, recommended thresholds, and who leaves where by them."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deebert.analysis.baseline_table import BASELINES
from deebert.base.rows import Row
from deebert.exits.table import CRITERIA, full_depth_row
from deebert.figures.drawing import (
    BLUE,
    DASHED,
    GREY,
    INK,
    ORANGE,
    Header,
    layer_ticks,
    legend_entries,
    line_style,
    metric_name,
    new_figure,
    of_criterion,
    of_split,
    percents,
    set_score_axis,
    split_name,
    styled,
    validation_splits,
)

RIVALS = ("entropy", "truncated", "distilled")  # among these one chooses: none is to lie beyond the close view
FEW_PERCENT = 1.0  # of the samples; what fewer have in common may be chance
CLOSE_POINTS = 3.0  # of score below full depth, where one would choose


@styled
def draw_criteria(header: Header, sweep: Sequence[Row]) -> Figure:
    """Every criterion and baseline on the first validation split, in full and where the score is nearly kept.

    Reads `split, criterion, threshold, score, layers_saved_frac`; a criterion without rows is left out.
    """
    split = validation_splits(header)[0]
    figure = new_figure("Exit criteria and baselines", header, (10, 5.4))
    rows = of_split(sweep, split)
    whole, close = figure.subplots(1, 2)
    full_depth = 100 * full_depth_row(rows)["score"]
    for ax in (whole, close):
        ax.axhline(full_depth, color=BLUE, **DASHED)
        for name, entry in (CRITERIA | BASELINES).items():
            if curve := of_criterion(rows, name):
                ax.plot(*percents(curve), label=entry.label, **line_style(entry))
        ax.set(xlabel="layers saved (%)", ylabel=f"{metric_name(header['metric'])} (%)")
    whole.set(title=split_name(header, split), xlim=(-2, 102 - 100 / header["num_layers"]))
    set_score_axis(whole, percents(rows)[1])
    floor = full_depth - CLOSE_POINTS
    near = [row for row in rows if 100 * row["score"] >= floor]
    furthest = {name: max(percents(of_criterion(near, name))[0], default=0.0) for name in RIVALS}
    best = max(percents([row for row in near if row["criterion"] in RIVALS])[1])
    close.set(title=f"within {CLOSE_POINTS:g} points of full depth")
    close.set(xlim=(max(furthest["entropy"] - 25, -2), max(furthest.values()) + 8))
    close.set(ylim=(floor, best + 0.1 * CLOSE_POINTS))
    figure.legend(handles=whole.get_legend_handles_labels()[0], loc="outside lower center", ncols=4)
    return figure


@styled
def draw_choice(header: Header, choice: Sequence[Row], certificates: Sequence[Row], sweep: Sequence[Row]) -> Figure:
    """Two tables of the first validation split: the threshold recommended per target, and what is guaranteed.

    Reads rows of `choice_rows` and `certificate_rows`, and of `sweep` what the test split, where there is one, says of
    the same thresholds.
    """
    split = validation_splits(header)[0]
    tests = [name for name in header["splits"] if name not in validation_splits(header)]
    chosen, promised = of_split(choice, split), of_split(certificates, split)
    score = f"{metric_name(header['metric'])}\n(%)"
    heads = ["may lose\n(points)", "threshold\n(nats)", "layers saved\n(%)", score, "loses\n(points)"]
    if tests:
        heads.append("on the test\nsplit loses")
        at = {row["threshold"]: row["score"] for row in of_criterion(of_split(sweep, tests[0]), "entropy")}
    table = []
    for row in chosen:
        cells = [
            f"{row['target_drop_points']:g}",
            f"{row['threshold']:g}",
            _spread(100 * row["layers_saved_frac"], 100 * row["layers_saved_low"], 100 * row["layers_saved_high"]),
            _spread(100 * row["score"], 100 * row["score_low"], 100 * row["score_high"]),
            _spread(row["drop_points"], row["drop_low"], row["drop_high"], digits=2),
        ]
        table.append([*cells, f"{100 * (at[0.0] - at[row['threshold']]):.2f}"] if tests else cells)
    promises = {(row["epsilon"], row["loss"]): _promise(row) for row in promised}
    guarantee = [
        [f"{100 * epsilon:g}", promises[epsilon, "accuracy_drop"], promises[epsilon, "disagreement"]]
        for epsilon in sorted({row["epsilon"] for row in promised})
    ]
    (delta,) = {row["delta"] for row in promised}
    figure = new_figure("Which threshold", header, (9, 2.9 + 0.3 * (len(table) + len(guarantee))))
    upper, lower = figure.subplots(2, 1, height_ratios=[len(table) + 3, len(guarantee) + 3])
    _draw_table(
        upper,
        f"Recommended on {split_name(header, split)}; score and loss are cross-fitted, brackets hold 95 % intervals",
        heads,
        table,
    )
    _draw_table(
        lower,
        f"Certified for new samples of the same kind, each with {100 - 100 * delta:g} % confidence",
        ["at most\n(%)", "accuracy lost\nagainst full depth", "answers that differ\nfrom full depth's"],
        guarantee,
    )
    return figure


def _spread(value: float, low: float, high: float, digits: int = 1) -> str:
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"  # a dash would run into a minus


def _promise(row: Row) -> str:
    """A certificate in a cell of the table."""
    if row["certified"]:
        return f"{row['threshold']:g} nats saves {100 * row['layers_saved_frac']:.1f} %"
    if row["smallest_epsilon"] is None:
        return "no threshold saves a layer"
    return f"not certifiable; {100 * row['smallest_epsilon']:.2f} % would be"


def _draw_table(ax: Axes, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Text in columns as wide as what they hold, in place of axes."""
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(len(line) for cell in column for line in cell.split("\n")) + 2 for column in columns]  # characters
    middles = np.cumsum(widths) - np.array(widths) / 2
    ax.set_axis_off()
    ax.set_title(title, loc="left", pad=10)
    ax.set(xlim=(0, sum(widths)), ylim=(len(rows) + 2, 0))
    for middle, (head, *cells) in zip(middles, columns, strict=True):
        ax.text(middle, 0.8, head, ha="center", va="center", color=INK, fontsize=9)
        for line, cell in enumerate(cells):
            ax.text(middle, line + 2.1, cell, ha="center", va="center")
    ax.axhline(1.55, color=INK, linewidth=0.8)


@styled
def draw_leavers(header: Header, leavers: Sequence[Row], choice: Sequence[Row]) -> Figure:
    """Who leaves at each layer by each recommended threshold, and what is answered wrong there.

    Reads `split, threshold, layer, exits, error_rate, full_depth_error_rate, mean_tokens` and, where samples are
    graded, `mean_difficulty`, and `target_drop_points, threshold` of `choice`. A column per threshold, a bar per layer.
    Wrong answers are shares of all samples: a rate among the few who stay longest would dwarf the rest. Where few
    leave, the mean is pale.
    """
    split = validation_splits(header)[0]
    leavers, choice = of_split(leavers, split), of_split(choice, split)
    targets: dict[float, list[str]] = {}
    for row in choice:
        targets.setdefault(row["threshold"], []).append(f"{row['target_drop_points']:g}")
    graded = "mean_difficulty" in leavers[0]
    figure = new_figure("Who leaves where, and what goes wrong", header, (max(2.6 * len(targets), 6.5), 6.6))
    panels = figure.subplots(3, len(targets), sharex=True, sharey="row", squeeze=False)
    for (shares, errors, kinds), (threshold, drops) in zip(panels.T, targets.items(), strict=True):
        rows = [row for row in leavers if row["threshold"] == threshold]
        layers = np.array([row["layer"] for row in rows])
        leaving = np.array([100 * row["exits"] / header["n"][split] for row in rows])
        shares.bar(layers, leaving, 0.8, color=BLUE)
        shares.set_title(f"may lose {' or '.join(drops)}:\n{threshold:g} nats")
        for key, shift, color, label in (
            ("error_rate", -0.2, ORANGE, "by the answers given there"),
            ("full_depth_error_rate", 0.2, GREY, "by full depth's answers to the same samples"),
        ):
            errors.bar(layers + shift, leaving * [row[key] for row in rows], 0.4, color=color, label=label)
        means = np.array([row["mean_difficulty" if graded else "mean_tokens"] for row in rows])
        few = leaving < FEW_PERCENT
        kinds.bar(layers[~few], means[~few], 0.8, color=BLUE)
        if few.any():
            kinds.bar(layers[few], means[few], 0.8, color=BLUE, alpha=0.3, label=f"under {FEW_PERCENT:g} % of samples")
        kinds.set(xlabel="exit layer", xlim=(0.3, header["num_layers"] + 0.7), xticks=layer_ticks(header, 8))
        for ax in (shares, errors, kinds):
            ax.grid(axis="x", visible=False)
    panels[1, 0].set_ylim(0, max(panels[1, 0].get_ylim()[1], 0.1))  # where nothing is wrong, too, from 0 up
    for ax, label in zip(
        panels[:, 0],
        ("samples (%)", "wrong, of all (%)", "mean difficulty" if graded else "mean tokens"),
        strict=True,
    ):
        ax.set_ylabel(label)
    figure.legend(*legend_entries(panels.flat), loc="outside lower center", ncols=3)
    return figure
