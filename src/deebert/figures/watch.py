"""Where samples left while a monitor watched: a panel for each span of time, drawn from counts alone."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from deebert.exits.rule import layers_saved_frac
from deebert.figures.drawing import BLUE, styled
from deebert.figures.evaluation import label_exit_panels, outline_exits

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
    first = np.array(next(iter(spans.values())))
    for ax, (name, exits) in zip(panels.flat, spans.items(), strict=False):
        counts, layers = np.array(exits), np.arange(1, len(exits) + 1)
        shares = counts / counts.sum()
        ax.bar(layers, 100 * shares, color=BLUE)
        if ax is not panels.flat[0]:
            outline_exits(ax, first / first.sum(), f"as in: {next(iter(spans))}")
        saved = 100 * layers_saved_frac(shares @ layers, len(layers))
        ax.set_title(f"{name}\n{counts.sum():,} samples, {saved:.0f} % of layers saved")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.grid(axis="x", visible=False)
    label_exit_panels(panels, len(spans))
    if len(spans) > 1:
        handles, labels = panels.flat[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center")
    return figure
