"""A model card is complete: a machine reads its head, a person the task, the scores and what to copy."""

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deebert.inference.card import is_untouched, model_card
from deebert.inference.thresholds import Recommended, Thresholds
from tests import tiny
from tests.inference.test_run_metrics import ALL, BENCHMARK
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
CHANGED = ({"epsilon": 0.01, "threshold": 0.0, "layers_saved_frac": 0.0},)
CHANGED += ({"epsilon": 0.05, "threshold": 0.1121, "layers_saved_frac": 0.193412},)
KNOWN = Thresholds.of_metrics("accuracy", ALL | {"certified_changed": CHANGED})

each_card = pytest.mark.parametrize(
    ("about", "told"),
    [(ABOUT, (KNOWN, BENCHMARK)), (ABOUT, (KNOWN,)), (ABOUT, ()), (BARE, ())],
    ids=["both", "thresholds", "none", "bare"],
)


def tables(card: str) -> list[list[list[str]]]:
    """The cells of every Markdown table, heading first, without the rule below it."""
    blocks = re.findall(r"(?:^\|.*\n)+", card, flags=re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in block.splitlines()] for block in blocks]


@each_card
def test_the_head_is_what_the_hub_reads(about: dict[str, Any], told: tuple[Any, ...]) -> None:
    """YAML between two rules at the very top says which library and which kind of task."""
    empty, head, _ = model_card(about, *told).split("---\n", 2)
    assert empty == ""
    parsed = yaml.safe_load(head)
    assert parsed["library_name"] == "deebert" and parsed["pipeline_tag"] == "text-classification"
    assert "early-exit" in parsed["tags"]


@each_card
def test_the_example_is_python_that_can_be_copied(about: dict[str, Any], told: tuple[Any, ...]) -> None:
    """It parses, imports what there is, and asks with as many texts as the model was trained on."""
    (code,) = re.findall(r"```python\n(.*?)```", model_card(about, *told), flags=re.DOTALL)
    tree = ast.parse(code)
    (imported,) = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    exec(compile(ast.Module([imported], []), "card", "exec"), {})
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func.attr == "predict"]
    (text,) = ast.literal_eval(call.args[0])
    assert isinstance(text, tuple) == (len(about.get("text_columns", ())) == 2)
    (threshold,) = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "threshold"]
    assert threshold == (0.4734 if told else 0)


@each_card
def test_what_the_model_is(about: dict[str, Any], told: tuple[Any, ...]) -> None:
    """Task, base model and its origin, labels in the order of their ids, and depth stand in it; nothing is None."""
    card = model_card(about, *told)
    words = [about.get(key, "") for key in ("task", "model", "source", "revision")]
    for word in (*words, *about.get("text_columns", ()), ", ".join(about["label_names"]), str(about["num_layers"])):
        assert word in card
    assert "None" not in card


def test_every_recommended_threshold_is_a_row() -> None:
    """Per target: points lost at most, threshold, layers saved, and the score on samples not used to choose."""
    card = model_card(ABOUT, KNOWN)
    assert "At full depth: accuracy 68.12 % on 1,277 samples of validation" in card
    (heading, _, *rows), *_ = tables(card)
    assert heading[-1] == "accuracy (%), on samples not used to choose"
    assert rows == [
        ["0", "0.0138", "12.17 %", "68.05"],
        ["0.5", "0.3185", "29.94 %", "67.61"],
        ["1", "0.4734", "33.20 %", "67.11"],
        ["3", "0.5773", "55.90 %", "65.17"],
    ]


@pytest.mark.parametrize(("metric", "name"), [("f1", "F1"), ("accuracy", "accuracy"), (None, "score")])
def test_scores_are_of_a_metric(metric: str | None, name: str) -> None:
    """Head and text name it; of a model that does not say, they are called scores and the head is silent."""
    card = model_card({**ABOUT, "metric": metric}, replace(KNOWN, metric=metric))
    assert f"At full depth: {name} 68.12 %" in card and f"| {name} (%), on" in card
    assert yaml.safe_load(card.split("---\n")[1]).get("metrics") == ([metric] if metric else None)


def test_nobody_learns_where_a_folder_lies(tmp_path: Path) -> None:
    """Of a model that was started from a folder the card has the folder's name, and no path."""
    origin = start_model(str(tiny.write_model(tmp_path / "minilm")), tiny.LABEL_NAMES[:2], 16)[2]
    card = model_card({**BARE, **origin})
    assert "minilm, source `folder`" in card
    assert str(tmp_path) not in card and tmp_path.name not in card


@pytest.mark.parametrize(
    ("targets", "threshold", "points"),
    [
        ({0.25: 0.5, 10: 0.6}, 0.5, "0.25 points"),
        ({0: 0.2, 0.5: 0.5, 2: 0.6}, 0.5, "0.5 points"),
        ({3: 0.7, 2: 0.6}, 0.6, "2 points"),
        ({0: 0.2, 1: 0.4}, 0.4, "1 point"),
    ],
)
def test_other_targets_than_the_shipped_ones(targets: dict[float, float], threshold: float, points: str) -> None:
    """Rows are of the targets that were set; the example takes one of them, of 1 point or the nearest there is."""
    recommended = tuple(Recommended(points, nats, 0.5, 0.5) for points, nats in targets.items())
    card = model_card(ABOUT, replace(KNOWN, recommended=recommended))
    (_, _, *rows), *_ = tables(card)
    assert [row[1] for row in rows] == [str(value) for value in targets.values()]
    assert f"threshold={threshold})  # loses at most {points} of score on validation" in card


def test_without_targets_the_example_is_full_depth() -> None:
    """Where no threshold is recommended, none is made up."""
    card = model_card(ABOUT, replace(KNOWN, recommended=()))
    assert "threshold=0.0)  # full depth" in card


def test_certified_thresholds_come_with_what_is_promised() -> None:
    """Confidence, samples, and per risk the threshold and what it saves, or that there is none; of both kinds."""
    card = model_card(ABOUT, KNOWN)
    assert "With 90 % confidence, on new samples that are drawn as those 1,277 were, no more is lost than this" in card
    none = ["1", "none: too few samples, or too much is lost", ""]
    _, (of_accuracy, _, *accuracy), (of_answers, _, *answers) = tables(card)
    assert of_accuracy[0].startswith("points of accuracy") and of_answers[0].startswith("% of answers")
    assert accuracy == [none, ["5", "0.2513", "27.07 %"]] and answers == [none, ["5", "0.1121", "19.34 %"]]
    assert "Certified" not in model_card(ABOUT)
    assert "% of answers" not in model_card(ABOUT, replace(KNOWN, certified_changed=()))


def test_no_digit_is_rounded_twice() -> None:
    """The metrics hold 4 digits, and all are shown: to round 0.2695, which was 0.26948, once more would give 27.0 %."""
    first, *others = KNOWN.recommended
    card = model_card(ABOUT, replace(KNOWN, recommended=(replace(first, layers_saved_frac=0.2695), *others)))
    assert "| 26.95 % |" in card and "27.0 %" not in card


def test_an_edited_card_is_told_from_an_untouched_one() -> None:
    """Any change shows, and so does a card that somebody else wrote."""
    card = model_card(ABOUT, KNOWN, BENCHMARK).encode()
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


def test_speed_is_told_with_what_it_was_measured_on() -> None:
    """Both modes, with device, threads and precision; without a benchmark there is no word of speed."""
    card = model_card(ABOUT, KNOWN, BENCHMARK)
    *_, (_, _, *rows) = tables(card)
    assert rows == [["one at a time", "562.1", "1081.5", "31.4 %"], ["batched", "2727.8", "8285.8", "28.2 %"]]
    assert "Measured with 277 samples on AMD EPYC (threads: 2, fp32) at threshold 0.4734, which saves 32.46 %" in card
    assert "## Speed" not in model_card(ABOUT, KNOWN)


def test_without_metrics_the_card_says_so() -> None:
    """No score is made up, and no empty table is left."""
    card = model_card(ABOUT)
    assert "Scores and recommended thresholds were not given when this card was written." in card
    assert tables(card) == []
    assert "not given" not in model_card(ABOUT, KNOWN, BENCHMARK)
