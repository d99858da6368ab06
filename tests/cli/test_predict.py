"""`deebert predict` answers a file as the classifier answers its texts, and says no in one line."""

import csv
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from deebert.base.files import alone_with
from deebert.cli import predict
from deebert.data.tables.formats import FORMATS
from deebert.inference.answering import Answering
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.kept import parts_folder
from deebert.inference.monitor import Monitor
from deebert.inference.request import Summary
from deebert.inference.text_columns import find_text_columns
from deebert.inference.thresholds import Certified
from tests import tiny
from tests.cli.running import error, status
from tests.data.tables.test_formats import read, write
from tests.inference.test_classifier import LAYERS, write_classifier, write_metrics

ROOT = Path(__file__).parents[2]
THRESHOLD = 0.75
COUNT = 60


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("pairs"), columns=("sentence1", "sentence2"))


def sentences(count: int = COUNT, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(tiny.WORDS, rng.integers(1, 20))) for _ in range(count)]


def check_answers(found: dict[str, list[Any]], classifier: EarlyExitClassifier, texts: Any, threshold: float) -> None:
    """The three columns are what the classifier says."""
    expected = classifier.predict(texts, threshold)
    assert found["label"] == expected.labels
    assert [int(layer) for layer in found["exit_layer"]] == expected.exit_layers.tolist()
    probabilities = [float(value) for value in found["probability"]]
    np.testing.assert_allclose(probabilities, expected.probabilities.max(axis=1), atol=1e-5)


@pytest.mark.parametrize("ending", FORMATS)
def test_answers_are_the_classifiers(model: Path, classifier: EarlyExitClassifier, tmp_path: Path, ending: str) -> None:
    """In every format: rows in order, the input's columns as they were, and three more; nothing else is left."""
    columns = {"id": [f"{i:03}" for i in range(COUNT)], "sentence": sentences(), "note": ['a, "b"\n'] * COUNT}
    source = write(tmp_path / f"in{ending}", columns)
    out = tmp_path / "new" / f"out{ending}"
    assert status("predict", model, source, out, "--threshold", THRESHOLD, "--batch-rows", 7) == 0
    found = read(out)
    assert list(found) == ["id", "sentence", "note", "label", "probability", "exit_layer"]
    assert {name: found[name] for name in columns} == columns
    check_answers(found, classifier, sentences(), THRESHOLD)
    assert len(set(found["exit_layer"])) > 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == [f"in{ending}", "new", f"out{ending}"]


def test_a_watch_goes_on_from_file_to_file(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows without a text aside, the state is that of a monitor which has seen all texts; wrong settings are told."""
    watch, first, second = tmp_path / "watch.json", sentences(), sentences(seed=1)
    options = ("--threshold", THRESHOLD, "--watch", watch, "--audit", 0.5, "--epsilon")
    texts = {".csv": [*first[:9], "", *first[9:]], ".jsonl": second}
    for (ending, rows), out in zip(texts.items(), (tmp_path / "out.csv", "-"), strict=True):
        source = write(tmp_path / f"in{ending}", {"sentence": rows})
        assert status("predict", model, source, out, "--batch-rows", 7, *options, 0.2) in (
            0,
            3,
        )  # without an alarm or with
    monitor = Monitor(classifier, epsilon=0.2, share=0.5)
    monitor.predict(first + second, THRESHOLD)
    monitor.save(tmp_path / "expected.json")
    assert json.loads(watch.read_text()) == json.loads((tmp_path / "expected.json").read_text())
    assert f"watch: {monitor}" in capsys.readouterr().err
    kept = watch.read_bytes()
    told = error(capsys, "predict", model, source, tmp_path / "no.csv", *options, 0.1)
    assert told == f"{watch}: made with --epsilon 0.2; expected the same here"
    for other in (("--threshold", THRESHOLD / 2), ("--threshold", THRESHOLD, "--precision", "bf16")):
        told = error(capsys, "predict", model, source, tmp_path / "no.csv", *other, *options[2:], 0.2)
        assert told.startswith(f"{watch}: threshold: Entropy(") and "this watch began with" in told
    assert status("predict", model, source, tmp_path / "no.csv", *options, 1) == 2
    assert status("predict", model, source, tmp_path / "no.csv", "--audit", 0.5) == 2
    assert status("predict", model, source, tmp_path / "no.csv", "--metrics", "metrics") == 2
    assert status("predict", model, source, tmp_path / "no.csv", "--threads", 10**11) == 2
    (tmp_path / "file").touch()
    elsewhere = ("--watch", tmp_path / "file/a", "--epsilon", 0.1)
    told = error(capsys, "predict", model, source, tmp_path / "no.csv", *elsewhere)
    assert told == f"{tmp_path}/file/a: cannot be written: File exists"
    assert watch.read_bytes() == kept and not (tmp_path / "no.csv").exists()


def test_a_watch_allows_what_is_certified(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the threshold, if nobody says how many answers may change; a watch that was begun keeps its share."""
    source, watch = write(tmp_path / "in.csv", {"sentence": sentences()}), tmp_path / "watch.json"
    metrics = write_metrics(tmp_path / "metrics", classifier)
    command = ("predict", model, source, tmp_path / "out.csv", "--force", "--watch", watch, "--threshold")
    told = "--watch: nobody has certified how many answers change at this threshold; expected --epsilon SHARE"
    assert error(capsys, *command, THRESHOLD) == error(capsys, *command, THRESHOLD, "--metrics", metrics) == told
    found = dataclasses.replace(
        classifier.thresholds(metrics), certified_changed=(Certified(0.1, THRESHOLD, 0.2), Certified(0.2, 0.9, 0.5))
    )
    kept = tmp_path / "found.json"
    kept.write_bytes(found.to_bytes())
    ramps = ",".join(["0.1"] * (LAYERS - 1))
    for nats in (0, 0.91, ramps):
        assert error(capsys, *command, nats, "--metrics", kept) == told
    assert not watch.exists()
    assert status(*command, THRESHOLD, "--metrics", kept) in (0, 3)
    assert "epsilon: 0.1 of the answers may change, as certified for the threshold\n" in capsys.readouterr().err
    assert json.loads(watch.read_text())["epsilon"] == 0.1
    assert status(*command, THRESHOLD) in (0, 3)
    assert "epsilon" not in capsys.readouterr().err and json.loads(watch.read_text())["epsilon"] == 0.1


def test_a_mistake_leaves_no_watch(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a state nor a folder; and the state never takes the place of input or output."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    command = ("predict", model, source, tmp_path / "out.csv", "--epsilon", 0.1, "--watch")
    assert "has no column" in error(capsys, *command, tmp_path / "deep/er/watch.json", "--text", "nothing")
    for name, what in (("in.csv", "input"), ("out.csv", "output"), ("../out.csv", "output")):
        place = tmp_path / name if "/" not in name else tmp_path / "new" / name
        assert error(capsys, *command, place, "--force") == f"--watch: {place} is the {what}; expected another file"
    assert [path.name for path in tmp_path.rglob("*")] == ["in.csv"]
    (tmp_path / "watch.json").write_text("{}")
    told = error(capsys, *command, tmp_path / "watch.json")
    assert told == f"{tmp_path}/watch.json: damaged: it is no state of a monitor; Monitor.save writes it"


def broken_off_at(call: int) -> Callable[..., np.ndarray]:
    """`Answering.records`, in whose call of that number, from 1, somebody presses Ctrl-C."""
    undisturbed, calls = Answering.records, []

    def broken(*arguments: Any) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == call:
            raise KeyboardInterrupt
        return undisturbed(*arguments)

    return broken


@pytest.mark.parametrize("threshold", [THRESHOLD, [0.0, 0.9, THRESHOLD]], ids=["one", "for each ramp"])
def test_a_command_that_is_broken_off_counts_once(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: Any
) -> None:
    """After Ctrl-C the state is as before; given again, the command counts each text once."""
    source, watch = write(tmp_path / "in.csv", {"sentence": sentences()}), tmp_path / "watch.json"
    nats = str(threshold).strip("[]").replace(" ", "")
    command = ("predict", model, source, tmp_path / "out.csv", "--batch-rows", 7, "--threshold", nats)
    command = (*command, "--watch", watch, "--audit", 1, "--epsilon", 0.2)
    with monkeypatch.context() as patched:
        patched.setattr(Answering, "records", broken_off_at(4))
        assert status(*command) == 130
    assert not watch.exists()
    assert status(*command) == 3  # the alarm was raised
    monitor = Monitor(classifier, epsilon=0.2, share=1)
    monitor.predict(sentences(), threshold)
    monitor.save(tmp_path / "expected.json")
    assert json.loads(watch.read_text()) == json.loads((tmp_path / "expected.json").read_text())


def test_pairs(of_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the names that the model knows, by usual ones, or as they are told."""
    first, second = sentences(), sentences(seed=1)
    classifier = EarlyExitClassifier.from_pretrained(of_pairs)
    for names, options in (
        (("sentence1", "sentence2"), ()),
        (("premise", "hypothesis"), ()),
        (("a", "b"), ("--text", "a", "--pair", "b")),
    ):
        source = write(tmp_path / "in.csv", {"id": list(map(str, range(COUNT))), names[1]: second, names[0]: first})
        assert status("predict", of_pairs, source, tmp_path / "out.csv", "--full-depth", "--force", *options) == 0
        check_answers(read(tmp_path / "out.csv"), classifier, list(zip(first, second, strict=True)), 0)
    told = error(capsys, "predict", of_pairs, source, tmp_path / "no.csv")
    assert told == f"{source}: has no column sentence1 and sentence2; found id, b, a; name yours with --text and --pair"
    told = error(capsys, "predict", of_pairs, source, tmp_path / "no.csv", "--text", "a")
    assert told.endswith("a are not as many as the model reads; expected two texts: --text and --pair")


def test_rows_without_a_text_have_no_answer(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Missing or blank: all three columns are empty, the others are answered, and the last line counts them."""
    texts: list[Any] = [*sentences(5), None, " \t", "", *sentences(3)]
    there = [text for text in texts if text and text.strip()]
    for ending, none, place in ((".jsonl", None, "line 6"), (".parquet", None, "row 6"), (".csv", "", "line 7")):
        source = write(tmp_path / f"in{ending}", {"sentence": texts})
        out = tmp_path / f"out{ending}"
        capsys.readouterr()
        assert status("predict", model, source, out, "--threshold", THRESHOLD, "--batch-rows", 2) == 0
        assert f"3 rows have no text and so no answer, the first at {source}: {place}" in capsys.readouterr().err
        found = read(out)
        for name in ("label", "probability", "exit_layer"):
            assert found[name][5:8] == [none] * 3
            found[name] = found[name][:5] + found[name][8:]
        check_answers(found, classifier, there, THRESHOLD)


def test_a_file_without_rows(model: Path, tmp_path: Path) -> None:
    """It has no answers, and its columns."""
    (tmp_path / "in.csv").write_text("sentence\n")
    assert status("predict", model, tmp_path / "in.csv", tmp_path / "out.csv") == 0
    assert (tmp_path / "out.csv").read_text() == "sentence,label,probability,exit_layer\n"


def test_the_last_line_says_what_was_done(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers, layers saved, time and speed."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    assert status("predict", model, source, tmp_path / "out.csv", "--threshold", THRESHOLD) == 0
    layers = classifier.predict(sentences(), THRESHOLD).exit_layers
    saved = 100 * (1 - layers.sum() / (COUNT * LAYERS))
    *_, threshold, last = capsys.readouterr().err.splitlines()
    assert threshold == "threshold: 0.75 nats"
    assert last.startswith(f"60 texts answered; {saved:.1f} % of the layers saved; 60 rows in ")
    assert re.search(r" in [0-9.]+ s \([0-9,]+ per second\)$", last)


class Stream:
    """A text stream as `sys.stdin` and `sys.stdout` are, with bytes beneath."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)

    def flush(self) -> None:
        pass


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that gives the process an input; it returns what takes its output."""

    def give(content: bytes) -> io.BytesIO:
        output = Stream()
        monkeypatch.setattr(sys, "stdin", Stream(content))
        monkeypatch.setattr(sys, "stdout", output)
        return output.buffer

    return give


def test_a_text_a_line(model: Path, classifier: EarlyExitClassifier, tmp_path: Path, streams: Any) -> None:
    """From standard input to standard output: line n answers line n, as JSON; into a file, its format is the file's."""
    content = "\n".join([*sentences(9), "", "w1"]).encode()
    output = streams(content)
    assert status("predict", model, "-", "-", "--threshold", THRESHOLD, "--batch-rows", 4) == 0
    rows = [json.loads(line) for line in output.getvalue().decode().splitlines()]
    assert [row["text"] for row in rows] == [*sentences(9), "", "w1"]
    assert rows.pop(9) == {"text": "", "label": None, "probability": None, "exit_layer": None}
    found = {name: [row[name] for row in rows] for name in rows[0]}
    check_answers(found, classifier, [*sentences(9), "w1"], THRESHOLD)
    for ending in FORMATS:
        streams(content)
        assert status("predict", model, "-", tmp_path / f"out{ending}", "--threshold", THRESHOLD) == 0
        assert read(tmp_path / f"out{ending}")["label"][:9] == found["label"][:9]
    assert len(list(tmp_path.iterdir())) == len(FORMATS)


def test_a_stream_that_is_broken_off_counts_what_was_answered(
    model: Path, tmp_path: Path, streams: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream has no other end, and its answers have been given."""
    output, watch = streams("\n".join(sentences()).encode()), tmp_path / "watch.json"
    monkeypatch.setattr(Answering, "records", broken_off_at(4))
    options = ("--threshold", THRESHOLD, "--watch", watch, "--audit", 1, "--epsilon", 0.2)
    assert status("predict", model, "-", "-", "--batch-rows", 7, *options) == 130
    assert len(output.getvalue().splitlines()) == json.loads(watch.read_text())["samples"] == 21


@pytest.mark.parametrize("where", ["cluster", "summary"])
def test_a_file_that_is_whole_counts(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Whatever ends the command after that, since the same command would not answer it again."""

    @contextmanager
    def leaving(*_: object) -> Iterator[None]:
        yield
        raise KeyboardInterrupt

    def told(*_: object) -> str:
        raise KeyboardInterrupt

    source, watch = write(tmp_path / "in.csv", {"sentence": sentences()}), tmp_path / "watch.json"
    if where == "cluster":
        monkeypatch.setattr(predict, "_cluster", leaving)
    else:
        monkeypatch.setattr(Summary, "told", told)
    options = ("--threshold", THRESHOLD, "--watch", watch, "--audit", 1, "--epsilon", 0.2)
    assert status("predict", model, source, tmp_path / "out.csv", *options) == 130
    assert len(read(tmp_path / "out.csv")["label"]) == json.loads(watch.read_text())["samples"] == COUNT


def test_two_texts_a_line(of_pairs: Path, streams: Any) -> None:
    """For tasks on pairs, with a tab between them."""
    first, second = sentences(), sentences(seed=1)
    output = streams("\n".join(map("\t".join, zip(first, second, strict=True))).encode())
    assert status("predict", of_pairs, "-", "-", "--full-depth") == 0
    rows = [json.loads(line) for line in output.getvalue().decode().splitlines()]
    assert list(rows[0]) == ["text", "pair", "label", "probability", "exit_layer"]
    found = {name: [row[name] for row in rows] for name in rows[0]}
    classifier = EarlyExitClassifier.from_pretrained(of_pairs)
    check_answers(found, classifier, list(zip(first, second, strict=True)), 0)


def test_a_file_to_standard_output(model: Path, tmp_path: Path, streams: Any) -> None:
    """As JSON, the lines that a file would get."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    options = ("--threshold", THRESHOLD, "--batch-rows", 16)
    output = streams(b"")
    assert status("predict", model, source, "-", *options) == 0
    assert status("predict", model, source, tmp_path / "out.jsonl", *options) == 0
    assert output.getvalue() == (tmp_path / "out.jsonl").read_bytes()


def test_a_closed_pipe_is_told(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads may go, as `head` does: one line, no traceback."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert status("predict", model, source, "-") == 1


def test_standard_output_may_be_closed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the shell, as `>&-` has it; a file is written all the same."""
    monkeypatch.setattr(sys, "stdout", None)
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    assert status("predict", model, source, tmp_path / "out.csv") == 0
    assert len(read(tmp_path / "out.csv")["label"]) == COUNT


@pytest.mark.parametrize(
    ("stream", "arguments"), [("stdin", ("-", "out.csv")), ("stdin", ("-", "-")), ("stdout", ("in.csv", "-"))]
)
def test_a_closed_stream_that_is_needed_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stream: str,
    arguments: tuple[str, str],
) -> None:
    """Before the model is even looked for."""
    monkeypatch.chdir(tmp_path)
    write(Path("in.csv"), {"sentence": sentences()})
    name = stream.replace("std", "standard ").replace("in", "input").replace("out", "output")
    monkeypatch.setattr(sys, stream, None)
    assert error(capsys, "predict", "nowhere", *arguments) == f"{name}: is closed; expected it open, or a file"


@pytest.mark.parametrize("size", [1, 2, 100])
def test_columns_that_come_later(model: Path, tmp_path: Path, size: int) -> None:
    """All rows of a jsonl file decide which columns it has; those without a text have no answer."""
    (tmp_path / "in.jsonl").write_text('{"id": 1}\n{"id": 2}\n{"sentence": "w1 w2", "id": 3}\n')
    assert status("predict", model, tmp_path / "in.jsonl", tmp_path / "out.csv", "--batch-rows", size) == 0
    assert [bool(label) for label in read(tmp_path / "out.csv")["label"]] == [False, False, True]


@pytest.mark.parametrize("command", [("predict", "IN", "-", "--batch-rows", 7), ("predict", "IN", "-"), ("info",)])
def test_a_full_disk_under_standard_output_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: Any
) -> None:
    """One line, be it found out in the middle or at the end; nothing is left for Python to complain of."""
    name, *rest = command
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        told = error(capsys, name, model, *(source if each == "IN" else each for each in rest))
    assert re.fullmatch("standard output( or a temporary file)?: cannot be written: No space left on device", told)


@pytest.mark.parametrize(
    ("given", "threshold"),
    [
        (("--drop", "2"), 0.2468),
        (("--certified", "5"), 0.3579),
        (("--full-depth",), 0),
        ((), 0.1),
        (("--threshold", "0,0.9,0.75"), [0, 0.9, 0.75]),
    ],
    ids=["drop", "certified", "full depth", "nothing", "one for each ramp"],
)
def test_which_threshold(
    model: Path,
    classifier: EarlyExitClassifier,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
    threshold: float | list[float],
) -> None:
    """What is recommended for a loss or certified for a risk, from the model or from metrics; by itself it is 0.1."""
    metrics = write_metrics(tmp_path / "metrics", classifier)
    choice = json.loads((metrics / "choice.json").read_text())
    choice |= {"certified_threshold_at": {"risk_0_01": 0.0, "risk_0_05": 0.3579}}
    choice |= {"certified_layers_saved_at": {"risk_0_01": 0.0, "risk_0_05": 0.2345}}
    (metrics / "choice.json").write_text(json.dumps(choice))
    classifier.save_pretrained(tmp_path / "saved", metrics)
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    written = set()
    metrics_too = (*given, "--metrics", metrics) if {"--drop", "--certified"} & {*given} else given
    for options in (("--certified", 1), ("--certified", 2)):  # none saves a layer; nobody has asked for it
        told = error(capsys, "predict", model, source, tmp_path / "no.csv", *options, "--metrics", metrics)
        expected = f"no threshold is certified for {options[1]} points of accuracy; expected one of 5"
        assert told == expected
    for folder, options in ((tmp_path / "saved", given), (model, metrics_too)):
        out = tmp_path / f"{folder.name}.csv"
        assert status("predict", folder, source, out, *options) == 0
        told = str(threshold).strip("[]")
        assert f"threshold: {told} nats" in capsys.readouterr().err
        written.add(out.read_bytes())
    assert len(written) == 1
    check_answers(read(out), classifier, sentences(), threshold)


def test_a_drop_that_is_unknown(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line says how to get one, or for which losses there is one."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--drop", 2)
    assert told.startswith(f"{model}: holds no thresholds.json") and "--metrics" in told and "save_pretrained" in told
    metrics = write_metrics(tmp_path / "metrics", classifier)
    told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--drop", 1, "--metrics", metrics)
    assert told == "no threshold is known for a loss of 1 points; expected one of 2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "metrics"]


def test_a_link_stays(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it leads to is written, and not without --force where something is there."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    link, place = tmp_path / "latest.csv", tmp_path / "2024" / "05.csv"
    place.parent.mkdir()
    link.symlink_to(place)
    assert status("predict", model, source, link) == 0
    first = place.read_bytes()
    assert error(capsys, "predict", model, source, link).startswith(str(link))
    assert status("predict", model, source, link, "--force", "--full-depth") == 0
    assert link.is_symlink() and place.read_bytes() != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2024", "in.csv", "latest.csv"]


def test_an_alarm_has_a_status_of_its_own(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All is answered and counted; a command that comes later says it again."""
    source, watch = write(tmp_path / "in.csv", {"sentence": sentences()}), tmp_path / "watch.json"
    options = ("--threshold", 9, "--watch", watch, "--audit", 1, "--epsilon", 0.001)
    for name in ("first.csv", "second.csv"):
        assert status("predict", model, source, tmp_path / name, *options) == 3
        assert "alarm after audit" in capsys.readouterr().err
        assert len(read(tmp_path / name)["label"]) == COUNT
    assert json.loads(watch.read_text())["samples"] == 2 * COUNT


def test_two_commands_do_not_share_a_watch(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one of them counted would be lost, so the second is told; the first leaves nothing but the state."""
    source, watch = write(tmp_path / "in.csv", {"sentence": sentences()}), tmp_path / "watch.json"
    command = ("predict", model, source, tmp_path / "out.csv", "--watch", watch, "--epsilon", 0.2)
    with alone_with(watch):
        assert error(capsys, *command) == f"{watch}: another process is at work on it; wait for it or end it"
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]
    assert status(*command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv", "watch.json"]


def test_thresholds_of_another_number(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told before anything is answered or written."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--threshold", "0.1,0.2")
    assert told == "--threshold: 2 of them; expected one, or 3, one for each ramp"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_names_that_clash(
    model: Path, classifier: EarlyExitClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column that is there already is not replaced; a prefix helps, and the new columns have it."""
    source = write(tmp_path / "in.jsonl", {"sentence": sentences(), "label": ["?"] * COUNT})
    told = error(capsys, "predict", model, source, tmp_path / "out.jsonl")
    assert told == f"{source}: has a column label already; expected --prefix TEXT, for the new ones"
    options = ("--prefix", "new_", "--threshold", THRESHOLD)
    assert status("predict", model, source, tmp_path / "out.jsonl", *options) == 0
    found = read(tmp_path / "out.jsonl")
    assert found["label"] == ["?"] * COUNT
    renamed = {name: found[f"new_{name}"] for name in ("label", "probability", "exit_layer")}
    check_answers(renamed, classifier, sentences(), THRESHOLD)


def test_a_file_that_is_there_stays(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Unless it may be replaced; the input never is."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    (tmp_path / "out.csv").write_text("mine")
    told = error(capsys, "predict", model, source, tmp_path / "out.csv")
    assert told == f"{tmp_path / 'out.csv'}: exists already; name another output, or replace it with --force"
    assert (tmp_path / "out.csv").read_text() == "mine"
    assert status("predict", model, source, tmp_path / "out.csv", "--force") == 0
    assert len(read(tmp_path / "out.csv")["label"]) == COUNT
    before = source.read_bytes()
    assert error(capsys, "predict", model, source, source, "--force").endswith("is the input; expected another file")
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        (None, (), "in.csv: no such file"),
        (b"sentence,n\na,1\nb\n", (), "in.csv: line 3: 1 fields; expected 2"),
        (b"", (), "in.csv: is empty"),
        (b"n,m\na,b\n", (), "in.csv: has no column sentence; found n, m; name yours with --text"),
        (b"sentence;n\na;b\n", (), "with --text; 'sentence;n' may be several columns with a semicolon between them"),
        (b"sentence\na\n", ("--text", "utterance"), "in.csv: has no column utterance; found sentence"),
        (b"sentence,n\na,b\n", ("--text", "sentence", "--pair", "n"), "expected one text: --text alone"),
        (b"sentence\na\n", ("--device", "gpu"), "device: 'gpu' cannot be used"),
        (b"sentence\na\n", ("--prefix", "\udcff"), r"--prefix: '\udcff' is not allowed"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_written(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    options: tuple[str, ...],
    told: str,
) -> None:
    """In one line, whatever it is."""
    if content is not None:
        (tmp_path / "in.csv").write_bytes(content)
    line = error(capsys, "predict", model, tmp_path / "in.csv", tmp_path / "out.csv", *options)
    assert told in line
    assert {path.name for path in tmp_path.iterdir()} <= {"in.csv"}


@pytest.mark.parametrize(
    ("model", "source", "target", "told"),
    [
        ("nowhere", "in.csv", "out.csv", "nowhere: no model here"),
        ("nowhere", "in.txt", "out.csv", "in.txt: unknown ending .txt; expected .csv, .tsv, .jsonl or .parquet"),
        ("nowhere", "in.csv", "out", "out: has no ending"),
        ("nowhere", "in.csv", "folder.csv", "folder.csv: is a folder; expected the name of a file"),
    ],
)
def test_places_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    source: str,
    target: str,
    told: str,
) -> None:
    """In one line; nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("in.csv").write_text("sentence\na\n")
    Path("folder.csv").mkdir()
    assert error(capsys, "predict", model, source, target).startswith(told)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.csv", "in.csv"]


def test_an_input_that_changes_is_told(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers to two different files are never mixed, neither in one run nor when a broken-off one goes on."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    predict = EarlyExitClassifier.predict_iter
    calls = []

    def change(self: EarlyExitClassifier, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            write(source, {"sentence": sentences(seed=1)})
        return predict(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(EarlyExitClassifier, "predict_iter", change)
        told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--batch-rows", 10)
        assert told == f"{source}: has changed while it was read; give the command again"
    told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--batch-rows", 10)
    assert "answers of another command, which was broken off: input " in told
    assert parts_folder(tmp_path / "out.csv").exists() and not (tmp_path / "out.csv").exists()
    assert status("predict", model, source, tmp_path / "out.csv", "--batch-rows", 10, "--force") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_memory_holds_one_batch(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more rows than --batch-rows are asked about at once, also of a parquet file with one row group."""
    parquet.write_table(pa.table({"sentence": sentences()}), tmp_path / "in.parquet")
    predict = EarlyExitClassifier.predict_iter
    sizes = []

    def count(self: EarlyExitClassifier, texts: list[str], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(texts))
        return predict(self, texts, *arguments, **options)

    monkeypatch.setattr(EarlyExitClassifier, "predict_iter", count)
    assert status("predict", model, tmp_path / "in.parquet", tmp_path / "out.parquet", "--batch-rows", 25) == 0
    assert sizes == [25, 25, 10]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("answer",),
        ("predict", "m", "in.csv"),
        ("predict", "m", "in.csv", "out.csv", "--threshold", "-1"),
        ("predict", "m", "in.csv", "out.csv", "--threshold", "nan"),
        ("predict", "m", "in.csv", "out.csv", "--threshold", "0.1,"),
        ("predict", "m", "in.csv", "out.csv", "--threshold", "0.1", "--full-depth"),
        ("predict", "m", "in.csv", "out.csv", "--batch-rows", "0"),
        ("predict", "m", "in.csv", "out.csv", "--precision", "fp16"),
        ("predict", "m", "in.csv", "out.csv", "--pair", "b"),
        ("predict", "m", "in.csv", "out.csv", "--thresh", "0.1"),
        ("info",),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, the usage, and a line that says what is wrong."""
    assert status(*arguments) == 2
    usage, *_, last = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: deebert") and ": error: " in last


@pytest.mark.parametrize("arguments", [("--help",), ("predict", "--help"), ("info", "--help"), ("export", "--help")])
def test_help(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0; every line fits a terminal of 120 columns; each subcommand and option has a word of explanation."""
    assert status(*arguments) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 120
    if len(arguments) == 1:
        assert re.search(r"^    predict +\S", told, re.MULTILINE) and re.search(r"^    info +\S", told, re.MULTILINE)
        assert "exit status" in told
    assert not re.search(r"^  --[\w-]+( [A-Z]+)?\n  -", told, re.MULTILINE)


def test_the_columns_of_csv_are_texts(model: Path, tmp_path: Path) -> None:
    """What looks like a number, a date or nothing stays as it was written."""
    odd = ["007", "1e5", "NA", "None", "", "2020-01-02", " 1 ", "TRUE"]
    source = write(tmp_path / "in.tsv", {"sentence": sentences(len(odd)), "odd": odd})
    assert status("predict", model, source, tmp_path / "out.csv") == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["odd"] for row in csv.DictReader(file)] == odd


def test_help_comes_at_once() -> None:
    """In a fresh interpreter the command line is told, and refused, without any of the libraries that load slowly."""
    code = "import sys, deebert.cli.main as m\ntry: m.main(['predict', '--help'])\nexcept SystemExit: pass\n"
    code += "sys.exit(bool({'torch', 'transformers', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: deebert predict")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        ("batch_rows", {"--batch-rows": 8}),
        ("text", {"--text": "other"}),
        ("precision", {"--precision": "bf16"}),
        ("files", {}),
    ],
)
def test_answers_of_another_command_are_not_gone_on_from(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, key: str, options: dict[str, Any]
) -> None:
    """Other batches, another column, precision or model may answer otherwise: the line says what differs."""
    source = write(tmp_path / "in.csv", {"sentence": sentences(), "other": sentences(seed=1)})

    def command(folder: Path, given: dict[str, Any]) -> tuple[object, ...]:
        given = {"--threshold": THRESHOLD, "--batch-rows": 7, "--precision": "fp32", "--text": "sentence"} | given
        return "predict", folder, source, tmp_path / "out.csv", *(word for pair in given.items() for word in pair)

    with monkeypatch.context() as patched:
        patched.setattr(Answering, "records", broken_off_at(4))
        assert status(*command(model, {})) == 130
    other = model if options else write_classifier(tmp_path / "another", "roberta")
    told = error(capsys, *command(other, options))
    assert "holds 21 answers of another command, which was broken off: " in told and f" {key} " in told
    assert status(*command(model, {})) == 0


def test_answers_of_a_stream_are_not_held_back(model: Path, streams: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is flushed before the next one is read: whoever writes line by line gets answers line by line."""
    output = streams("\n".join(sentences(9)).encode())
    seen = []
    monkeypatch.setattr(output, "flush", lambda: seen.append(output.getvalue().count(b"\n")), raising=False)
    assert status("predict", model, "-", "-", "--threshold", THRESHOLD, "--batch-rows", 4) == 0
    assert seen[:3] == [4, 8, 9]


def test_the_models_own_column_comes_before_usual_names(model: Path, classifier, tmp_path: Path) -> None:
    """A file that has both is answered by the column that the model was trained on."""
    source = write(tmp_path / "in.csv", {"text": sentences(seed=1), "sentence": sentences()})
    assert status("predict", model, source, tmp_path / "out.csv", "--threshold", THRESHOLD) == 0
    check_answers(read(tmp_path / "out.csv"), classifier, sentences(), THRESHOLD)


@pytest.mark.parametrize(
    ("about", "names", "taken"),
    [
        (("sentence",), ["id", "Text", "Sentence "], ["Sentence "]),
        (("sentence",), ["TEXT", "id"], ["TEXT"]),
        (("text",), ["Text", "text"], ["text"]),
        (("text", "pair"), ["PAIR", "Text"], ["Text", "PAIR"]),
        (("text", "pair"), ["Text", "Question", "Answer"], ["Question", "Answer"]),
        ((), ["Premise", "Text"], ["Text"]),
    ],
)
def test_columns_are_found_whatever_their_case(
    about: tuple[str, ...], names: list[str], taken: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """As in training; the very name comes first, and the log says what was taken, since another may have been meant."""
    with caplog.at_level("INFO"):
        assert list(find_text_columns("in.csv", names, None, {"text_columns": list(about)})) == taken
    assert caplog.messages == [f"in.csv: text from column {' and '.join(taken)}"]


@pytest.mark.parametrize(
    ("names", "taken"),
    [(["text", "clean_text"], ["clean_text"]), (["Clean_Text ", "text"], ["Clean_Text "]), (["id", "text"], ["text"])],
)
def test_a_file_like_those_of_the_training_is_read_as_they_were(names: list[str], taken: list[str]) -> None:
    """The column that was named for the training comes before one that is called as the model calls it."""
    about = {"text_columns": ["text"], "columns": ["clean_text"]}
    assert list(find_text_columns("in.csv", names, None, about)) == taken


def test_a_probability_has_no_more_digits_than_float32(model: Path, tmp_path: Path) -> None:
    """As few as tell it from its neighbours."""
    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    assert status("predict", model, source, tmp_path / "out.csv", "--threshold", THRESHOLD) == 0
    assert all(value == str(np.float32(value)) for value in read(tmp_path / "out.csv")["probability"])


def test_a_change_of_equal_size_is_told(model: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """A byte that was mended in place, too."""
    from deebert.inference.classifier import EarlyExitClassifier
    from tests.cli.running import error

    source = write(tmp_path / "in.csv", {"sentence": sentences()})
    predict, calls = EarlyExitClassifier.predict_iter, []

    def change(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            source.write_bytes(source.read_bytes().replace(b"w1", b"w2"))
        return predict(self, *arguments, **options)

    monkeypatch.setattr(EarlyExitClassifier, "predict_iter", change)
    told = error(capsys, "predict", model, source, tmp_path / "out.csv", "--batch-rows", 10)
    assert told == f"{source}: has changed while it was read; give the command again"


def test_a_pair_of_which_one_text_is_blank_has_no_answer(of_pairs: Path, tmp_path: Path) -> None:
    """Whichever it is; the others are answered."""
    first, second = sentences(4), sentences(4, seed=1)
    first[1], second[2] = " ", ""
    source = write(tmp_path / "in.jsonl", {"sentence1": first, "sentence2": second})
    assert status("predict", of_pairs, source, tmp_path / "out.jsonl", "--full-depth") == 0
    found = read(tmp_path / "out.jsonl")
    assert [layer is None for layer in found["exit_layer"]] == [False, True, True, False]
    assert found["label"][1:3] == found["probability"][1:3] == [None, None]


def test_the_new_columns_of_parquet_have_their_types(model: Path, tmp_path: Path) -> None:
    """Those of the columns' own table, not what numpy happens to have."""
    source = write(tmp_path / "in.parquet", {"sentence": sentences(3)})
    assert status("predict", model, source, tmp_path / "out.parquet", "--threshold", THRESHOLD) == 0
    schema = parquet.read_schema(tmp_path / "out.parquet")
    types = {name: str(schema.field(name).type) for name in ("label", "probability", "exit_layer")}
    assert types == {"label": "string", "probability": "float", "exit_layer": "int32"}
