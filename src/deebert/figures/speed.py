"""Figure 3 of the paper: what the clock says of the layers saved, drawn from rows alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from deebert.base.rows import Row
from deebert.figures.drawing import BLUE, DASHED, GREY, ORANGE, Header, name_points, new_figure, styled

MODES = {"batch_1": ("one at a time", BLUE, "o"), "batched": ("batched", ORANGE, "s")}


@styled
def draw_time(header: Header, metrics: Mapping[str, Any], rows: Sequence[Row]) -> Figure:
    """Time saved against layers saved, a curve per mode, with the line on which both are equal.

    Reads `mode, threshold, layers_saved_frac, time_saved_frac, time_saved_frac_min, time_saved_frac_max` of the rows,
    and of the metrics where it was measured: `device, threads, precision, n`. Bars span a race's rounds; of a single
    one there is none.
    """
    figure = new_figure("Time saved against layers saved", header, (7.0, 5.6))
    ax = figure.add_subplot()
    ax.plot([0, 100], [0, 100], color=GREY, label="time saved = layers saved", **DASHED)
    ax.axhline(0, color=GREY, linewidth=1)
    points = {}
    for mode, (name, color, marker) in MODES.items():
        of_mode = [row for row in rows if row["mode"] == mode and row["threshold"] is not None]
        saved, time, low, high = 100 * np.transpose(
            [
                [row[key] for key in ("layers_saved_frac", *(f"time_saved_frac{end}" for end in ("", "_min", "_max")))]
                for row in of_mode
            ]
        )
        ax.plot(saved, time, color=color, marker=marker, label=name)
        ax.plot([saved, saved], [low, high], color=color, marker="_", linewidth=1)  # lines, which names keep clear of
        points = {row["threshold"]: (x, y) for row, x, y in zip(of_mode, saved, time, strict=True)}
    ax.plot([], [], "s", color=ORANGE, label="numbers: entropy threshold (nats)", markersize=5)
    ax.set(xlabel="layers saved (%)", ylabel="time saved against the plain backbone (%)", xlim=(-3, 100))
    ax.set_title(f"{metrics['device']}, threads: {metrics['threads']}, {metrics['precision']}, n = {metrics['n']:,}")
    figure.legend(loc="outside lower center", ncols=2)
    name_points(ax, points)
    return figure
