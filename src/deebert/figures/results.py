"""Score against layers saved over several runs: a curve for each way, and for models that were cut."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deebert.figures.drawing import BLUE, ORANGE, metric_name, new_figure, set_score_axis, styled

COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STEPS = 101  # points of a curve

Points = Sequence[Sequence[float]]
Seeds = Sequence[Points]


@styled
def draw_results(header: Mapping[str, Any], curves: Mapping[str, Seeds], cut: Collection[str]) -> Figure:
    """One panel. Of several seeds the mean is drawn, within one standard deviation.

    Args:
        header: `task, model, metric`.
        curves: name -> for each seed its points (share of the whole model's layers saved, score) from full depth on.
        cut: which of them are of models that were cut and fine-tuned alone. Their first point, which needs no ramps, is
            marked.
    """
    figure = new_figure("Score against layers saved", dict(header), (7.5, 5.6))
    ax = figure.add_subplot()
    shown: list[float] = []
    for number, (name, seeds) in enumerate(curves.items()):
        low, high = max(seed[0][0] for seed in seeds), min(max(saved for saved, _ in seed) for seed in seeds)
        steps = np.linspace(low, high, STEPS)
        scores = np.array([_along(seed, steps) for seed in seeds])  # (seeds, steps)
        look = {"color": COLORS[number % len(COLORS)]}
        if name in cut:
            look |= {"linestyle": "--", "marker": "D", "markevery": [0], "markersize": 6, "linewidth": 1.2}
        told = f"{name}, {len(seeds)} seeds" if len(seeds) > 1 else name
        ax.plot(100 * steps, scores.mean(axis=0), **look, label=told)
        if len(seeds) > 1:
            spread = scores.std(axis=0, ddof=1)
            band = (scores.mean(axis=0) - spread, scores.mean(axis=0) + spread)
            ax.fill_between(100 * steps, *band, color=look["color"], alpha=0.2, linewidth=0)
        shown += scores.ravel().tolist()
    ax.set(xlabel="layers saved (%)", ylabel=f"{metric_name(header['metric'])} (%)")
    set_score_axis(ax, shown)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _along(points: Points, steps: np.ndarray) -> np.ndarray:
    """Scores in percent at `steps` shares of the layers saved, on straight lines between the points."""
    return 100 * np.interp(steps, *np.array(sorted(points)).T)
