"""Score against layers saved, and against time, over several runs: a curve for each way, and models that were cut."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deebert.figures.drawing import BLUE, INK, ORANGE, metric_name, new_figure, set_score_axis, styled

COLORS = (BLUE, ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#333333")
STEPS = 101  # points of a curve

Points = Sequence[Sequence[float]]
Seeds = Sequence[Points]


@dataclass(frozen=True)
class Times:
    """What a sentence takes, in ms, one at a time.

    Attributes:
        early_exit: (share of the layers saved, ms) as measured, in any order.
        cut: layers of a model that was cut -> ms.
        whole: of the whole model, where it is fastest.
        told: where it was measured.
        early_told, cut_told, whole_told: what early exit, cut models and the whole one run in.
    """

    early_exit: Sequence[tuple[float, float]]
    cut: Mapping[int, float]
    whole: float
    told: str
    early_told: str
    cut_told: str
    whole_told: str

    @property
    def most_saved(self) -> float:
        return max(saved for saved, _ in self.early_exit)

    def of(self, saved: np.ndarray) -> np.ndarray:
        """Of early exit, on straight lines between what was measured; where that was twice, at the mean.

        Not on one line through all: what the boldest threshold takes would be told too low, just where cut models are.
        A sample that leaves earlier does not take longer. If the clock says so, the longer time holds for both.
        """
        shares, times = np.array(self.early_exit).T
        known = np.unique(shares)
        means = np.array([times[shares == share].mean() for share in known])
        return np.interp(saved, known, np.maximum.accumulate(means[::-1])[::-1])

    def ahead(self, early: Seeds, cut: Seeds, layers: int) -> float | None:
        """Points of the score by which early exit is ahead, in the time of a model cut to so many layers.

        It is read off the curve there. The best point in less time would be chosen on the samples that judge it.

        None = no early exit that was timed is as fast.

        Args:
            early, cut: for each seed points (share of the whole model's layers saved, score), from full depth on.
        """
        low, high = _range(early)
        saved = np.linspace(low, min(high, self.most_saved), STEPS)
        scores = _along(early, saved).mean(axis=0)[self.of(saved) <= self.cut[layers]]
        return float(scores[0] - np.mean([100 * seed[0][1] for seed in cut])) if scores.size else None


@styled
def draw_results(header: Mapping[str, Any], curves: Mapping[str, Seeds], cut: Collection[str]) -> Figure:
    """Score against layers saved. Of several seeds the mean is drawn, within one standard deviation.

    Args:
        header: `task, model, metric, split`.
        curves: name -> for each seed its points (share of the whole model's layers saved, score) from full depth on.
        cut: which of them are of models that were cut and fine-tuned alone. Their first point, which needs no ramps, is
            marked.
    """
    figure = new_figure("Score against layers saved", dict(header), (7.5, 5.6))
    ax, shown = figure.add_subplot(), []
    for (name, seeds), color in zip(curves.items(), itertools.cycle(COLORS)):
        saved = np.linspace(*_range(seeds), STEPS)
        look: dict[str, Any] = {"color": color, "label": _told(name, seeds)}
        if name in cut:
            look |= {"linestyle": "--", "marker": "D", "markevery": [0], "markersize": 6, "linewidth": 1.2}
        shown.append(_along(seeds, saved))
        _draw_curve(ax, 100 * saved, shown[-1], **look)
    ax.set(xlabel="layers saved (%)", ylabel=_score_told(header))
    _finish(figure, ax, shown)
    return figure


@styled
def draw_times(header: Mapping[str, Any], curves: Mapping[str, Seeds], cut: Mapping[str, int], times: Times) -> Figure:
    """Score against time, in the colours of `draw_results`. Early exit is drawn as far as its time was measured.

    Args:
        header, curves: as there, and `precision`, which the scores are of.
        cut: layers of models that were cut. Those whose time was measured are marked, without early exit.
    """
    figure = new_figure("Score against time", dict(header), (7.5, 5.6))
    ax, shown = figure.add_subplot(), []
    for (name, seeds), color in zip(curves.items(), itertools.cycle(COLORS)):
        low, high = _range(seeds)
        look: dict[str, Any] = {"color": color, "label": _told(name, seeds)}
        if name not in cut:
            saved = np.linspace(low, min(high, times.most_saved), STEPS)
            shown.append(_along(seeds, saved))
            _draw_curve(ax, times.of(saved), shown[-1], **look)
        elif cut[name] in times.cut:
            shown.append(_along(seeds, np.array([low])))
            spread = shown[-1].std(ddof=1) if len(seeds) > 1 else None
            ax.errorbar(times.cut[cut[name]], shown[-1].mean(), spread, marker="D", linestyle="None", **look)
    whole = next((seeds for name, seeds in curves.items() if name not in cut), None)
    if whole:
        ax.plot(
            times.whole, _along(whole, np.zeros(1)).mean(), "o", color=INK, label=f"no early exit, {times.whole_told}"
        )
    ways = f"curves: {times.early_told}" + (f"; cut models: {times.cut_told}" if times.cut else "")
    ax.set(
        xlabel=f"time of a sentence (ms), {times.told}\n{ways}", ylabel=f"{_score_told(header)}, {header['precision']}"
    )
    ax.set_xlim(left=0)
    _finish(figure, ax, shown)
    return figure


def _range(seeds: Seeds) -> tuple[float, float]:
    """Shares of the layers saved that all of them have."""
    return max(seed[0][0] for seed in seeds), min(max(saved for saved, _ in seed) for seed in seeds)


def _score_told(header: Mapping[str, Any]) -> str:
    return f"{metric_name(header['metric'])} (%) on {header['split'].replace('_', ' ')}"


def _told(name: str, seeds: Seeds) -> str:
    return f"{name}, {len(seeds)} seeds" if len(seeds) > 1 else name


def _draw_curve(ax: Axes, x: np.ndarray, scores: np.ndarray, **look: Any) -> None:
    """The mean over seeds of `scores` (seeds, steps), in percent, and where there are several a band around it."""
    mean = scores.mean(axis=0)
    ax.plot(x, mean, **look)
    if len(scores) > 1:
        spread = scores.std(axis=0, ddof=1)
        ax.fill_between(x, mean - spread, mean + spread, color=look["color"], alpha=0.2, linewidth=0)


def _along(seeds: Seeds, saved: np.ndarray) -> np.ndarray:
    """Scores in percent (seeds, shares) at shares of the layers saved, on straight lines between the points."""
    return np.array([100 * np.interp(saved, *np.array(sorted(points)).T) for points in seeds])


def _finish(figure: Figure, ax: Axes, shown: Sequence[np.ndarray]) -> None:
    set_score_axis(ax, np.concatenate([scores.ravel() for scores in shown]).tolist())
    figure.legend(loc="outside lower center", ncols=2)
