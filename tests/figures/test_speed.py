"""The figure of time saved shows what the rows say, whatever they say."""

import functools
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from deebert.figures.drawing import save
from deebert.figures.speed import MODES, draw_time
from tests.figures.test_evaluation import check_texts, curve

HEADER = {"task": "RTE", "model": "bert-base"}
METRICS = {"device": "AMD EPYC", "threads": 2, "precision": "bf16", "n": 1277}
SPREAD = 0.04


def make_rows(saved: dict[float, tuple[float, float, float]], spread: float = SPREAD) -> list[dict[str, Any]]:
    """Rows of threshold -> layers saved, time saved one at a time, time saved batched."""
    rows = []
    for number, mode in enumerate(MODES, start=1):
        for threshold, point in saved.items():
            time = point[number]
            ends = {"time_saved_frac_min": time - spread, "time_saved_frac_max": time + spread}
            rows.append(
                {
                    "mode": mode,
                    "threshold": threshold,
                    "layers_saved_frac": point[0],
                    "time_saved_frac": time,
                    **ends,
                    "latency_p50_ms": 1.0,
                    "latency_p95_ms": 2.0,
                    "samples_per_s": 500.0,
                    "n": 1277,
                }
            )
    return rows


CASES = {
    "usual": make_rows(
        {
            0.0: (0, 0, 0.01),
            0.05: (0.52, 0.24, 0.46),
            0.2: (0.65, 0.42, 0.56),
            0.47: (0.72, 0.51, 0.68),
            0.6: (0.76, 0.55, 0.75),
        }
    ),
    "one threshold": make_rows({0.1: (0.3, 0.2, 0.28)}),
    "threshold 0 alone": make_rows({0.0: (0, 0.0, -0.01)}),
    "nothing saved": make_rows({0.0: (0, 0, 0), 0.05: (0, 0, 0), 0.1: (0, 0, 0)}, spread=0.0),
    "time lost": make_rows({0.0: (0, -0.02, 0), 0.05: (0.1, -0.4, -0.1), 0.2: (0.4, -0.2, 0.2)}),
    "far more lost": make_rows({0.0: (0, -3, 0), 0.05: (0.1, -4, -0.1)}, spread=0.5),
    "all saved": make_rows({0.0: (0, 0, 0), 0.7: (0.9583, 0.99, 1.0)}, spread=0.0),
    "crowded": make_rows({i / 10: (0.5 + i / 400, 0.4 + i / 400, 0.45 + i / 400) for i in range(1, 12)}),
}


@functools.cache
def drawn(case: str) -> Figure:
    return draw_time(HEADER, METRICS, CASES[case])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def rows(case: str) -> list[dict[str, Any]]:
    return CASES[case]


@pytest.fixture
def figure(case: str) -> Figure:
    return drawn(case)


def points_of(rows: list[dict[str, Any]], mode: str, time: str = "time_saved_frac") -> list[tuple[float, float]]:
    of_mode = [row for row in rows if row["mode"] == mode]
    return [(100 * row["layers_saved_frac"], 100 * row[time]) for row in of_mode]


def test_equal_rows_give_equal_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    """Drawing twice, the second time under odd matplotlib settings, writes the same small SVG without fonts or date."""
    first = save(draw_time(HEADER, METRICS, CASES["usual"]), tmp_path / "first.svg")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "svg.hashsalt": "x"}):
        second = save(draw_time(HEADER, METRICS, CASES["usual"]), tmp_path / "second.svg")
    assert first.read_bytes() == second.read_bytes()
    text = first.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "<text" not in text and "<dc:date>" not in text and len(text) < 150_000


def test_points_are_where_the_rows_say(rows: list[dict[str, Any]], figure: Figure) -> None:
    """A curve per mode holds its rows as percentages, the plain backbone's own row left out."""
    for mode, (name, *_) in MODES.items():
        np.testing.assert_allclose(curve(figure, name), points_of(rows, mode), atol=1e-12)
    np.testing.assert_array_equal(curve(figure, "time saved = layers saved"), [(0, 0), (100, 100)])


def test_bars_span_all_rounds(rows: list[dict[str, Any]], figure: Figure) -> None:
    """At each point a line goes from the least to the most time saved in any round."""
    bars = [line.get_xydata() for line in figure.axes[0].get_lines() if line.get_marker() == "_"]
    expected = [
        ends
        for mode in MODES
        for ends in zip(*(points_of(rows, mode, f"time_saved_frac_{end}") for end in ("min", "max")), strict=True)
    ]
    np.testing.assert_allclose(bars, expected, atol=1e-12)


def test_all_that_is_drawn_is_in_sight(rows: list[dict[str, Any]], figure: Figure) -> None:
    """No point, bar or line of zero lies beyond the axes, time lost included."""
    figure.draw_without_rendering()
    ax = figure.axes[0]
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    for end in ("", "_min", "_max"):
        for mode in MODES:
            for x, y in points_of(rows, mode, f"time_saved_frac{end}"):
                assert left <= x <= right and low <= y <= high
    assert low <= 0 <= high


def test_texts_stay_inside_and_apart(figure: Figure) -> None:
    """No text leaves the figure and no two texts touch."""
    check_texts(figure)


@pytest.mark.parametrize("case", ["usual", "one threshold", "nothing saved", "time lost", "all saved"])
def test_thresholds_are_named_clear_of_curves_and_bars(case: str, figure: Figure) -> None:
    """Each threshold stands beside its batched point, alone or at an end of a range, and covers nothing drawn."""
    ax = figure.axes[0]
    listed = {f"{row['threshold']:g}" for row in CASES[case]}
    assert ax.texts
    if case != "nothing saved":
        assert {text.get_text() for text in ax.texts} == listed
    else:
        assert [text.get_text() for text in ax.texts] == ["0–0.1"]
    for text in ax.texts:
        box = matplotlib.text.Text.get_window_extent(text)
        for line in ax.get_lines():
            if len(line.get_xdata()):
                path = line.get_transform().transform(line.get_path().interpolated(100).vertices)
                assert not box.count_contains(path), text


def test_the_figure_says_of_what_and_on_what(figure: Figure) -> None:
    """Task, model, device, threads, precision and number of samples are in the titles, units on the axes."""
    assert figure.get_suptitle() == "Time saved against layers saved: RTE, bert-base"
    ax = figure.axes[0]
    assert ax.get_title() == "AMD EPYC, threads: 2, bf16, n = 1,277"
    assert ax.get_xlabel().endswith("(%)") and ax.get_ylabel().endswith("(%)")
    (legend,) = figure.legends
    told = {text.get_text() for text in legend.get_texts()}
    names = {name for name, *_ in MODES.values()}
    assert told == {"time saved = layers saved", "numbers: entropy threshold (nats)", *names}
