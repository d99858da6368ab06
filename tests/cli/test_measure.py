"""`deebert measure` says what thresholds do on labelled texts, and keeps it for the other commands."""

import json
import shutil
from pathlib import Path

import pytest

from deebert.data.dataset import DataSet, Task
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.thresholds import Thresholds
from tests import tiny
from tests.cli.running import error, status
from tests.data.tables.test_formats import write
from tests.inference.test_classifier import write_classifier, write_metrics

COUNT = 60


@pytest.fixture(scope="module")
def fresh(classifier: EarlyExitClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts, of which the model knows nine in ten at full depth."""
    texts = tiny.texts(COUNT, seed=3, fewest_words=1)
    known = classifier.predict(texts, 0.0).labels
    labels = [tiny.LABEL_NAMES[(tiny.LABEL_NAMES.index(each) + (i % 10 == 0)) % 3] for i, each in enumerate(known)]
    return write(tmp_path_factory.mktemp("fresh") / "fresh.csv", {"sentence": texts, "label": labels})


def test_what_is_told(model: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores, recommended and certified thresholds; and what the threshold that was given, or was known, does here."""
    classifier = EarlyExitClassifier.from_pretrained(model)
    assert status("measure", model, fresh) == 0
    plain = capsys.readouterr().out
    assert "measured on 60 samples of fresh.csv, in fp32" in plain and "4  90.00" in plain and "90 %" in plain
    assert "known thresholds" not in plain  # there are none
    assert status("measure", model, fresh, "--threshold", "0.75") == 0
    told = capsys.readouterr().out
    assert told.startswith(plain)
    predicted = classifier.predict(tiny.texts(COUNT, seed=3, fewest_words=1), 0.75)
    (row,) = [line.split() for line in told.splitlines() if line.startswith("  0.75 ")]
    assert float(row[1]) == pytest.approx(100 * (1 - predicted.exit_layers.mean() / 4), abs=0.006)
    metrics = write_metrics(tmp_path / "metrics", classifier)
    assert status("measure", model, fresh, "--metrics", metrics) == 0
    assert "\n  0.2468  " in capsys.readouterr().out


def test_what_was_found_serves_the_other_commands(
    model: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`info` tells it, `predict` takes its thresholds, `measure` judges them on other texts; of this model alone."""
    out = tmp_path / "new" / "found.json"
    for _ in range(2):  # it replaces what is there
        assert status("measure", model, fresh, "--out", out) == 0
    told = capsys.readouterr().out
    found = Thresholds.of_file(out, out.read_bytes())
    assert found.n == COUNT and found.split == "fresh.csv"
    assert [each.risk for each in found.certified] == [0.01, 0.02, 0.05]
    assert [path.name for path in out.parent.iterdir()] == ["found.json"]
    assert status("info", model, "--metrics", out) == 0
    facts, _, known = capsys.readouterr().out.partition("measured on")
    assert facts and known and known in told
    answered = model, fresh, tmp_path / "out.csv", "--prefix", "new_"
    assert status("predict", *answered, "--drop", "3", "--metrics", out) == 0
    assert f"threshold: {found.for_drop(3.0):g} nats" in capsys.readouterr().err
    assert status("measure", model, fresh, "--metrics", out) == 0
    judged = capsys.readouterr().out.partition("known thresholds on these samples, by which they were chosen")[2]
    assert f"\n  {found.for_drop(3.0):g}  " in judged
    others = tmp_path / "others.csv"
    others.write_text("\n".join(fresh.read_text().splitlines()[:50]))
    assert status("measure", model, others, "--metrics", out) == 0
    assert "known thresholds on these samples\n" in capsys.readouterr().out
    other = write_classifier(tmp_path / "other", "roberta")
    assert error(capsys, "info", other, "--metrics", out).startswith(f"{out}: of another model: weights ")
    out.write_text(json.dumps({"n": 3}))
    told = error(capsys, "info", model, "--metrics", out)
    assert told.startswith(f"{out}: damaged: ") and "deebert measure" in told


def test_another_precision_is_told(model: Path, fresh: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Thresholds are of the precision that they were measured in; who only tells of them does not mind."""
    out = tmp_path / "found.json"
    assert status("measure", model, fresh, "--precision", "bf16", "--out", out) == 0
    assert json.loads(out.read_text())["precision"] == "bf16"
    for command, is_told in (
        (("info", model), False),
        (("measure", model, fresh), True),
        (("predict", model, fresh, tmp_path / "out.csv", "--prefix", "new_", "--drop", "1"), True),
    ):
        caplog.clear()
        assert status(*command, "--metrics", out) == 0
        assert ("measured in bf16; the model is loaded in fp32" in caplog.text) == is_told


@pytest.mark.parametrize("names", [("1", "2", "3"), ("0", "2", "1")])
def test_labels_of_a_data_set_are_ids(
    names: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In its files, whatever its classes are called; in a file of one's own the same words are names."""
    folder = write_classifier(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    (folder / "config.json").write_text(json.dumps(config))
    answers = EarlyExitClassifier.from_pretrained(folder).predict(tiny.texts(COUNT, seed=3, fewest_words=1), 0.0)
    data = tiny.samples(COUNT, labels=3).assign(
        sentence=tiny.texts(COUNT, seed=3, fewest_words=1), label=[names.index(each) for each in answers.labels]
    )
    task = Task("tiny", names, ("sentence",), source="tests")
    (tmp_path / "data").mkdir()
    DataSet.of(task, {split: data for split in task.splits}).save(tmp_path / "data")
    for split in ("validation", "test"):
        assert status("measure", folder, tmp_path / "data" / f"{split}.parquet") == 0
        told = capsys.readouterr().out
        assert f"60 samples of {split}, in fp32" in told and "4  100.00" in told
    (tmp_path / "data" / "more.parquet").write_bytes((tmp_path / "data" / "test.parquet").read_bytes())
    told = error(capsys, "measure", folder, tmp_path / "data" / "more.parquet")
    assert told.endswith("has no split more; expected one of train, validation, test")


def test_mistakes(model: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line each, before anything takes long."""
    wrong = write(tmp_path / "wrong.csv", {"sentence": ["w1", "w2"], "label": ["yes", "never"]})
    one = write(tmp_path / "one.csv", {"sentence": ["w1"], "label": ["yes"]})
    (tmp_path / "file").write_text("")
    for arguments, told in (
        ((tmp_path / "nowhere", fresh), f"{tmp_path}/nowhere: no model here"),
        ((model, tmp_path / "no.csv"), f"{tmp_path}/no.csv: no such file or folder"),
        ((model, wrong), f"{wrong}: line 3: column label: 'never'; expected one of no, yes, maybe"),
        ((model, one), f"{one}: 1 labelled texts; expected two or more"),
        ((model, fresh, "--label", "intent"), f"{fresh}: has no column intent; found sentence, label"),
        ((model, fresh, "--metrics", tmp_path / "none"), f"{tmp_path}/none: no such file or folder"),
        ((model, fresh, "--out", tmp_path / "file" / "found.json"), f"{tmp_path}/file/found.json: cannot be written"),
        ((model, fresh, "--out", fresh), f"--out: {fresh} is the input; expected another file"),
        ((model, fresh, "--out", wrong), f"--out: {wrong} holds something else; expected a new file, or one that"),
    ):
        assert error(capsys, "measure", *arguments).startswith(told)
    for options in (("--pair", "b"), ("--threshold", "0.1", "--metrics", tmp_path), ("--threshold", "-1")):
        assert status("measure", model, fresh, *options) == 2


def rows_of(told: str) -> list[list[str]]:
    """The numbers of known thresholds: nats, layers saved, score, points lost, the two ends, and answers changed."""
    lines = told.partition("points lost (95 % interval), answers changed (%)\n")[2].splitlines()
    return [line.replace("(", "").replace(")", "").replace(" to ", " ").split() for line in lines]


def test_what_a_threshold_costs(model: Path, fresh: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The score at it, and the points lost between the two ends; 0 is a threshold, too, which loses nothing."""
    classifier = EarlyExitClassifier.from_pretrained(model)
    labels = [line.split(",")[1] for line in fresh.read_text().splitlines()[1:]]
    answers, full = (classifier.predict(tiny.texts(COUNT, seed=3, fewest_words=1), nats).labels for nats in (0.75, 0))
    score, changed = sum(map(str.__eq__, answers, labels)) / COUNT, sum(map(str.__ne__, answers, full)) / COUNT
    assert status("measure", model, fresh, "--threshold", "0.75") == 0
    ((_, _, told, lost, low, high, others),) = rows_of(capsys.readouterr().out)
    assert (float(told), float(lost)) == (
        pytest.approx(100 * score, abs=0.006),
        pytest.approx(90 - 100 * score, abs=0.006),
    )
    assert float(low) < float(lost) < float(high)
    assert float(others) == pytest.approx(100 * changed, abs=0.006) and changed > 0
    assert status("measure", model, fresh, "--threshold", "0") == 0
    assert rows_of(capsys.readouterr().out) == [["0", "0.00", "90.00", "0.00", "0.00", "0.00", "0.00"]]


def test_other_samples_do_not_flatter(
    model: Path, fresh: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts or labels are others, whatever the file is called; a copy of it has the same."""
    out = tmp_path / "found.json"
    assert status("measure", model, fresh, "--out", out) == 0
    others = tmp_path / "others" / fresh.name
    others.parent.mkdir()
    *lines, last = fresh.read_text().splitlines()
    for content in (lines, [*lines, last.replace("yes", "no") if "yes" in last else last.replace("no", "yes")]):
        others.write_text("\n".join(content))
        assert status("measure", model, others, "--metrics", out) == 0
        assert "known thresholds on these samples\n" in capsys.readouterr().out
    assert status("measure", model, shutil.copy(fresh, tmp_path / "copy.csv"), "--metrics", out) == 0
    assert "on these samples, by which they were chosen: that flatters them\n" in capsys.readouterr().out


def test_where_it_is_kept(
    model: Path, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At home, where it is so called; never in place of the samples; and what cannot be written is told at once."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert status("measure", model, fresh, "--out", "~/found.json") == 0
    assert (tmp_path / "found.json").is_file()
    monkeypatch.chdir(fresh.parent)
    before = fresh.read_bytes()
    assert error(capsys, "measure", model, fresh, "--out", fresh.name).endswith("is the input; expected another file")
    assert fresh.read_bytes() == before
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "found.json"
    assert error(capsys, "measure", tmp_path / "nowhere", fresh, "--out", out).startswith(f"{out}: cannot be written")
    told = error(capsys, "measure", model, fresh, "--device", "nowhere")
    assert told.startswith("device: 'nowhere' cannot be used")


def test_the_score_is_that_of_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told, and kept, by its name."""
    folder = write_classifier(tmp_path)
    about = json.loads((folder / "training.json").read_text())
    (folder / "training.json").write_text(json.dumps(about | {"metric": "macro_f1"}))
    data = write(tmp_path / "in.csv", {"sentence": tiny.texts(9, fewest_words=1), "label": ["0", "1", "2"] * 3})
    assert status("measure", folder, data, "--out", tmp_path / "found.json") == 0
    assert "if everybody leaves after layer: macro_f1 (%)" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["metric"] == "macro_f1"
