"""The table of rivals says what the rows say."""

import copy
from typing import Any

import pytest

from deebert.reports.rivals import ratios_table, rivals_section, rivals_table, times_of

ABOUT = {"task": "RTE", "model": "bert-base", "metric": "f1", "split": "test", "n": 1277, "num_layers": 6, "rounds": 5}
ABOUT |= {"device": "AMD EPYC", "cores": 2, "versions": {"torch": "2.13.0"}, "left_out": {"OpenVINO bf16": "no bf16"}}


def row(kind: str, library: str, mode: str, **more: Any) -> dict[str, Any]:
    base = {"kind": kind, "library": library, "precision": "int8", "layers": 6, "threshold_nats": None}
    base |= {"drop_points": None, "saved_frac": None, "mode": mode, "threads": 1, "batch_size": None, "ms": 4.0}
    base |= {"vs_plain": 0.5, "vs_fastest_rival": 1.0, "is_fastest_rival": False, "cold_start_ms": 9000.0}
    base |= {"start_ms": 1230.0, "layers_saved_frac": None, "other_answers": 3, "score": 0.912}
    return base | {"lost_points": 0.5, "lost_points_low": -0.25, "lost_points_high": 1.25} | more


EXIT = {"threshold_nats": 0.2, "drop_points": 1.0, "layers_saved_frac": 0.5}
RESULT = {
    **ABOUT,
    "rows": [
        row("rival", "ONNX Runtime", "batch_1", is_fastest_rival=True),
        row("plain", "DeeBERT", "batch_1", layers_saved_frac=0.0),
        row("early_exit", "DeeBERT", "batch_1", **EXIT),
        row("cut", "ONNX Runtime", "batch_1", layers=3, ms=4.5, score=0.88),
        row("rival", "ONNX Runtime", "batched", batch_size=32, ms=2.0, score=0.9, other_answers=4),
        row("plain", "DeeBERT", "batched", layers_saved_frac=0.0),
        row("early_exit", "DeeBERT", "batched", **EXIT),
        row("cut", "ONNX Runtime", "batched", layers=3, batch_size=64, ms=3.0),
    ],
}


def test_each_contender_has_a_line_of_both_modes() -> None:
    """Names say what was run, the fastest rival is bold, and what differs between the modes is told twice."""
    lines = rivals_table(RESULT).splitlines()
    names = [line.split(" | ")[0] for line in lines if line.startswith("| ") and "one at a time" not in line]
    exits = "| DeeBERT int8, 50 % saved (0.2 nats, recommended for 1 point)"
    assert names == ["| ONNX Runtime int8", "| DeeBERT int8, plain", exits, "| ONNX Runtime int8, cut to 3 layers"]
    expected = (
        "| **4.00** | 1.00 | 0.50 | 2.00 (32) | 1.00 | 0.50 | 9.0 / 1.23 | 91.2 / 90.0 | 0.5 (-0.2 to 1.2) | 3 / 4 |"
    )
    assert lines[6].endswith(expected)
    assert lines[0].startswith("RTE, bert-base: 1,277 sentences of test, 6 layers.")
    assert lines[-1] == "- OpenVINO bf16 took no part: no bf16."
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_times_are_of_our_fastest_way_one_at_a_time() -> None:
    """With as few threads as were tried, in the precision that the model was made for."""
    slower = [
        row("plain", "DeeBERT in PyTorch", "batch_1", layers_saved_frac=0.0, ms=1.0),
        row("early_exit", "DeeBERT in PyTorch", "batch_1", layers_saved_frac=0.5, ms=9.0),
        row("plain", "DeeBERT", "batch_1", precision="fp32", layers_saved_frac=0.0, ms=0.1),
        row("early_exit", "DeeBERT", "batch_1", threads=2, layers_saved_frac=0.5, ms=0.1),
        row("rival", "OpenVINO", "batch_1", ms=9.0),
        row("cut", "OpenVINO", "batch_1", layers=3, ms=8.0),  # where all at once it is the fastest
    ]
    race = {**RESULT, "precision": "int8", "rows": RESULT["rows"] + slower}
    times = times_of(race)
    assert sorted(times.early_exit) == [(0.0, 4.0), (0.5, 4.0)]
    assert (times.cut, times.whole, times.whole_told) == ({3: 4.5}, 4.0, "ONNX Runtime int8")
    assert (times.told, times.early_told, times.cut_told) == (
        "threads: 1, AMD EPYC",
        "DeeBERT int8",
        "ONNX Runtime int8",
    )


@pytest.mark.parametrize(
    "key", ["ms", "vs_plain", "vs_fastest_rival", "score", "lost_points_high", "other_answers", "start_ms"]
)
def test_no_number_is_typed(key: str) -> None:
    """Another number in the rows is another text."""
    other = copy.deepcopy(RESULT)
    for each in other["rows"]:
        each[key] *= 2
    assert rivals_table(other) != rivals_table(RESULT)


def test_a_section_shows_each_file() -> None:
    """With its figure beside it; without files a sentence says so."""
    section = rivals_section({"one": RESULT, "two": RESULT})
    assert section.count(rivals_table(RESULT)) == 2
    assert "(rivals/one.svg)" in section and "(rivals/two.svg)" in section
    assert rivals_section({}) == "Nothing was measured yet."


def test_the_short_table_has_the_threshold_for_one_point() -> None:
    """Early exit there, with as few threads as were tried, beside the rival with its model cut to half."""
    *_, line = ratios_table([RESULT]).splitlines()
    assert line == "| RTE, bert-base, 6 layers, threads: 1, 50 % saved | 1.00 | 1.00 | 1.00 | 1.00 |"
    other = copy.deepcopy(RESULT)
    for each in other["rows"]:
        each["drop_points"] = each["drop_points"] and 2.0
    assert "| RTE, bert-base, 6 layers, threads: 1, 0 % saved | none | 1.00 |" in ratios_table([other])


def test_ratios_are_of_half_the_layers_and_the_fewest_threads() -> None:
    """A model cut to a third, or a second thread, changes none of them, in whatever order rows come."""
    third = [
        row("cut", "ONNX Runtime", mode, layers=2, ms=1.0, vs_fastest_rival=0.3) for mode in ("batch_1", "batched")
    ]
    assert ratios_table([{**RESULT, "rows": RESULT["rows"] + third}]) == ratios_table([RESULT])
    more = [{**each, "threads": 2, "ms": each["ms"] / 2, "vs_fastest_rival": 0.5} for each in RESULT["rows"]]
    race = {**RESULT, "precision": "int8"}
    for rows in (RESULT["rows"] + more, more + RESULT["rows"]):
        assert ratios_table([{**RESULT, "rows": rows}]) == ratios_table([RESULT])
        assert times_of({**race, "rows": rows}) == times_of(race)
