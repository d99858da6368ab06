"""The metrics of a run are read for the very model that it made, or refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from deebert.base.errors import UserError
from deebert.base.files import write_json
from deebert.inference.run_metrics import NEEDED, read_metrics

ABOUT = {"task": "RTE", "num_layers": 12, "weights": "0123456789ab"}
SWEEP = {
    "task": "RTE",
    "n": 1277,
    "full_score": 0.6812,
    "layers_saved_at": {"drop_0_0": 0.1217, "drop_0_5": 0.2994, "drop_1_0": 0.332, "drop_3_0": 0.559},
    "threshold_at": {"drop_0_0": 0.0138, "drop_0_5": 0.3185, "drop_1_0": 0.4734, "drop_3_0": 0.5773},
}
CHOICE = {
    "task": "RTE",
    "n": 1277,
    "cross_fitted_score_at": {"drop_0_0": 0.6805, "drop_0_5": 0.6761, "drop_1_0": 0.6711, "drop_3_0": 0.6517},
    "certified_confidence": 0.9,
    "certified_layers_saved_at": {"risk_0_01": 0.0, "risk_0_05": 0.2707},
    "certified_threshold_at": {"risk_0_01": 0.0, "risk_0_05": 0.2513},
}
BENCHMARK = {
    "task": "RTE",
    "weights": "0123456789ab",
    "n": 277,
    "device": "AMD EPYC",
    "threads": 2,
    "precision": "fp32",
    "torch": "2.13.0",
    "threshold": 0.4734,
    "layers_saved_frac": 0.3246,
    "plain": {"batch_1_latency_p50_ms": 1.699, "batch_1_samples_per_s": 562.1, "batched_samples_per_s": 2727.8},
    "early_exit": {
        "batch_1_latency_p50_ms": 0.799,
        "batch_1_latency_p95_ms": 1.904,
        "batch_1_samples_per_s": 1081.5,
        "batched_samples_per_s": 8285.8,
        "batch_1_time_saved_frac": 0.314,
        "batched_time_saved_frac": 0.282,
    },
}
ALL = {
    "layers": {
        "task": "RTE",
        "n": 1277,
        "num_layers": 12,
        "full_score": 0.6812,
        "split": "validation",
        "weights": "0123456789ab",
        "precision": "fp32",
    },
    "sweep": SWEEP,
    "choice": CHOICE,
    "benchmark": BENCHMARK,
}


def write(folder: Path, metrics: dict[str, dict[str, Any]]) -> Path:
    for name, content in metrics.items():
        write_json(folder / f"{name}.json", content)
    return folder


def test_metrics_of_the_model_are_read(tmp_path: Path) -> None:
    """With a benchmark or without."""
    assert read_metrics(write(tmp_path / "all", ALL), ABOUT) == ALL
    some = {name: ALL[name] for name in ("layers", "sweep", "choice")}
    assert read_metrics(write(tmp_path / "some", some), ABOUT) == some


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("layers", {"task": "MRPC"}, "layers.json: metrics of another model: task MRPC; expected RTE, the model's"),
        ("sweep", {"task": "MRPC"}, "sweep.json: metrics of another model: task MRPC; expected RTE, the model's"),
        ("layers", {"num_layers": 6}, "layers.json: metrics of another model: num_layers 6; expected 12, the model's"),
        ("layers", {"weights": "ff"}, "metrics of another model: weights ff; expected 0123456789ab, the model's"),
        ("sweep", {"n": 5}, "sweep.json: metrics of another model: n 5; expected 1277, as in layers.json"),
        ("choice", {"n": 5}, "choice.json: metrics of another model: n 5; expected 1277, as in sweep.json"),
        ("sweep", {"full_score": 0.7}, "full_score 0.7; expected 0.6812, as in layers.json"),
    ],
)
def test_metrics_of_another_model(tmp_path: Path, name: str, change: dict[str, Any], told: str) -> None:
    """Another task or depth, or files that are not of one run, are found out."""
    write(tmp_path, ALL | {name: ALL[name] | change})
    with pytest.raises(UserError) as caught:
        read_metrics(tmp_path, ABOUT)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"weights": "ff"}, {"weights": None}, {"threshold": 0.2}])
def test_times_of_another_run_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: dict[str, Any]
) -> None:
    """A line says so. The clock's stage may have been left out since."""
    write(tmp_path, ALL | {"benchmark": BENCHMARK | change})
    assert read_metrics(tmp_path, ABOUT) == {name: ALL[name] for name in ("layers", "sweep", "choice")}
    [told] = (record.getMessage() for record in caplog.records)
    assert told == f"{tmp_path / 'benchmark.json'}: is not of the run whose metrics were read; times are left out"


def plotted(full_score: float, layers: int = 12) -> list[dict[str, Any]]:
    """Rows as in plots/layers.json: of two splits and two metrics."""
    return [
        {"split": split, "layer": layer, "metric": metric, "score": full_score if layer == layers else layer / 100}
        for split in ("validation", "test")
        for metric in ("f1", "accuracy")
        for layer in range(1, layers + 1)
    ]


def test_the_score_of_each_layer_comes_from_the_plots(tmp_path: Path) -> None:
    """They are of the main split and metric."""
    (tmp_path / "plots").mkdir()
    full_score = ALL["layers"]["full_score"]
    write_json(tmp_path / "plots" / "layers.json", plotted(full_score))
    scores = read_metrics(write(tmp_path / "metrics", ALL), ABOUT)["layer_scores"]
    assert scores == {layer: layer / 100 for layer in range(1, 12)} | {12: full_score}


@pytest.mark.parametrize("content", [plotted(0.1234), plotted(0.5, layers=6), [], {}, "text", [1], [{"split": "test"}]])
def test_plots_of_another_run_are_left_out(tmp_path: Path, content: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A line says so, and the metrics are read without them."""
    (tmp_path / "plots").mkdir()
    write_json(tmp_path / "plots" / "layers.json", content)
    assert read_metrics(write(tmp_path / "metrics", ALL), ABOUT) == ALL | {"layer_scores": {}}
    assert caplog.messages == [
        f"{tmp_path / 'plots/layers.json'}: is not of the run whose metrics were read; scores of layers are left out"
    ]


@pytest.mark.parametrize("content", [[], [1, 2], 3, "text", None])
@pytest.mark.parametrize("name", ALL)
def test_metrics_that_are_no_object(tmp_path: Path, name: str, content: object) -> None:
    """JSON that has no keys is one line naming the file."""
    write(tmp_path, ALL)
    write_json(tmp_path / f"{name}.json", content)
    with pytest.raises(UserError, match=rf"{name}\.json: expected figures by name, found ") as caught:
        read_metrics(tmp_path, ABOUT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ALL)
def test_whatever_the_card_reads_may_be_damaged(tmp_path: Path, name: str) -> None:
    """A key that is missing, or has a value of another type, is one line naming file and key."""
    for key in NEEDED[name]:
        section, _, inner = key.partition(".")
        for bad in (None, True, [1], {"drop_0_0": "much"}):
            change = {section: {**ALL[name][section], inner: bad} if inner else bad}
            with pytest.raises(UserError, match=rf"{name}\.json: {key}: .* is not allowed; expected ") as caught:
                read_metrics(write(tmp_path, ALL | {name: ALL[name] | change}), ABOUT)
            assert "\n" not in str(caught.value)
        without = {each: value for each, value in ALL[name].items() if each != section}
        with pytest.raises(UserError, match=rf"{name}\.json: has no {key.split('.')[0]}"):
            read_metrics(write(tmp_path, ALL | {name: without}), ABOUT)


@pytest.mark.parametrize(
    ("name", "key", "figures", "told"),
    [
        (
            "sweep",
            "threshold_at",
            {"risk_0_5": 0.1},
            r"sweep\.json: threshold_at: risk_0_5 is not allowed",
        ),
        (
            "sweep",
            "layers_saved_at",
            {"drop_0_0": 0.1},
            r"sweep\.json: .*layers_saved_at drop_0_0; expected drop",
        ),
        ("choice", "cross_fitted_score_at", {"drop_9_0": 0.1}, r"choice\.json: .* as in threshold_at of sweep\.json"),
        (
            "choice",
            "certified_layers_saved_at",
            {"risk_0_01": 0},
            r"choice\.json: .* as in certified_threshold",
        ),
    ],
)
def test_tables_are_whole(tmp_path: Path, name: str, key: str, figures: dict[str, float], told: str) -> None:
    """Every target has all figures of its row, and is a number."""
    write(tmp_path, ALL | {name: ALL[name] | {key: figures}})
    with pytest.raises(UserError, match=told) as caught:
        read_metrics(tmp_path, ABOUT)
    assert "\n" not in str(caught.value)


CERTIFIED = [
    {"split": split, "loss": loss, "epsilon": epsilon, "threshold": threshold, "layers_saved_frac": saved}
    for split in ("test", "validation")
    for loss, epsilon, threshold, saved in (
        ("disagreement", 0.01, 0.0, 0.0),
        ("disagreement", 0.05, 0.1121 if split == "validation" else 0.3, 0.193412),
        ("accuracy_drop", 0.01, 0.0, 0.0),
        ("accuracy_drop", 0.05, 0.2513 if split == "validation" else 0.4, 0.270712),
    )
]


def test_answers_that_change_come_from_the_plots(tmp_path: Path) -> None:
    """Certificates of the main split, by the share of answers that are not full depth's."""
    write_json(tmp_path / "plots" / "certificates.json", CERTIFIED)
    found = read_metrics(write(tmp_path / "metrics", ALL), ABOUT)["certified_changed"]
    assert found == [row for row in CERTIFIED if (row["split"], row["loss"]) == ("validation", "disagreement")]


@pytest.mark.parametrize(
    "content",
    [
        [row | {"threshold": 0.2} for row in CERTIFIED],
        [row for row in CERTIFIED if row["split"] == "test"],
        [row | {"layers_saved_frac": None} for row in CERTIFIED],
        [row | {"epsilon": "0.05"} for row in CERTIFIED],
        {},
        "text",
        [1],
    ],
)
def test_certificates_of_another_run_are_left_out(
    tmp_path: Path, content: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A line says so, and the metrics are read without them."""
    write_json(tmp_path / "plots" / "certificates.json", content)
    assert read_metrics(write(tmp_path / "metrics", ALL), ABOUT)["certified_changed"] == []
    [told] = caplog.messages
    assert told.endswith("is not of the run whose metrics were read; certificates by answers changed are left out")


def test_scores_are_of_the_main_split_and_metric(tmp_path: Path) -> None:
    """Rows of another split or metric have no part in them, and where a layer is missing there are none."""
    full = ALL["layers"]["full_score"]
    rows = plotted(full)
    for row in rows:
        row["score"] += 0.2 * (row["layer"] < 12 and (row["split"], row["metric"]) != ("validation", "f1"))
    write_json(tmp_path / "plots/layers.json", rows)
    scores = read_metrics(write(tmp_path / "metrics", ALL), ABOUT)["layer_scores"]
    assert scores == {layer: layer / 100 for layer in range(1, 12)} | {12: full}
    write_json(tmp_path / "plots/layers.json", [row for row in rows if row["layer"] != 5])
    assert read_metrics(tmp_path / "metrics", ABOUT)["layer_scores"] == {}
