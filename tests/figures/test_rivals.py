"""The figure of rivals shows what the rows say."""

from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from deebert.figures.rivals import MODES, draw_rivals
from tests.figures.test_evaluation import check_texts

EXITS = {0.1: 0.3, 0.2: 0.5, 0.4: 0.7}  # threshold -> layers saved


def make_result(threads: tuple[int, ...] = (1, 2), cut: bool = True) -> dict[str, Any]:
    """Full models of three libraries, early exit in fp32 and models cut to 3 and 2 of 6 layers in int8."""
    rows = []
    for mode_number, mode in enumerate(MODES):
        for count in threads:
            ms = 8.0 / count / (1 + mode_number)

            def add(kind: str, library: str, precision: str, times: float, score: float, **more: Any) -> None:
                row = {"mode": mode, "threads": count, "kind": kind, "library": library, "precision": precision}  # noqa: B023
                row |= {"layers": 6, "ms": ms * times, "score": score, "layers_saved_frac": None}  # noqa: B023
                rows.append(row | {"is_fastest_rival": False} | more)

            add("rival", "transformers", "fp32", 1.4, 0.92)
            add("rival", "ONNX Runtime", "int8", 0.5, 0.91, is_fastest_rival=True)
            add("rival", "OpenVINO", "bf16", 0.6, 0.918)
            add("plain", "DeeBERT", "fp32", 1.0, 0.92, layers_saved_frac=0.0)
            add("plain", "DeeBERT", "int8", 0.7, 0.915, layers_saved_frac=0.0)
            for saved in EXITS.values():
                add("early_exit", "DeeBERT", "fp32", 1.1 - saved, 0.92 - saved / 20, layers_saved_frac=saved)
            if cut:
                add("cut", "ONNX Runtime", "int8", 0.25, 0.89, layers=3)
                add("cut", "ONNX Runtime", "int8", 0.17, 0.86, layers=2)
    about = {"task": "RTE", "model": "bert-base", "metric": "accuracy", "precision": "fp32", "n": 200}
    return {**about, "rows": rows}


CASES = {"usual": make_result(), "one thread, nothing cut": make_result((1,), cut=False)}


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def figure(case: str) -> Figure:
    return draw_rivals(CASES[case])


def test_each_panel_has_its_rows(case: str, figure: Figure) -> None:
    """Full models are marks, early exit a curve from the plain engine on, cut models a line that ends at the whole."""
    result = CASES[case]
    panels = iter(figure.axes)
    for mode in MODES:
        for threads in sorted({row["threads"] for row in result["rows"]}):
            ax = next(panels)
            here = [row for row in result["rows"] if (row["mode"], row["threads"]) == (mode, threads)]
            points = {id(row): (row["ms"], 100 * row["score"]) for row in here}
            lines = {line.get_label(): line.get_xydata() for line in ax.get_lines()}
            for row in here:
                if row["kind"] in ("rival", "plain"):
                    name = f"{row['library']} {row['precision']}" + (", plain" if row["kind"] == "plain" else "")
                    np.testing.assert_allclose(lines[name], [points[id(row)]])
            exits = [row for row in here if row["kind"] == "early_exit" or _is(row, "plain", "fp32")]
            label = "DeeBERT fp32, early exit; numbers: layers saved (%)"
            np.testing.assert_allclose(lines[label], [points[id(row)] for row in exits])
            cut = [row for row in here if row["kind"] == "cut"]
            if cut:
                whole = next(row for row in here if row["is_fastest_rival"])
                expected = [points[id(row)] for row in (cut[1], cut[0], whole)]
                np.testing.assert_allclose(lines["cut models and the whole one, in the fastest rival"], expected)
            assert ("cut models and the whole one, in the fastest rival" in lines) == bool(cut)
            assert {text.get_text() for text in ax.texts} == {"30", "50", "70"}
            low, high = ax.get_ylim()
            assert all(low <= y <= high for _, y in points.values())


def _is(row: dict[str, Any], kind: str, precision: str) -> bool:
    return row["kind"] == kind and row["precision"] == precision


def test_texts_stay_inside_and_apart(figure: Figure) -> None:
    """No text leaves the figure and no two texts touch."""
    check_texts(figure)
