"""A model card is complete: a machine reads its head, a person the task, the scores and what to copy."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deebert.base.errors import UserError
from deebert.base.files import write_json
from deebert.inference.card import NEEDED, is_untouched, model_card, read_metrics
from tests import tiny
from tests.starting import start_model

ABOUT = {
    "model": "bert-base",
    "source": "google-bert/bert-base-uncased",
    "revision": "86b5e09",
    "task": "RTE",
    "text_columns": ["sentence1", "sentence2"],
    "metric": "accuracy",
    "label_names": ["entailment", "not_entailment"],
    "num_layers": 12,
    "model_type": "bert",
    "ramp": "pooler",
    "weights": "0123456789ab",
}
# Nothing that a user may leave out: no training.json came with the weights.
BARE = {"label_names": ["LABEL_0", "LABEL_1"], "num_layers": 6, "model_type": "distilbert", "ramp": "linear"}
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
BOTH = {"sweep": SWEEP, "choice": CHOICE, "benchmark": BENCHMARK}
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
    **BOTH,
}

each_card = pytest.mark.parametrize(
    ("about", "metrics"),
    [(ABOUT, BOTH), (ABOUT, {"sweep": SWEEP, "choice": CHOICE}), (ABOUT, {}), (BARE, {})],
    ids=["both", "sweep", "none", "bare"],
)


def tables(card: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, heading first, without the rule below it."""
    blocks = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


@each_card
def test_the_head_is_what_the_hub_reads(about: dict[str, Any], metrics: dict[str, Any]) -> None:
    """YAML between two rules at the very top says which library and which kind of task."""
    empty, head, _ = model_card(about, metrics).split("---\n", 2)
    assert empty == ""
    parsed = yaml.safe_load(head)
    assert parsed["library_name"] == "deebert" and parsed["pipeline_tag"] == "text-classification"
    assert "early-exit" in parsed["tags"]


@each_card
def test_the_example_is_python_that_can_be_copied(about: dict[str, Any], metrics: dict[str, Any]) -> None:
    """It parses, imports what there is, and asks with as many texts as the model was trained on."""
    (code,) = re.findall(r"```python\n(.*?)```", model_card(about, metrics), flags=re.DOTALL)
    tree = ast.parse(code)
    (imported,) = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module([imported], []), "card", "exec"), {})
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func.attr == "predict"]
    (text,) = ast.literal_eval(call.args[0])
    assert isinstance(text, tuple) == (len(about.get("text_columns", ())) == 2)
    (threshold,) = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "threshold"]
    assert threshold == (0.4734 if metrics else 0)


@each_card
def test_what_the_model_is(about: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Task, base model and its origin, labels in the order of their ids, and depth stand in it; nothing is None."""
    card = model_card(about, metrics)
    told = [about.get(key, "") for key in ("task", "model", "source", "revision")]
    for word in (*told, *about.get("text_columns", ()), ", ".join(about["label_names"]), str(about["num_layers"])):
        assert word in card
    assert "None" not in card


def test_every_recommended_threshold_is_a_row() -> None:
    """Per target: points lost at most, threshold, layers saved, and the score on samples not used to choose."""
    card = model_card(ABOUT, {"sweep": SWEEP, "choice": CHOICE})
    assert "At full depth: accuracy 68.12 % on 1,277 validation samples" in card
    (heading, _, *rows), _ = tables(card)
    assert heading[-1] == "accuracy (%), on samples not used to choose"
    assert rows == [
        ["0.0", "0.0138", "12.17 %", "68.05"],
        ["0.5", "0.3185", "29.94 %", "67.61"],
        ["1.0", "0.4734", "33.20 %", "67.11"],
        ["3.0", "0.5773", "55.90 %", "65.17"],
    ]


@pytest.mark.parametrize(("metric", "name"), [("f1", "F1"), ("accuracy", "accuracy"), (None, "score")])
def test_scores_are_of_a_metric(metric: str | None, name: str) -> None:
    """Head and text name it; of a model that does not say, they are called scores and the head is silent."""
    card = model_card({**ABOUT, "metric": metric}, {"sweep": SWEEP, "choice": CHOICE})
    assert f"At full depth: {name} 68.12 %" in card and f"| {name} (%), on" in card
    assert yaml.safe_load(card.split("---\n")[1]).get("metrics") == ([metric] if metric else None)


def test_nobody_learns_where_a_folder_lies(tmp_path: Path) -> None:
    """Of a model that was started from a folder the card has the folder's name, and no path."""
    origin = start_model(str(tiny.write_model(tmp_path / "minilm")), tiny.LABEL_NAMES[:2], 16)[2]
    card = model_card({**BARE, **origin}, {})
    assert "minilm, source `folder`" in card
    assert str(tmp_path) not in card and tmp_path.name not in card


@pytest.mark.parametrize(
    ("targets", "threshold", "points"),
    [
        ({"drop_0_25": 0.5, "drop_10_0": 0.6}, 0.5, "0.25 points"),
        ({"drop_0_0": 0.2, "drop_0_5": 0.5, "drop_2_0": 0.6}, 0.5, "0.5 points"),
        ({"drop_3_0": 0.7, "drop_2_0": 0.6}, 0.6, "2 points"),
        ({"drop_0_0": 0.2, "drop_1_0": 0.4}, 0.4, "1 point"),
    ],
)
def test_other_targets_than_the_shipped_ones(targets: dict[str, float], threshold: float, points: str) -> None:
    """Rows are of the targets that were set; the example takes one of them, of 1 point or the nearest there is."""
    sweep = SWEEP | {"layers_saved_at": targets, "threshold_at": targets}
    card = model_card(ABOUT, {"sweep": sweep, "choice": CHOICE | {"cross_fitted_score_at": targets}})
    (_, _, *rows), _ = tables(card)
    assert [row[1] for row in rows] == [str(value) for value in targets.values()]
    assert f"threshold={threshold})  # loses at most {points} of score on validation" in card


def test_without_targets_the_example_is_full_depth() -> None:
    """Where no threshold is recommended, none is made up."""
    sweep = SWEEP | {"layers_saved_at": {}, "threshold_at": {}}
    card = model_card(ABOUT, {"sweep": sweep, "choice": CHOICE | {"cross_fitted_score_at": {}}})
    assert "threshold=0.0)  # full depth" in card


def test_certified_thresholds_come_with_what_is_promised() -> None:
    """Confidence, samples, and per risk the threshold and what it saves, or that there is none."""
    card = model_card(ABOUT, {"sweep": SWEEP, "choice": CHOICE})
    assert (
        "With 90 % confidence, on new samples that are drawn as those 1,277 were, accuracy is at most so many" in card
    )
    _, (_, _, *rows) = tables(card)
    assert rows == [["1", "none: too few samples, or too much is lost", ""], ["5", "0.2513", "27.07 %"]]
    assert "Certified" not in model_card(ABOUT, {})


def test_no_digit_is_rounded_twice() -> None:
    """The metrics hold 4 digits, and all are shown: to round 0.2695, which was 0.26948, once more would give 27.0 %."""
    sweep = SWEEP | {"layers_saved_at": {**SWEEP["layers_saved_at"], "drop_0_0": round(0.26948, 4)}}
    card = model_card(ABOUT, {"sweep": sweep, "choice": CHOICE})
    assert "| 26.95 % |" in card and "27.0 %" not in card


def test_an_edited_card_is_told_from_an_untouched_one() -> None:
    """Any change shows, and so does a card that somebody else wrote."""
    card = model_card(ABOUT, BOTH).encode()
    assert is_untouched(card)
    for other in (
        card + b"More.",
        b" " + card,
        card.replace(b"RTE", b"RTF", 1),
        card.replace(b"\n", b"\r\n"),
        b"",
        b"# Mine",
    ):
        assert not is_untouched(other)


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


def test_speed_is_told_with_what_it_was_measured_on() -> None:
    """Both modes, with device, threads and precision; without a benchmark there is no word of speed."""
    card = model_card(ABOUT, BOTH)
    *_, (_, _, *rows) = tables(card)
    assert rows == [["one at a time", "562.1", "1081.5", "31.4 %"], ["batched", "2727.8", "8285.8", "28.2 %"]]
    assert "Measured with 277 samples on AMD EPYC (threads: 2, fp32) at threshold 0.4734, which saves 32.46 %" in card
    assert "## Speed" not in model_card(ABOUT, {"sweep": SWEEP, "choice": CHOICE})


def test_without_metrics_the_card_says_so() -> None:
    """No score is made up, and no empty table is left."""
    card = model_card(ABOUT, {})
    assert "Scores and recommended thresholds were not given when this card was written." in card
    assert tables(card) == []
    assert "not given" not in model_card(ABOUT, BOTH)
