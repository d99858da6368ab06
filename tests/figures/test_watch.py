"""The figure of what a monitor has counted shows the counts."""

import numpy as np
import pytest

from deebert.figures.watch import draw_watched
from tests.figures.test_evaluation import check_texts

SPANS = {
    "one": {"all": [3, 1, 0, 4]},
    "two": {"monday": [60, 30, 10], "tuesday": [10, 30, 60]},
    "five, of 24 layers": {f"week-{week}": [week + layer for layer in range(24)] for week in range(1, 6)},
}


@pytest.mark.parametrize("case", SPANS)
def test_each_span_has_a_panel_of_its_shares(case: str) -> None:
    """Bars are shares in percent, the outline in all but the first panel is the first span, and texts have room."""
    spans = SPANS[case]
    figure = draw_watched(spans)
    assert len(figure.axes) == len(spans)
    first = np.array(next(iter(spans.values())))
    for number, (ax, (name, exits)) in enumerate(zip(figure.axes, spans.items(), strict=True)):
        heights = [bar.get_height() for bar in ax.containers[0]]
        np.testing.assert_allclose(heights, 100 * np.array(exits) / sum(exits))
        outlines = [patch for patch in ax.patches if hasattr(patch, "get_data")]
        assert len(outlines) == (number > 0)
        for outline in outlines:
            np.testing.assert_allclose(outline.get_data().values, 100 * first / first.sum())
        assert ax.get_title().startswith(f"{name}\n{sum(exits):,} samples")
    check_texts(figure)


def test_layers_saved_are_said() -> None:
    """Half leave after layer 1 of 4 and half after 3: on average after 2, which saves half of the layers."""
    (ax,) = draw_watched({"now": [5, 0, 5, 0]}).axes
    assert ax.get_title() == "now\n10 samples, 50 % of layers saved"
