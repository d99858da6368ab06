"""The paper's figures 2 to 6, one panel per task, from experiments that exist; what has not been run is not drawn.

Scores are of the first validation split. A line per seed, so that their spread is seen.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deebert.figures.drawing import BLUE, DASHED, GREY, INK, ORANGE, grade_colors, layer_ticks, legend_entries, styled
from deebert.reports.experiments import Experiment
from deebert.reports.paper import LARGE_MODELS, smaller_models, whole_models

BASE_MODELS = ("bert-base", "roberta-base", "toy-bert")
COLORS = dict.fromkeys(("bert-base", "bert-large", "toy-bert"), BLUE) | dict.fromkeys(
    ("roberta-base", "roberta-large"), ORANGE
)
COLUMNS = 3
LOST_SHOWN = 12.0  # points; what lies deeper says only that nobody would go there
EXIT_THRESHOLDS = (0.1, 0.2, 0.3, 0.5)  # nats

DrawPanel = Callable[[Axes, Sequence[Experiment]], None]


def draw_all(table: Mapping[str, Any], experiments: Sequence[Experiment]) -> dict[str, Figure | None]:
    """`figure2` to `figure6`; None for a figure none of whose experiments has been run."""
    tasks = [*(task for task in table["models"]["bert-base"] if task != "MNLI-mm"), "toy"]
    whole = whole_models(experiments)
    base = [run for run in whole if run.model in BASE_MODELS]
    large = [run for run in whole if run.model in LARGE_MODELS]
    timed = [run for run in base if run.rows["benchmark"]]
    berts = [run for run in base if run.model != "roberta-base"]

    def tradeoff(ax: Axes, runs: Sequence[Experiment]) -> None:
        _draw_tradeoff(ax, runs, table, experiments)

    return {
        "figure2": _grid("2. Points lost against layers saved", tasks, base, tradeoff),
        "figure3": _grid("3. Time saved against layers saved, one sample at a time", tasks, timed, _draw_time),
        "figure4": _grid("4. Score after each layer", tasks, base, _draw_layers),
        "figure5": _grid("5. Score after each layer, large models", tasks, large, _draw_layers),
        "figure6": _grid("6. Where samples leave", tasks, berts, _draw_exits),
    }


@styled
def _grid(title: str, tasks: Sequence[str], runs: Sequence[Experiment], draw: DrawPanel) -> Figure | None:
    """A panel for each of `tasks` that has runs, and one legend for all."""
    shown = [task for task in tasks if any(run.task == task for run in runs)]
    if not shown:
        return None
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure = Figure(figsize=(max(3.6 * columns, 6.5), 1.2 + 3.2 * lines), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, task in zip(panels, shown, strict=False):
        draw(ax, [run for run in runs if run.task == task])
        ax.set_title(task)
    for ax in panels[len(shown) :]:
        ax.remove()
    figure.legend(*legend_entries(panels[: len(shown)]), loc="outside lower center", ncols=3)
    return figure


def _draw_tradeoff(
    ax: Axes, runs: Sequence[Experiment], table: Mapping[str, Any], experiments: Sequence[Experiment]
) -> None:
    """Ours as lines, smaller models fine-tuned alone as squares, the paper's three thresholds as crosses (its time)."""
    lowest = 0.0
    for model in dict.fromkeys(run.model for run in runs):
        color = COLORS[model]
        seeds = [run for run in runs if run.model == model]
        for run in seeds:
            curve = sorted((row["threshold"], row["layers_saved_frac"], row["score"]) for row in run.curve())
            saved, lost = np.array([[100 * x, 100 * (y - run.full_score())] for _, x, y in curve]).T
            ax.plot(saved, lost, color=color, label=model)
            lowest = min(lowest, *lost)
        full = statistics.mean(run.full_score() for run in seeds)
        for row in smaller_models(experiments, seeds[0]):
            place = (100 * row["layers_saved_frac"], 100 * (row["score"] - full))
            label, marker = (f"{model}, first layers only", "s") if row["model"] == model else (row["model"], "D")
            ax.plot(*place, marker=marker, linestyle="", color=color, markeredgecolor="white", label=label)
            lowest = min(lowest, place[1])
        if theirs := table["models"].get(model, {}).get(runs[0].task):
            lost, saved = np.transpose(theirs["deebert"])
            ax.plot(saved, lost, "x", color=color, label=f"{model}, the paper's time on test")
    ax.axhline(0, color=GREY, **DASHED)
    ax.set(xlabel="layers saved (%)", ylabel="points against full depth")
    ax.set_ylim(max(1.1 * lowest, -LOST_SHOWN) - 0.5, 2)


def _draw_time(ax: Axes, runs: Sequence[Experiment]) -> None:
    """Measured against expected saving; on the dashed line they are equal."""
    for run in runs:
        rows = [r for r in run.rows["benchmark"] if r["mode"] == "batch_1" and r["threshold"] is not None]
        points = sorted((100 * row["layers_saved_frac"], 100 * row["time_saved_frac"]) for row in rows)
        ax.plot(*np.transpose(points), marker="o", color=COLORS[run.model], label=run.model)
    ax.axline((0, 0), slope=1, color=GREY, **DASHED)
    ax.set(xlabel="layers saved (%)", ylabel="time saved (%)")


def _draw_layers(ax: Axes, runs: Sequence[Experiment]) -> None:
    for run in runs:
        first = run.rows["layers"][0]
        scores = sorted(
            (row["layer"], 100 * row["score"])
            for row in run.rows["layers"]
            if (row["split"], row["metric"]) == (first["split"], first["metric"])
        )
        ax.plot(*np.transpose(scores), marker="o", markersize=4, color=COLORS[run.model], label=run.model)
    ax.set(xlabel="layer", ylabel="score (%)", xticks=_ticks(runs[0]))


def _draw_exits(ax: Axes, runs: Sequence[Experiment]) -> None:
    """One run, the first: share of samples that leave after each layer, a line per threshold."""
    rows = [row for row in runs[0].rows["exits"] if row["split"] == runs[0].rows["exits"][0]["split"]]
    thresholds = [t for t in EXIT_THRESHOLDS if any(row["threshold"] == t for row in rows)]
    for threshold, color in zip(thresholds, grade_colors(len(thresholds)), strict=True):
        exits = sorted((row["layer"], row["exits"]) for row in rows if row["threshold"] == threshold)
        layers, counts = np.transpose(exits)
        label = f"{threshold:g} nats"
        ax.plot(layers, 100 * counts / counts.sum(), marker="o", markersize=4, color=color, label=label)
    ax.set(xlabel="exit layer", ylabel="samples (%)", ylim=(0, None), xticks=_ticks(runs[0]))
    ax.text(0.98, 0.95, runs[0].model, transform=ax.transAxes, ha="right", va="top", color=INK)


def _ticks(run: Experiment) -> list[int]:
    return layer_ticks({"num_layers": run.num_layers}, 12)
