"""`deebert info` says what is known of a model, and that the rest is unknown."""

import io
import json
import re
import shutil
from pathlib import Path

import pytest

from deebert.cli.info import _labels
from deebert.cli.tables import thresholds_told
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.thresholds import HeadScore, Thresholds
from tests.cli.running import error, status
from tests.inference.test_classifier import write_classifier, write_metrics


def test_what_is_known(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Task, input, labels, layers, fingerprint, scores, thresholds and precision; from the model or from metrics."""
    classifier = EarlyExitClassifier.from_pretrained(model)
    metrics = write_metrics(tmp_path / "metrics", classifier)
    rows = [
        {"split": split, "layer": layer, "metric": "accuracy", "score": score}
        for split, scores in (("validation", [0.5123, 0.6, 0.72344, 0.9]), ("test", [0.1, 0.2, 0.3, 0.4]))
        for layer, score in enumerate(scores, start=1)
    ]
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "layers.json").write_text(json.dumps(rows))
    choice = json.loads((metrics / "choice.json").read_text())
    choice |= {"certified_threshold_at": {"risk_0_01": 0.0, "risk_0_05": 0.3579}}
    choice |= {"certified_layers_saved_at": {"risk_0_01": 0.0, "risk_0_05": 0.2345}}
    (metrics / "choice.json").write_text(json.dumps(choice))
    classifier.save_pretrained(tmp_path / "saved", metrics)
    assert status("info", tmp_path / "saved") == 0
    told = capsys.readouterr().out
    words = ["sentence", "no, yes, maybe", "bert", classifier.fingerprint, "50 samples of validation, in fp32"]
    words += ["tiny", "1  51.23", "2  60.00", "3  72.34", "4  90.00"]
    words += ["2  0.2468  43.21  87.65", "1  none", "5  0.3579  23.45", "90 %"]
    assert [word for word in words if word not in told] == []
    assert status("info", model, "--metrics", metrics) == 0
    assert capsys.readouterr().out == told


def test_a_console_that_lacks_letters(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told by number, as where the output goes to a file in an older locale."""
    shutil.copytree(model, tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    config["id2label"]["0"] = "été ☂"
    config["label2id"] = {name: int(i) for i, name in config["id2label"].items()}
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    output = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(output, encoding="cp1252"))
    assert status("info", tmp_path / "model") == 0
    assert "été \\u2602" in output.getvalue().decode("cp1252")


@pytest.mark.parametrize(("count", "lines"), [(6, 1), (12, 2), (24, 4)])
def test_the_score_of_every_layer(count: int, lines: int) -> None:
    """Each stands once, beside its layer, six on a line and below one another."""
    scores = tuple(HeadScore(layer, layer / 50) for layer in range(1, count + 1))
    told = thresholds_told(Thresholds("ff", "validation", 50, "fp32", "accuracy", scores, (), 0.9, ()))
    start = told.index("if everybody leaves after layer: accuracy (%)") + 1
    table = told[start : told.index("", start)]
    assert len(table) == lines and max(map(len, table)) <= 100
    assert len({tuple(match.start() for match in re.finditer(r"\.", line)) for line in table}) == 1
    words = " ".join(table).split()
    assert list(zip(words[::2], words[1::2], strict=True)) == [(str(i), f"{2 * i}.00") for i in range(1, count + 1)]


def test_many_labels_are_shortened() -> None:
    """The first, as many as one line holds, and how many more there are; a few are told in full."""
    names = [f"intent_number_{i}" for i in range(77)]
    told = _labels(names)
    first, more = told.rsplit(" and ", 1)
    shown = first.split(", ")
    assert shown == names[: len(shown)] and len(shown) > 1 and more == f"{77 - len(shown)} more" and len(told) <= 120
    assert _labels(names[:3]) == ", ".join(names[:3])
    assert _labels(["x" * 200, "y"]) == "x" * 200 + " and 1 more"


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
