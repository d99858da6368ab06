"""`deebert export` writes a folder that answers by itself as the model does, and says no in one line."""

import ast
import io
import json
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from deebert.base.errors import UserError
from deebert.data.dataset import DataSet, Task
from deebert.export import folder, graphs
from deebert.export.folder import Chosen
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.precisions import RECORD
from deebert.inference.thresholds import HeadScore, Recommended, Thresholds
from deebert.measure.measured import DROPS_POINTS
from deebert.model import DeeBert
from tests import tiny
from tests.cli.running import error, status
from tests.data.tables.test_formats import write
from tests.inference.test_classifier import LAYERS, write_classifier, write_metrics

COUNT = 60


def sentences(count: int = COUNT, seed: int = 0) -> list[str]:
    return tiny.texts(count, seed, fewest_words=1)


@pytest.fixture(scope="module")
def data(classifier: EarlyExitClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that the model knows at full depth, but for a tenth; so thresholds cost something."""
    folder = tmp_path_factory.mktemp("data")
    labels = [tiny.LABEL_NAMES.index(label) for label in classifier.predict(sentences(), 0.0).labels]
    labels = [(label + (i % 10 == 0)) % 3 for i, label in enumerate(labels)]
    table = tiny.samples(COUNT, labels=3).assign(sentence=sentences(), label=labels)
    task = Task("tiny", tiny.LABEL_NAMES, ("sentence",), source="tests")
    DataSet.of(task, {split: table for split in task.splits}).save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ramp after each layer, checked."""
    out = tmp_path_factory.mktemp("exported") / "out"
    assert status("export", model, out, "--check", data) == 0
    return out


def manifest_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def answers_of(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, lines: str = ""
) -> list[dict[str, Any]]:
    """What the exported runner prints, as a program of its own."""
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["runner.py", *arguments])
        patched.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode("utf-8", "surrogateescape"))))
        runpy.run_path(str(out / "runner.py"), run_name="__main__")
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_runner_stands_alone(exported: Path) -> None:
    """It is a file of the package, and imports onnxruntime, tokenizers, numpy and the standard library alone."""
    source = (exported / "runner.py").read_text(encoding="utf-8")
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"onnxruntime", "tokenizers", "numpy"}


def test_the_runner_answers_as_the_model(
    exported: Path,
    classifier: EarlyExitClassifier,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Arguments or lines; at the threshold of the manifest, or another; an empty line has no answer."""
    texts = sentences(20, seed=1)
    for options, nats in (((), manifest_of(exported)["threshold_nats"]), (("--threshold", "0.75"), 0.75)):
        expected = classifier.predict(texts, nats)
        answers = answers_of(exported, monkeypatch, capsys, *options, *texts)
        assert [each["label"] for each in answers] == expected.labels
        assert [each["exit_layer"] for each in answers] == expected.exit_layers.tolist()
        probabilities = [each["probability"] for each in answers]
        np.testing.assert_allclose(probabilities, expected.probabilities.max(axis=1), atol=1e-5)
        read = answers_of(exported, monkeypatch, capsys, *options, lines="\n".join([*texts[:9], "", *texts[9:]]))
        assert read.pop(9) == {"label": None, "probability": None, "exit_layer": None}
        assert [(each["label"], each["exit_layer"]) for each in read] == [
            (each["label"], each["exit_layer"]) for each in answers
        ]
    assert len(set(expected.exit_layers)) > 1
    assert {each["exit_layer"] for each in answers_of(exported, monkeypatch, capsys, "--threshold", "0", *texts)} == {4}


def test_a_check_chooses_on_the_graph(
    model: Path,
    classifier: EarlyExitClassifier,
    data: Path,
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Scores, agreement and thresholds are told; a table gives what the data set gives; rules for fewer ramps differ.

    The threshold is the largest saving within the drop: what it keeps and saves is what the graph does at it.
    """
    names = ["manifest.json", "model.onnx", "runner.py", "tokenizer.json"]
    assert sorted(path.name for path in exported.iterdir() if path.suffix) == names  # one that was run has a cache
    manifest = manifest_of(exported)
    known = {each["drop_points"]: each for each in manifest["thresholds"]["recommended"]}
    assert list(known) == list(DROPS_POINTS) and manifest["thresholds"]["n"] == COUNT
    assert manifest["threshold_nats"] == known[1.0]["threshold_nats"]
    assert manifest["fingerprint"] == classifier.fingerprint and manifest["labels"] == list(tiny.LABEL_NAMES)
    for each in known.values():
        predicted = classifier.predict(sentences(), each["threshold_nats"])
        saved = 1 - predicted.exit_layers.mean() / LAYERS
        assert each["layers_saved_frac"] == pytest.approx(saved, abs=1e-4)

    table = DataSet.load(data).validation
    names = [tiny.LABEL_NAMES[label] for label in table["label"]]
    source = write(tmp_path / "in.csv", {"text": table["sentence"].tolist(), "intent": names})
    again = tmp_path / "again"
    assert status("export", model, again, "--check", source, "--text", "text", "--drop", "3") == 0
    told = capsys.readouterr().out
    assert "60 samples: in.csv, by this graph" in told and "0       100.00  100.00" in told
    assert f"threshold: {known[3.0]['threshold_nats']:g} nats" in told
    assert manifest_of(again)["thresholds"]["recommended"] == manifest["thresholds"]["recommended"]

    assert status("export", model, again, "--check", data, "--exits", "2", "--threshold", "0.9") == 0  # replaced
    fewer = manifest_of(again)
    assert fewer["exit_layers"] == [2, 4] and fewer["threshold_nats"] == 0.9
    each = fewer["thresholds"]["recommended"][-1]
    predicted = classifier.predict(sentences(), [0.0, each["threshold_nats"], 0.0])
    assert each["layers_saved_frac"] == pytest.approx(1 - predicted.exit_layers.mean() / LAYERS, abs=1e-4)


def test_thresholds_without_a_check(
    model: Path,
    classifier: EarlyExitClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The model's own hold for the same ramps and precision, and the manifest says whose they are; else there is none.

    Without a threshold, the runner asks for one.
    """
    metrics, out = write_metrics(tmp_path / "metrics", classifier), tmp_path / "out"
    for options, nats, told in (
        (("--metrics", metrics, "--drop", 2), 0.2468, "validation, by the model in fp32"),
        (("--exits", LAYERS), None, "tells of no thresholds"),
    ):
        assert status("export", model, out, *options) == 0
        manifest = manifest_of(out)
        assert manifest["threshold_nats"] == nats and told in manifest["thresholds"]["chosen_on"]
    known = classifier.thresholds(metrics)
    assert Chosen.of_model(known, 1.0, True, "fp32").threshold_nats is None  # nobody has chosen one for this loss
    for same_ramps, precision in ((False, "fp32"), (True, "int8")):
        chosen = Chosen.of_model(known, 2.0, same_ramps, precision)
        assert chosen.threshold_nats is None and chosen.chosen_on.startswith("none: ") and not chosen.recommended
    with pytest.raises(SystemExit) as end:
        answers_of(out, monkeypatch, capsys, "w1 w2")
    assert str(end.value).startswith("error: threshold: none was chosen on this graph")
    assert answers_of(out, monkeypatch, capsys, "--threshold", "0", "w1 w2")[0]["exit_layer"] == LAYERS


def test_the_graph_is_in_the_models_own_precision(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its ramps were trained for that, and score less in another, which is told; there is no graph in bf16."""
    for made_for, options, precision, is_told in (
        ("int8", (), "int8", False),
        ("int8", ("--precision", "fp32"), "fp32", True),
        ("bf16", (), "fp32", True),
        ("fp32", ("--precision", "int8"), "int8", True),
    ):
        source = tmp_path / "model"
        shutil.copytree(model, source, dirs_exist_ok=True)
        (source / RECORD).write_text(json.dumps({"ramp": "linear", "precision": made_for}))
        caplog.clear()
        assert status("export", source, tmp_path / "out", "--exits", 2, *options) == 0
        assert manifest_of(tmp_path / "out")["precision"] == precision
        told = f"a graph in {precision}; its ramps and thresholds were made for {made_for}, so ramps may score less"
        assert (told in caplog.text) == is_told


def test_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two arguments or a tab in a line; what is no pair is told with its line."""
    source = write_classifier(tmp_path / "pairs", columns=("a", "b"))
    out = tmp_path / "out"
    assert status("export", source, out, "--exits", 2, "--threshold", 0.9) == 0
    pairs = list(zip(sentences(6), sentences(6, seed=1), strict=True))
    expected = EarlyExitClassifier.from_pretrained(source).predict(pairs, [0.0, 0.9, 0.0])
    for answers in (
        answers_of(out, monkeypatch, capsys, *[text for pair in pairs for text in pair]),
        answers_of(out, monkeypatch, capsys, lines="\n".join(map("\t".join, pairs))),
    ):
        assert [each["label"] for each in answers] == expected.labels
        assert [each["exit_layer"] for each in answers] == expected.exit_layers.tolist()
    for arguments, lines, told in (
        (("a", "b", "c"), "", "TEXT: 3 of them; expected 2 for each answer"),
        ((), "a\tb\nc\n", "line 2: texts with tabs between them: 1; expected 2"),
        ((), "a\tb\n\udcff\n", "line 2: is not UTF-8"),
        (("a", "\udcff"), "", r"texts: number 0 is ('a', '\udcff'), with half a character; expected whole ones"),
        (("--threshold", "-1", "a", "b"), "", "threshold: -1.0 is not allowed; expected nats, 0 or more"),
    ):
        with pytest.raises(SystemExit) as end:
            answers_of(out, monkeypatch, capsys, *arguments, lines=lines)
        assert end.value.code == f"error: {told}"
        assert len(capsys.readouterr().out.splitlines()) == lines.count("a\tb"), "what came before is answered"


def test_half_a_pair_has_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runner leaves unanswered what the command does, in lines and as arguments."""
    source = write_classifier(tmp_path / "pairs", columns=("a", "b"))
    out = tmp_path / "out"
    assert status("export", source, out, "--exits", 2, "--threshold", 0.9) == 0
    lines = "a\tb\na\t\n \tb\n\n\nb\ta\n"
    write(tmp_path / "in.csv", {"a": ["a", "a", " ", "b"], "b": ["b", "", "b", "a"]})
    assert status("predict", source, tmp_path / "in.csv", tmp_path / "out.csv", "--full-depth") == 0
    command = [bool(line.split(",")[2]) for line in (tmp_path / "out.csv").read_text().splitlines()[1:]]
    found = [each["label"] is not None for each in answers_of(out, monkeypatch, capsys, lines=lines)]
    assert command == [True, False, False, True] and found == [*command[:3], False, False, True]
    arguments = ("a", "b", "a", "", " ", "b", "b", "a")
    assert [each["label"] is not None for each in answers_of(out, monkeypatch, capsys, *arguments)] == command


def test_a_closed_pipe_is_told(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever reads the answers may have had enough of them."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "stdout", closed)
        answers_of(exported, monkeypatch, capsys, "w1")
    assert end.value.code == "error: standard output was closed before all was written"


def test_a_full_disk_under_the_answers_is_told(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, and nothing is left for Python to complain of."""
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(sys, "stdout", full)
        answers_of(exported, monkeypatch, capsys, "w1")
    assert end.value.code == "error: standard output cannot be written: No space left on device"


def test_what_is_printed_does_not_depend_on_the_place(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte order mark is no part of the first text, and labels are UTF-8 in any locale: as the command has it."""
    labels = ["né", "já", "或許"]
    shutil.copytree(exported, tmp_path / "out")
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest_of(exported) | {"labels": labels}))
    lines = f"{sentences(1)[0]}\n"
    plain, marked = (answers_of(tmp_path / "out", monkeypatch, capsys, lines=mark + lines) for mark in ("", "\ufeff"))
    assert plain == marked and plain[0]["label"] in labels
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        answers_of(tmp_path / "out", monkeypatch, capsys, *sentences(1))
        assert written.getvalue().decode() == f"{json.dumps(plain[0], ensure_ascii=False)}\n"


def test_a_folder_that_is_not_whole(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The runner tells in one line which of its files is missing or damaged."""
    for number, (name, content, told) in enumerate(
        (
            ("model.onnx", None, "no such file; expected the whole folder as it was exported"),
            ("model.onnx", b"half", "cannot be loaded: "),
            ("model.onnx.data", None, "no such file; expected the whole folder as it was exported"),
            ("tokenizer.json", b"{", "cannot be loaded: "),
            ("manifest.json", None, "cannot be read: No such file or directory"),
            ("manifest.json", b"{", "damaged: "),
            ("manifest.json", b"{}", "is of format None; expected 2"),
            ("manifest.json", b'{"format": 2, "texts": 1}', "damaged: has no labels"),
        )
    ):
        out = shutil.copytree(exported, tmp_path / str(number))
        if name == "model.onnx.data":  # of a larger model
            (out / "manifest.json").write_text(json.dumps(manifest_of(exported) | {"graph_data": name}))
        (out / name).unlink(missing_ok=name == "model.onnx.data")
        if content is not None:
            (out / name).write_bytes(content)
        with pytest.raises(SystemExit) as end:
            answers_of(out, monkeypatch, capsys, "w1")
        assert str(end.value.code).startswith(f"error: {out / name}: {told}") and "\n" not in str(end.value.code)


def test_mistakes(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line each, and nothing is written."""
    out = tmp_path / "out"
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("mine")
    other = tmp_path / "task"
    shutil.copytree(data, other)
    (other / "task.json").write_text((other / "task.json").read_text().replace('"maybe"', '"perhaps"'))
    table = {"sentence": ["w1", "w2", "w3"], "label": ["yes", "no", "never"]}
    wrong = write(tmp_path / "wrong.csv", table)
    unlabelled = write(tmp_path / "unlabelled.csv", {"sentence": ["w1", "w2"]})
    for arguments, told in (
        ((tmp_path / "nowhere", out), f"{tmp_path}/nowhere: no model here"),
        ((model, tmp_path / "other"), f"{tmp_path}/other: holds notes.txt and is no export; expected an empty folder"),
        ((model, wrong), f"{wrong}: is a file; expected a folder, new or empty"),
        ((model, out, "--exits", "2,5"), "--exits: 5 is not allowed; expected layers from 1 to 4"),
        ((model, out, "--check", tmp_path / "no"), f"{tmp_path}/no: no such file or folder"),
        ((model, out, "--check", other), f"{other}: has the classes no, yes, perhaps; expected the model's: no, yes"),
        ((model, out, "--check", data, "--label", "idx"), f"--text, --pair, --label: {data} is of a data set, whose"),
        ((model, out, "--check", wrong), f"{wrong}: line 4: column label: 'never'; expected one of no, yes, maybe"),
        ((model, out, "--check", unlabelled), f"{unlabelled}: has no column label; found sentence; name yours with"),
    ):
        assert error(capsys, "export", *arguments).startswith(told)
        assert not out.exists()
    metrics = write_metrics(tmp_path / "metrics", EarlyExitClassifier.from_pretrained(model))
    for options, told in (
        (("--drop", 1), "--drop: no threshold is known for a loss of 1 points: the model tells of no thresholds"),
        (("--drop", 7, "--metrics", metrics), "--drop: no threshold is known for a loss of 7 points: expected one of"),
        (
            ("--drop", 2, "--metrics", metrics, "--exits", 2),
            "--drop: no threshold is known for a loss of 2 points: the",
        ),
    ):
        assert error(capsys, "export", model, out, *options).startswith(told)
    monkeypatch.setattr(graphs, "MAX_BYTES", 1000)
    told = error(capsys, "export", model, out)
    assert told.startswith("bert: cannot be exported: layer 1 and what comes before have 0.0 GB of weights")
    told = error(capsys, "export", model, out, "--exits", 2)
    assert told.startswith("--exits: layers 1 to 2 and what comes before have 0.0 GB") and "an exit between" in told
    assert not out.exists() and (tmp_path / "other/notes.txt").exists()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert error(capsys, "export", model, out).startswith("deebert export: onnx is not installed; expected pip install")
    for arguments in (
        ("--exits", 0),
        ("--exits", "1,x"),
        ("--precision", "bf16"),
        ("--drop", 1, "--threshold", 0.1),
        ("--text", "a"),
        ("--check", data, "--pair", "a"),
        ("--check", data, "--metrics", tmp_path),
    ):
        assert status("export", model, out, *arguments) == 2


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda hidden: torch.zeros(len(hidden) ** 2), "shared_extra has a dimension that is neither the batch's nor"),
        (lambda hidden: hidden.sum(), "shared_extra depends on the inputs, and its shape does not"),
        (len, "its layers are given other numbers for other inputs"),
    ],
)
def test_what_a_layer_may_not_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: Callable[[torch.Tensor], Any], told: str
) -> None:
    """A model whose layers read what changes with the inputs in an unknown way is refused in one line."""
    load = DeeBert.load

    def odd(folder: Path) -> Any:
        made, tokenizer = load(folder)
        run = made.backbone.bert.encoder.forward
        made.backbone.bert.encoder.forward = lambda hidden, **options: run(hidden, **options, extra=given(hidden))
        return made, tokenizer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(DeeBert, "load", odd)
        assert error(capsys, "export", model, tmp_path / "out").startswith(f"bert: cannot be exported: {told}")
    assert not (tmp_path / "out").exists()


def refused(out: Path, model: Path) -> str:
    """Why a folder is not written, which is told before anything of the model is."""
    with pytest.raises(UserError) as caught:
        folder.write(model, {}, out, graphs.ends(LAYERS), "fp32", lambda *_: Chosen(None, "not"))
    return str(caught.value)


def test_a_tokenizer_of_python_is_told_before_a_graph_is_made(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no file of it that the runner could read."""
    load = DeeBert.load
    monkeypatch.setattr(DeeBert, "load", lambda folder: (load(folder)[0], SimpleNamespace(is_fast=False)))
    monkeypatch.setattr(folder, "Cut", None)
    told = refused(tmp_path / "out", model)
    assert told == "bert: cannot be exported: its tokenizer is Python's own; expected one of the library tokenizers"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "manifest", ["{", "[]", "{}", '{"manifest_version": 3, "name": "a browser\'s extension"}', None]
)
def test_another_manifest_is_no_export(model: Path, tmp_path: Path, manifest: str | None) -> None:
    """A folder that holds nothing else than files of these names is not replaced for that."""
    out = tmp_path / "out"
    out.mkdir()
    name = "runner.py" if manifest is None else "manifest.json"
    (out / name).write_text(manifest or "print()")
    assert refused(out, model) == f"{out}: holds {name} and is no export; expected an empty folder"
    assert (out / name).read_text() == (manifest or "print()")


def test_the_models_threshold_for_a_point(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That for a loss of 1 point, if nobody says otherwise; 0 nats are a threshold, and 0 points a loss."""
    known = tuple(Recommended(drop, nats, 0.5, 0.5) for drop, nats in ((0.5, 0.125), (1.0, 0.25), (3.0, 0.5)))
    found = Thresholds(
        classifier.fingerprint, "fresh.csv", COUNT, "fp32", "accuracy", (HeadScore(LAYERS, 0.9),), known, 0.9, ()
    )
    (tmp_path / "found.json").write_bytes(found.to_bytes())
    for options, nats in (((), 0.25), (("--threshold", 0), 0.0)):
        assert status("export", model, tmp_path / "out", "--metrics", tmp_path / "found.json", *options) == 0
        assert manifest_of(tmp_path / "out")["threshold_nats"] == nats
    told = error(capsys, "export", model, tmp_path / "new", "--metrics", tmp_path / "found.json", "--drop", 0)
    assert told == "--drop: no threshold is known for a loss of 0 points: expected one of 0.5, 1, 3"


def test_a_check_of_uneven_blocks(
    model: Path, classifier: EarlyExitClassifier, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Layers are the model's, and not the exits' numbers; any loss may be allowed; 0 nats are a threshold."""
    out = tmp_path / "out"
    assert status("export", model, out, "--check", data, "--exits", "1,2", "--drop", 2) == 0
    scores = capsys.readouterr().out.partition("leaves after layer: accuracy (%)\n")[2].split("\n\n")[0]
    assert [int(line.split()[0]) for line in scores.splitlines()] == [1, 2, 4]
    known = {each["drop_points"]: each for each in manifest_of(out)["thresholds"]["recommended"]}
    assert list(known) == [0.0, 0.5, 1.0, 2.0, 3.0]
    assert manifest_of(out)["threshold_nats"] == known[2.0]["threshold_nats"] > 0
    predicted = classifier.predict(sentences(), [known[3.0]["threshold_nats"]] * 2 + [0.0])
    assert known[3.0]["layers_saved_frac"] == pytest.approx(1 - predicted.exit_layers.mean() / LAYERS, abs=1e-4)
    assert status("export", model, out, "--check", data, "--exits", "1,2", "--threshold", 0) == 0
    assert manifest_of(out)["threshold_nats"] == 0.0 < known[1.0]["threshold_nats"]


def test_a_model_that_tells_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads one text if it does not say how many, and cuts nothing if its tokenizer does not say where."""
    source = write_classifier(tmp_path, columns=None)
    path = source / "tokenizer_config.json"
    config = json.loads(path.read_text())
    del config["model_max_length"]
    path.write_text(json.dumps(config))
    assert status("export", source, tmp_path / "out", "--exits", LAYERS, "--threshold", 0) == 0
    assert manifest_of(tmp_path / "out")["max_length"] is None
    (answer,) = answers_of(tmp_path / "out", monkeypatch, capsys, " ".join(["w1"] * 30))
    assert answer["exit_layer"] == LAYERS


def test_options_without_their_need(model: Path, tmp_path: Path) -> None:
    """A column is of a file that is checked."""
    assert status("export", model, tmp_path / "out", "--label", "a") == 2
