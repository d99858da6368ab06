"""The scripts that measure speed fit the code that they measure; what they measure is no test's business."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deebert.base.errors import UserError
from deebert.base.files import write_json
from deebert.classifier import EarlyExitClassifier
from deebert.data.dataset import DataSet
from deebert.data.scores import METRICS
from deebert.figures.rivals import COLORS
from deebert.reports.rivals import rivals_table
from tests import tiny
from tests.inference.test_classifier import LABELS, WIDTH, write_classifier, write_metrics

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--size", "tiny", "--samples", "4"]
PARTS = "finetuning,objectives,ramps"
RUNS = {
    "early_exit": [*TINY, "--rounds", "1", "--single", "2", "--precision", "fp32"],
    "gpu": ["--size", "tiny", "--to-a-call", "2", "--precision", "fp32", "--rounds", "1"],
    "training": [
        *TINY,
        *"--rounds 1 --steps 1 --states 64 --precision fp32 --parts finetuning,objectives,ramps".split(),
    ],
}


@pytest.mark.parametrize("name", RUNS)
def test_a_small_benchmark_runs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a tiny model it comes to its end and prints lines of JSON."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *RUNS[name]])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # set by one of them; to be undone
    module = __import__(name)
    module.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(isinstance(json.loads(line), dict) for line in lines)


def test_whole_trainings_tell_a_score_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every way trains each seed on a classic folder, ramps only where asked for, and comes with mean and spread."""
    model = tiny.write_model(tmp_path / "model", max_position_embeddings=128)
    task = tmp_path / "SST-2"
    task.mkdir()
    for name, size in (("train", 20), ("dev", 10), ("test", 10)):
        tiny.samples(size)[["sentence", "label"]].to_csv(task / f"{name}.tsv", sep="\t", index=False)
    data = ["--model", str(model), "--glue", str(tmp_path), "--task", "SST-2", "--train-samples", "16"]
    how = ["--parts", "scores", "--epochs", "1", "--seeds", "1,2", "--ramp-seeds", "2", "--precision", "fp32"]
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["training.py", *data, *how, "--ways", "paper,paper-trimmed,ours"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    __import__("training").main()
    *rows, whole = map(json.loads, capsys.readouterr().out.splitlines())
    told = [(row["way"], row["training"], row["seed"]) for row in rows]
    each = (("finetuning", 1), ("finetuning", 2), ("ramps", 2))
    assert told == [(way, *training) for way in ("paper", "paper-trimmed", "ours") for training in each]
    for way in ("paper", "paper-trimmed", "ours"):
        scores = [row["score"] for row in rows if (row["way"], row["training"]) == (way, "finetuning")]
        assert whole["scores"][f"{way} finetuning"]["mean"] == pytest.approx(sum(scores) / 2, abs=1e-4)
        assert len(whole["scores"][f"{way} ramps"]["mean"]) == 2  # layers but the last


SAMPLES = 12
ROUNDS = 3


@pytest.fixture(scope="module")
def rivals() -> Iterator[ModuleType]:
    """The script, which is a program of its own: its folder is on the path as long as it is used."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield importlib.import_module("rivals")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A model with ramps, its data, metrics with a recommended threshold, and the model cut to two layers."""
    folder = tmp_path_factory.mktemp("trained")
    data = tiny.data(labels=LABELS)
    model = write_classifier(folder)
    write_json(model / "training.json", {"model": "tiny", "task": "tiny", "text_columns": ["sentence"]})
    (folder / "metrics").mkdir()
    classifier = EarlyExitClassifier.from_pretrained(model, device="cpu")
    metrics = write_metrics(folder / "metrics", classifier)
    names = dict(enumerate(tiny.LABEL_NAMES))
    cut = tiny.write_model(folder / "cut", layers=2, width=WIDTH, labels=LABELS, id2label=names)
    return SimpleNamespace(model=model, data=data, metrics=metrics, cut=cut, classifier=classifier)


@pytest.fixture(scope="module")
def raced(rivals: ModuleType, trained: SimpleNamespace) -> dict[str, Any]:
    """What comes of a race of contenders that need nothing but what the tests have.

    Here they share the tests' own process, since a new Python takes seconds to start.
    """

    def ask(worker: Any, do: str, **what: Any) -> Any:
        return json.loads(json.dumps(getattr(worker, do)(**what)))

    class InThisProcess:
        def __init__(self, contender: Any, folder: Path, sentences: Path, threads: int, scratch: Path) -> None:
            how = contender.library, contender.precision, str(folder), threads, str(sentences)
            self.worker = importlib.import_module("contenders.worker").Worker(*how)

        def ask(self, do: str, **what: Any) -> Any:
            return ask(self.worker, do, **what)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch:
        race = importlib.import_module("contenders.race")
        patch.setattr(race, "Process", InThisProcess)
        patch.setattr(race, "SETTLE_S", 0)
        libraries = ("hugging_face", "onnx_runtime", "ours", "exported")
        where = trained.model, trained.data, trained.metrics, [trained.cut]
        return rivals.compare(*where, SAMPLES, ROUNDS, libraries, threads=(1,))


def of(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in result["rows"] if all(row[key] == value for key, value in wanted.items())]


def test_every_rival_in_full_precision_answers_as_the_plain_engine(raced: dict[str, Any]) -> None:
    """One at a time and padded, none of the labels differs; all contenders that can run here have taken part."""
    full = [row for row in of(raced, precision="fp32") if row["kind"] in ("rival", "plain")]
    assert {(row["library"], row["mode"]) for row in full} == {
        (library, mode)
        for library in ("transformers", "ONNX Runtime", "DeeBERT", "DeeBERT in ONNX Runtime")
        for mode in ("batch_1", "batched")
    }
    assert [row["other_answers"] for row in full] == [0] * len(full)
    assert {row["layers"] for row in of(raced, kind="cut")} == {2}
    assert all("bf16" in name for name in raced["left_out"])


def test_what_differs_is_counted_and_scored(raced: dict[str, Any], trained: SimpleNamespace) -> None:
    """Score, loss and number of other answers of early exit are those of the classifier at that threshold."""
    frame = sampled(trained.data)
    texts, labels = frame["sentence"].tolist(), frame["label"].to_numpy()

    def answers(threshold: float) -> tuple[np.ndarray, np.ndarray]:
        told = trained.classifier.predict(texts, threshold=threshold)
        return np.array([tiny.LABEL_NAMES.index(label) for label in told.labels]), told.exit_layers

    full, _ = answers(0.0)
    exits = of(raced, kind="early_exit")
    assert {row["library"] for row in exits} == {"DeeBERT", "DeeBERT in ONNX Runtime"}
    assert {row["drop_points"] for row in exits} == {None, 2.0}
    for row in exits:
        mine, layers = answers(row["threshold_nats"])
        assert row["score"] == pytest.approx(METRICS["accuracy"](labels, mine), abs=1e-4)
        assert row["other_answers"] == np.sum(mine != full)
        assert row["layers_saved_frac"] == pytest.approx(1 - layers.mean() / raced["num_layers"], abs=1e-4)
        assert row["lost_points_low"] <= row["lost_points"] <= row["lost_points_high"]
    assert any(row["other_answers"] for row in exits)


def sampled(data: DataSet) -> Any:
    return importlib.import_module("contenders.material").evenly(data["test"], SAMPLES)


def test_ratios_are_of_the_same_mode(raced: dict[str, Any]) -> None:
    """The plain engine is 1 of itself and the fastest rival 1 of itself, and no rival took less time than that."""
    for mode in ("batch_1", "batched"):
        (fastest,) = of(raced, mode=mode, is_fastest_rival=True)
        assert fastest["vs_fastest_rival"] == 1
        assert fastest["ms"] == min(row["ms"] for row in of(raced, mode=mode, kind="rival"))
        (plain,) = of(raced, mode=mode, kind="plain", precision="fp32", library="DeeBERT")
        assert plain["vs_plain"] == 1
        assert all(row["ms_min"] <= row["ms"] <= row["ms_max"] for row in of(raced, mode=mode))
        cut = of(raced, mode=mode, kind="cut")
        assert cut and {row["library"] for row in cut} <= {"transformers", "ONNX Runtime"}
    assert {row["batch_size"] for row in of(raced, kind="rival", mode="batched")} <= {32, 64}


def test_the_table_has_a_line_for_each_contender(raced: dict[str, Any]) -> None:
    """Each once, with the number of other answers."""
    lines = [line for line in rivals_table(raced).splitlines() if line.startswith("| ") and "one at a time" not in line]
    assert len(lines) == len(of(raced, mode="batch_1"))
    assert any(line.startswith("| ONNX Runtime fp32 |") and line.endswith(" 0 |") for line in lines)


def test_contenders_take_turns(rivals: ModuleType) -> None:
    """Each is asked once in each round and way, and who begins changes from round to round."""
    contenders, race = map(importlib.import_module, ("contenders.table", "contenders.race"))
    entries = [race.Entry(each) for each in contenders.contenders(4, ("onnx_runtime", "hugging_face"))]
    asked = []

    class Told:
        def __init__(self, entry: Any) -> None:
            self.entry = entry

        def ask(self, do: str, batch_size: int, threshold: float) -> dict[str, float]:
            asked.append((self.entry, batch_size))
            return {"ms": len(asked)}

    with pytest.MonkeyPatch.context() as patch, race.Race(1, {}) as running:
        patch.setattr(race, "SETTLE_S", 0)
        running._processes = {entry.contender: Told(entry) for entry in entries}
        running.measured = {entry: race.Measured(0, 0) for entry in entries}
        running.run(entries, ROUNDS)
    turns = len(entries) * 3
    rounds = [asked[i : i + turns] for i in range(0, len(asked), turns)]
    assert len(rounds) == ROUNDS and all(len(set(each)) == turns for each in rounds)
    assert len({each[0] for each in rounds}) == ROUNDS
    assert running.measured[entries[0]].ms[1] == [
        i * turns + each.index((entries[0], 1)) + 1 for i, each in enumerate(rounds)
    ]


def test_a_process_of_its_own_answers_until_it_cannot(
    rivals: ModuleType, trained: SimpleNamespace, tmp_path: Path
) -> None:
    """A line each way: it starts, answers all sentences with their labels and times them; when it ends, it says why."""
    table, process = map(importlib.import_module, ("contenders.table", "contenders.process"))
    model = rivals.with_graph(rivals.prepared(trained.model, trained.data, SAMPLES, tmp_path / "work"))
    contender = table.Contender("onnx_runtime", "fp32", 4)
    how = model.sentences, 1, tmp_path
    importlib.import_module("contenders.onnx_runtime").build(
        trained.model, model.work / "plain.onnx", tmp_path, "fp32", []
    )
    (tmp_path / "tokenizer.json").write_bytes((trained.model / "tokenizer.json").read_bytes())
    with process.Process(contender, tmp_path, *how) as running:
        assert running.ask("start")["ms"] > 0
        labels = [running.ask("answer", batch_size=size, threshold=0)["labels"] for size in (1, 32)]
        texts = sampled(trained.data)["sentence"].tolist()
        told = [tiny.LABEL_NAMES.index(label) for label in trained.classifier.predict(texts, threshold=0.0).labels]
        assert labels == [told, told]
        assert running.ask("go", batch_size=1, threshold=0)["ms"] > 0
        with pytest.raises(process.ContenderError, match=r"^AttributeError: .*dance"):
            running.ask("dance")


@pytest.mark.parametrize("library", ["exported", "onnx_runtime", "open_vino"])
def test_to_answer_a_contender_imports_what_it_needs_alone(library: str) -> None:
    """What builds its files is no part of its first answer: who deploys them does not have it."""
    slow = "{'torch', 'transformers', 'onnx', 'nncf'}"
    code = f"import sys, contenders.{library}; print(*sorted({slow} & {{*sys.modules}}))"
    path = os.pathsep.join(map(str, (FOLDER, FOLDER.parent / "src")))
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == []


def test_a_contender_that_cannot_run_is_told_of(rivals: ModuleType) -> None:
    """Why it fails is kept beside its name, and the race goes on without it."""
    table, race = map(importlib.import_module, ("contenders.table", "contenders.race"))
    material = importlib.import_module("contenders.material")

    def refuse(*_: object) -> None:
        raise importlib.import_module("contenders.process").ContenderError("RuntimeError: no compiler")

    with pytest.MonkeyPatch.context() as patch, race.Race(1, {}) as running:
        patch.setattr(race, "Process", refuse)
        nowhere = race.Model(Path("nowhere"), 4, Path("nowhere"), Path("nowhere"))
        running.enter(nowhere, table.Contender("torch_compile", "fp32", 4), [material.Setting()])
        assert running.left_out == {"torch.compile fp32": "RuntimeError: no compiler"} and not running.measured


@pytest.mark.parametrize("ends", ["ONNX Runtime fp32", "DeeBERT in ONNX Runtime int8"])
def test_a_contender_that_ends_in_a_late_round_costs_no_race(rivals: ModuleType, ends: str) -> None:
    """Nothing of it is kept, why is, and the others are timed in each round."""
    contenders, race, process = map(
        importlib.import_module, ("contenders.table", "contenders.race", "contenders.process")
    )
    entries = [race.Entry(each) for each in contenders.contenders(4, ("onnx_runtime", "ours", "exported"))]
    asked = []

    class Told:
        def __init__(self, name: str) -> None:
            self.name = name

        def ask(self, do: str, batch_size: int, threshold: float) -> dict[str, float]:
            asked.append(self.name)
            if self.name == ends and asked.count(ends) >= 4:
                raise process.ContenderError("ended with status -9")
            return {"ms": 1.0}

    with pytest.MonkeyPatch.context() as patch, race.Race(1, {}) as running:
        patch.setattr(race, "SETTLE_S", 0)
        running._processes = {entry.contender: Told(entry.contender.name) for entry in entries}
        running.measured = {entry: race.Measured(0, 0) for entry in entries}
        running.run(entries, ROUNDS)
    assert running.left_out == {ends: "ended with status -9"} and asked.count(ends) == 4
    assert {entry.contender.name for entry in entries} - {entry.contender.name for entry in running.measured} == {ends}
    assert all(len(times) == ROUNDS for each in running.measured.values() for times in each.ms.values())


def test_a_race_without_the_plain_engine_is_told(rivals: ModuleType) -> None:
    """All are compared with it."""
    race, rows = map(importlib.import_module, ("contenders.race", "contenders.rows"))
    running = race.Race(1, {"DeeBERT fp32": "ended with status -9"})
    with pytest.raises(UserError, match=r"^DeeBERT fp32, with .* takes no part: ended with status -9$"):
        rows.rows_of(running, np.zeros(1), "accuracy", 0)


def test_what_would_lose_a_race_is_told_before_it(
    rivals: ModuleType,
    trained: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Numbers that cannot be, two cut models of a depth, and files that cannot be written."""
    monkeypatch.setattr(rivals, "Race", None)
    trained.data.save(tmp_path)
    (tmp_path / "folder.svg").mkdir()
    given = ["rivals.py", str(trained.model), str(tmp_path), "--metrics", str(trained.metrics), "--out"]
    cuts, out = f"{trained.cut},{trained.cut}", str(tmp_path / "out")
    for arguments, status, told in (
        ((out, "--rounds", "0"), 2, "argument --rounds: invalid whole number of 1 or more value: '0'"),
        ((out, "--samples", "-1"), 2, "argument --samples: invalid whole number of 1 or more value: '-1'"),
        ((out, "--cut", cuts), 1, "error: --cut: two models have 2 layers; expected one for each depth"),
        ((str(tmp_path / "task.json/out"),), 1, "task.json/out.json: cannot be written: File exists"),
        ((str(tmp_path / "folder"),), 1, "folder.svg: cannot be written: Is a directory"),
    ):
        monkeypatch.setattr(sys, "argv", [*given, *arguments])
        with pytest.raises(SystemExit) as end:
            rivals.main()
        assert end.value.code == status and capsys.readouterr().err.splitlines()[-1].endswith(told)
    assert not Path(f"{out}.json").exists()


def test_a_model_need_not_say_what_it_was_made_of(rivals: ModuleType, tmp_path: Path) -> None:
    """A race of it has the name of its folder."""
    assert rivals._name_of(tmp_path) == tmp_path.name
    write_json(tmp_path / "training.json", {"model": "tiny"})
    assert rivals._name_of(tmp_path) == "tiny"


def test_a_way_that_is_unknown_is_told_before_any_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each way may train for hours."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["training.py", "--parts", "scores", "--ways", "paper,our"])
    with pytest.raises(SystemExit):
        importlib.import_module("training").main()
    assert "argument --ways: invalid some of paper,paper-trimmed,ours value: 'paper,our'" in capsys.readouterr().err


def test_a_model_of_other_labels_is_refused(rivals: ModuleType, trained: SimpleNamespace, tmp_path: Path) -> None:
    """Its answers would be counted as wrong."""
    other = tiny.write_model(tmp_path / "other", labels=LABELS, id2label=dict(enumerate(("a", "b", "c"))))
    with pytest.raises(UserError, match=r"other: answers a, b, c; expected the labels no, yes, maybe$"):
        rivals.prepared(other, trained.data, SAMPLES, tmp_path / "work")


def test_every_rival_has_a_colour() -> None:
    """Else the figure would fail at the end of a race."""
    libraries = importlib.import_module("contenders.table").LIBRARIES
    assert {library.name for library in libraries.values()} == set(COLORS)
