"""`deebert info` says what is known of a model, and that the rest is unknown."""

import json
from pathlib import Path

import pytest

from deebert.inference.classifier import EarlyExitClassifier
from tests.cli.running import error, status
from tests.inference.test_classifier import write_classifier, write_metrics


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("model"))


def test_what_is_known(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, input, labels, layers, fingerprint, scores, thresholds and precision; from the model or from metrics."""
    classifier = EarlyExitClassifier.from_pretrained(model)
    metrics = write_metrics(tmp_path / "metrics", classifier)
    layers = json.loads((metrics / "layers.json").read_text())
    (metrics / "layers.json").write_text(json.dumps(layers | {"ramp_first_score": 0.5123}))
    choice = json.loads((metrics / "choice.json").read_text())
    choice |= {"certified_threshold_at": {"risk_0_01": 0.0, "risk_0_05": 0.3579}}
    choice |= {"certified_layers_saved_at": {"risk_0_01": 0.0, "risk_0_05": 0.2345}}
    (metrics / "choice.json").write_text(json.dumps(choice))
    classifier.save_pretrained(tmp_path / "saved", metrics)
    assert status("info", tmp_path / "saved") == 0
    told = capsys.readouterr().out
    words = ["sentence", "no, yes, maybe", "bert", classifier.fingerprint, "50 samples of validation, in fp32"]
    words += ["tiny", "1  51.23", "4  90.00", "2  0.2468  43.21  87.65", "1  none", "5  0.3579  23.45", "90 %"]
    assert [word for word in words if word not in told] == []
    assert status("info", model, "--metrics", metrics) == 0
    assert capsys.readouterr().out == told


def test_what_is_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model of which nothing was written down: its task, input and thresholds are said to be unknown."""
    assert status("info", write_classifier(tmp_path, columns=None)) == 0
    told = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines() if line)
    assert [told[key].strip() for key in ("task", "input", "model")] == ["unknown"] * 3
    assert told["layers"].strip() == "4" and told["labels"].strip() == "no, yes, maybe"
    assert "--metrics" in told["scores and thresholds"] and "save_pretrained" in told["scores and thresholds"]


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line says so."""
    assert error(capsys, "info", tmp_path / "nowhere").startswith(f"{tmp_path / 'nowhere'}: no model here")
