"""Where samples left while a monitor watched: a panel for each span of time, drawn from counts alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deebert.figures.drawing import BLUE, INK, styled

PANELS_PER_ROW = 3


@styled
def draw_watched(spans: Mapping[str, Sequence[int]]) -> Figure:
    """Share of the samples that left after each layer (%); the first span is a dotted outline in the other panels.

    Args:
        spans: name -> how many samples left after each layer 1..L in that span; one sample at least in each.
    """
    columns = min(PANELS_PER_ROW, len(spans))
    lines = -(-len(spans) // columns)
    figure = Figure(figsize=(max(3.2 * columns, 6), 1.4 + 2.2 * lines), layout="constrained")
    figure.suptitle("Where samples leave, as watched")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    first = None
    for ax, (name, exits) in zip(panels.flat, spans.items(), strict=False):
        counts = np.array(exits)
        layers, shares = np.arange(1, len(counts) + 1), 100 * counts / counts.sum()
        ax.bar(layers, shares, color=BLUE)
        if first is None:
            first = (shares, name)
        else:
            edges = np.append(layers - 0.5, layers[-1] + 0.5)
            ax.stairs(first[0], edges, color=INK, linestyle=":", label=f"as in: {first[1]}")
        saved = 100 * (1 - layers @ counts / counts.sum() / len(counts))
        ax.set_title(f"{name}\n{counts.sum():,} samples, {saved:.0f} % of layers saved")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.grid(axis="x", visible=False)
    for ax in panels.flat[len(spans) :]:
        ax.remove()
    for ax in panels.flat[len(spans) - columns : len(spans)]:
        ax.set_xlabel("exit layer")
        ax.tick_params(labelbottom=True)
    for ax in panels[:, 0]:
        ax.set_ylabel("samples (%)")
    if len(spans) > 1:
        handles, labels = panels.flat[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")
    return figure
