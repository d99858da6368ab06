"""What programs read of a model's thresholds is what its metrics say, and is never of another model."""

import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import deebert.classifier
from deebert.analysis.layers import layer_metrics, layer_rows
from deebert.base.errors import UserError
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.thresholds import Certified, HeadScore, Recommended, Thresholds
from tests.heads import heads
from tests.inference.test_classifier import write_classifier, write_metrics
from tests.inference.test_run_metrics import ALL

LAYERS = {"ramp_first_score": 0.53, "ramp_middle_score": 0.6, "ramp_last_score": 0.67, "ramp_best_score": 0.69}


def known(**layers: Any) -> Thresholds:
    return Thresholds.of_metrics("accuracy", {**ALL, "layers": {**ALL["layers"], **layers}})


def test_they_are_those_of_the_metrics() -> None:
    """Every recommended and certified one with what it saves, and the score after each layer that metrics speak of."""
    found = known(**LAYERS, ramp_best_layer=9)
    assert (found.weights, found.n, found.split, found.precision) == ("0123456789ab", 1277, "validation", "fp32")
    scores = ((1, 0.53), (6, 0.6), (9, 0.69), (11, 0.67), (12, 0.6812))
    assert found.scores == tuple(HeadScore(*each) for each in scores)
    assert found.recommended[2] == Recommended(1.0, 0.4734, 0.332, 0.6711) and len(found.recommended) == 4
    assert found.certified == (Certified(0.01, 0.0, 0.0), Certified(0.05, 0.2513, 0.2707))
    assert found.certified_changed == ()
    rows = [{"epsilon": 0.05, "threshold": 0.1121, "layers_saved_frac": 0.193412}]
    with_plots = Thresholds.of_metrics("accuracy", {**ALL, "certified_changed": rows})
    assert with_plots.certified_changed == (Certified(0.05, 0.1121, 0.1934),)
    assert found.for_drop(0.5) == 0.3185 and found.for_drop(3) == 0.5773
    assert known(split="validation_matched").split == "validation_matched"
    assert known().scores == (HeadScore(12, 0.6812),)
    assert [each.layer for each in known(**LAYERS, ramp_best_layer=3).scores] == [1, 3, 6, 11, 12]
    every = {layer: 0.5 + layer / 100 for layer in range(1, 13)}
    of_all = Thresholds.of_metrics("accuracy", {**ALL, "layer_scores": every})
    assert of_all.scores == tuple(HeadScore(layer, round(score, 4)) for layer, score in every.items())


def test_a_loss_that_nobody_asked_about() -> None:
    """No threshold is guessed; the line says for which losses there is one."""
    with pytest.raises(UserError, match="no threshold is known for a loss of 2 points; expected one of 0, "):
        known().for_drop(2)
    for asked in (known().for_drop, known().for_risk):
        with pytest.raises(UserError, match="'1', which is no number of points"):
            asked("1")


def test_how_many_answers_change() -> None:
    """The smallest share that is certified for the threshold, or for a higher one; else nobody knows."""
    of_risks = tuple(Certified(*each) for each in ((0.05, 0.3, 0.6), (0.01, 0.0, 0.0), (0.02, 0.2, 0.4)))
    found = replace(known(), certified_changed=of_risks)
    assert [found.changed_at(nats) for nats in (0.0, 0.1, 0.2, 0.25, 0.3, 0.31)] == [None, 0.02, 0.02, 0.05, 0.05, None]


def test_a_file_holds_them() -> None:
    """What is written comes back."""
    found = replace(known(**LAYERS, ramp_best_layer=9), samples="0123456789ab")
    assert Thresholds.of_file(Path("thresholds.json"), found.to_bytes()) == found


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.pop("n"),
        lambda content: content.update(more=1),
        lambda content: content.update(n=True),
        lambda content: content.update(weights=None),
        lambda content: content.update(recommended=3),
        lambda content: content["recommended"][0].update(threshold_nats="0.1"),
        lambda content: content["recommended"][0].pop("drop_points"),
        lambda content: content.update(certified=[[]]),
        lambda content: content.update(certified_changed=None),
        lambda content: content.pop("certified_changed"),
        lambda content: content.update(samples=3),
        lambda content: content.update(scores=[]),
    ],
)
def test_a_damaged_file_is_told(change: Any) -> None:
    """In one line that names it and says what writes it anew."""
    content = json.loads(known().to_bytes())
    change(content)
    for damaged in (json.dumps(content).encode(), b"[]", b"{", b"\xff"):
        with pytest.raises(UserError, match=re.escape("model/thresholds.json: damaged: ")) as caught:
            Thresholds.of_file(Path("model/thresholds.json"), damaged)
        assert "\n" not in str(caught.value) and "save_pretrained(metrics=...)" in str(caught.value)


def test_they_go_with_the_model(tmp_path: Path) -> None:
    """From metrics into a saved model and on into its copies; a model without them knows none."""
    folder = write_classifier(tmp_path)
    classifier = EarlyExitClassifier.from_pretrained(folder)
    metrics = write_metrics(tmp_path / "metrics", classifier)
    assert classifier.thresholds() is None
    found = classifier.thresholds(metrics)
    assert found.for_drop(2) == 0.2468 and found.weights == classifier.fingerprint
    classifier.save_pretrained(tmp_path / "one", metrics)
    EarlyExitClassifier.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    rounded = EarlyExitClassifier.from_pretrained(tmp_path / "two", precision="bf16")
    assert rounded.thresholds() == found and rounded.fingerprint == classifier.fingerprint
    assert rounded.identity["files"] == classifier.identity["files"] and rounded.identity != classifier.identity


def test_other_code_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has another version of this package may answer otherwise, with the same weights and files."""
    classifier = EarlyExitClassifier.from_pretrained(write_classifier(tmp_path / "model"))
    package = shutil.copytree(Path(deebert.classifier.__file__).parent, tmp_path / "deebert")
    before = classifier.identity
    monkeypatch.setattr(sys.modules[EarlyExitClassifier.__module__], "__file__", package / "inference/classifier.py")
    assert classifier.identity == before
    rule = package / "exits/rule.py"
    rule.write_text(rule.read_text() + "\n")
    assert {key for key, value in classifier.identity.items() if value != before[key]} == {"code"}


def test_those_of_another_model_are_refused(tmp_path: Path) -> None:
    """Their fingerprint says so, wherever they come from."""
    classifier = EarlyExitClassifier.from_pretrained(write_classifier(tmp_path))
    classifier.save_pretrained(tmp_path / "model", write_metrics(tmp_path / "metrics", classifier))
    path = tmp_path / "model" / "thresholds.json"
    path.write_text(path.read_text().replace(classifier.fingerprint, "0123456789ab"))
    other = EarlyExitClassifier.from_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match=r"thresholds.json: of another model: weights 0123456789ab; expected "):
        other.thresholds()
    layers = json.loads((tmp_path / "metrics" / "layers.json").read_text())
    (tmp_path / "metrics" / "layers.json").write_text(json.dumps(layers | {"weights": "0123456789ab"}))
    with pytest.raises(UserError, match="metrics of another model: weights 0123456789ab"):
        other.thresholds(tmp_path / "metrics")


@pytest.mark.parametrize("layers", [2, 3, 5, 6, 7])
def test_the_middle_is_one_layer(layers: int) -> None:
    """Where the depth is odd, too, metrics/layers.json and thresholds.json speak of the same layer."""
    logits, labels = heads(layers, n=2000, layers=layers)
    rows = layer_rows("validation", logits, labels, ["accuracy"])
    metrics = layer_metrics("toy", rows, "validation", 2000)
    found = Thresholds.of_metrics("accuracy", {**ALL, "layers": {**ALL["layers"], **metrics}})
    scores = {row["layer"]: round(row["score"], 4) for row in rows}
    assert len(set(scores.values())) == layers
    assert metrics["ramp_middle_score"] == scores[layers // 2]
    assert all(each.score == scores[each.layer] for each in found.scores)


def test_certified_thresholds_are_found_by_points() -> None:
    """100 times a share is not always the whole number that somebody types."""
    rows = ((0.01, 0.0, 0.0), (0.07, 0.3, 0.5), (0.29, 0.4, 0.6))
    found = replace(known(), certified=tuple(Certified(*each) for each in rows))
    assert [found.for_risk(points) for points in (7, 29)] == [0.3, 0.4]
    with pytest.raises(UserError, match=r"certified for 1 points of accuracy; expected one of 7, 29$"):
        found.for_risk(1)


def test_numbers_may_be_whole_in_the_file() -> None:
    """Other programs write 0 for 0.0."""
    content = json.loads(known().to_bytes())
    content["recommended"][0]["drop_points"] = 0
    assert Thresholds.of_file(Path("t"), json.dumps(content).encode()) == known()
