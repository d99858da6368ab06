"""Score against layers saved over several runs: a curve for each way of training, marks for models that were cut."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deebert.figures.drawing import INK, metric_name, new_figure, set_score_axis, styled

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STEPS = np.linspace(0, 1, 101)  # shares of the layers saved


@styled
def draw_results(
    header: Mapping[str, Any], curves: Mapping[str, Sequence[Sequence[Sequence[float]]]], cut: Sequence[Sequence[float]]
) -> Figure:
    """One panel. Of several seeds the mean is drawn, within one standard deviation.

    Args:
        header: `task, model, metric`.
        curves: name -> for each seed its points (threshold, share of the layers saved, score).
        cut: (share of the layers saved, score) of each model that was cut and fine-tuned alone.
    """
    figure = new_figure("Score against layers saved", dict(header), (7.5, 5.4))
    ax = figure.add_subplot()
    shown = [100 * score for _, score in cut]
    for number, (name, seeds) in enumerate(curves.items()):
        most = min(max(saved for _, saved, _ in seed) for seed in seeds)
        steps = STEPS[most >= STEPS]
        scores = np.array([_along(seed, steps) for seed in seeds])  # (seeds, steps)
        color = COLORS[number % len(COLORS)]
        style = ("-", "--", ":")[number // len(COLORS) % 3]
        told = f"{name}, {len(seeds)} seeds" if len(seeds) > 1 else name
        ax.plot(100 * steps, scores.mean(axis=0), color=color, linestyle=style, label=told)
        if len(seeds) > 1:
            spread = scores.std(axis=0, ddof=1)
            low, high = scores.mean(axis=0) - spread, scores.mean(axis=0) + spread
            ax.fill_between(100 * steps, low, high, color=color, alpha=0.2, linewidth=0)
        shown += scores.ravel().tolist()
    if cut:
        saved, score = 100 * np.array(cut).T
        look = {"color": INK, "marker": "D", "markersize": 6, "linestyle": "None", "zorder": 4}
        ax.plot(saved, score, **look, label="cut to its first layers, fine-tuned alone")
    ax.set(xlabel="layers saved (%)", ylabel=f"{metric_name(header['metric'])} (%)")
    set_score_axis(ax, shown)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _along(points: Sequence[Sequence[float]], steps: np.ndarray) -> np.ndarray:
    """Scores in percent at `steps` shares of the layers saved, on straight lines between the points."""
    saved, score = np.array(sorted((saved, score) for _, saved, score in points)).T
    return 100 * np.interp(steps, saved, score)
