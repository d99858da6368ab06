"""What a user can get wrong, each tried through the real stage script: one line, status 1, and nothing is touched."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from deebert.base import files, stage
from deebert.base.errors import UserError
from deebert.data.dataset import DataSet
from deebert.inference import precisions
from tests import tiny
from tests.stages.running import ROOT, STAGES, run_stage
from tests.starting import write_start

TRAINED = ("plan", "finetune_backbone", "train_ramps", "eval_layers", "entropy_sweep", "plot", "benchmark")
TIMED = {"metrics/benchmark.json", "plots/benchmark.json", "plots/benchmark.svg"}  # differ from run to run


def put(key: str, value: Any) -> Callable[[], None]:
    """Set `key` (or `section.key`) of the parameters; a value that is not there before is added."""

    def change() -> None:
        path = Path("params.yaml")
        content = yaml.safe_load(path.read_text())
        *section, name = key.split(".")
        (content[section[0]] if section else content)[name] = value
        path.write_text(yaml.safe_dump(content))

    return change


def drop(key: str) -> Callable[[], None]:
    """Leave out `key` (or `section.key`, or a section) of the parameters."""

    def change() -> None:
        path = Path("params.yaml")
        content = yaml.safe_load(path.read_text())
        *section, name = key.split(".")
        del (content[section[0]] if section else content)[name]
        path.write_text(yaml.safe_dump(content))

    return change


def write(path: str, content: bytes) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(content)


def remove(path: str) -> Callable[[], object]:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def halve(path: str) -> Callable[[], object]:
    def change() -> None:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: len(content) // 2])

    return change


def take_the_place_of(path: str) -> Callable[[], None]:
    """Put a file where a folder should be, which stops root as well as anybody."""

    def change() -> None:
        shutil.rmtree(path)
        Path(path).write_text("mine")

    return change


def several(*changes: Callable[[], object]) -> Callable[[], None]:
    def change() -> None:
        for one in changes:
            one()

    return change


RTE = {
    "train.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta b\ta\tentailment\n1\ta\tb c\tnot_entailment\n",
    "dev.tsv": "index\tsentence1\tsentence2\tlabel\n0\ta b\ta\tentailment\n1\ta\tb c\tnot_entailment\n",
    "test.tsv": "index\tsentence1\tsentence2\n0\ta b\ta\n",
}


def classic(file: str = "", content: bytes | None = None) -> Callable[[], None]:
    """Ask for RTE from a folder of the classic layout in which `file` has other content, or is missing."""

    def change() -> None:
        put("dataset", "RTE")()
        put("download_glue.source", "GLUE")()
        Path("GLUE/RTE").mkdir(parents=True)
        for name, text in RTE.items():
            Path("GLUE/RTE", name).write_text(text)
        if file and content is None:
            Path("GLUE/RTE", file).unlink()
        elif file:
            Path("GLUE/RTE", file).write_bytes(content)

    return change


def own(name: str = "train.csv", content: bytes = b"", **files: bytes) -> Callable[[], None]:
    """Ask for data of one's own in the folder `mine`: one file, and others by their split."""

    def change() -> None:
        put("dataset", "./mine")()
        Path("mine").mkdir()
        if name:
            Path("mine", name).write_bytes(content)
        for split, text in files.items():
            Path("mine", f"{split}.csv").write_bytes(text)

    return change


OWN = b"text,label\na,x\nb,y\nc,x\nd,y\n"


def config(**changed: Any) -> Callable[[], None]:
    """Change the config.json of the model to start from."""

    def change() -> None:
        path = Path("start/config.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return change


def start_from(model: str) -> Callable[[], None]:
    """Change what fine-tuning starts from, as the stage `plan` would."""
    return lambda: write_start(Path(), model)


def planned(spoil: Callable[[], object]) -> Callable[[], None]:
    """Spoil the model before the stage `plan` sees it."""

    def change() -> None:
        spoil()
        write_start(Path())

    return change


def without_a_weight(path: str) -> Callable[[], None]:
    def change() -> None:
        weights = load_file(path)
        del weights[sorted(weights)[-1]]
        save_file(weights, path, metadata={"format": "pt"})

    return change


def pickle_weights() -> None:
    torch.save(load_file("start/model.safetensors"), "start/pytorch_model.bin")
    Path("start/model.safetensors").unlink()


def ramps_of_another_model() -> None:
    path = "models/deebert/ramps.safetensors"
    save_file({name: tensor[:1].clone() for name, tensor in load_file(path).items()}, path)


def lose_rows() -> None:
    path = "data/glue/train.parquet"
    pd.read_parquet(path).head(3).to_parquet(path)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on tiny data and a tiny model, start to end run once by the same scripts; no test changes it."""
    folder = tmp_path_factory.mktemp("good")
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["model"] = "./start"
    content["finetune_backbone"] |= {"epochs": 1, "max_length": 24, "batch_size": 8, "precision": "fp32"}
    content["train_ramps"] |= {"epochs": 1}
    content["benchmark"] |= {"samples": 8, "rounds": 1, "threads": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    (folder / "data" / "glue").mkdir(parents=True)
    tiny.data().save(folder / "data" / "glue")
    tiny.write_model(folder / "start")
    shutil.copytree(ROOT / "baselines", folder / "baselines")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for name in TRAINED:
            run_stage(name, monkeypatch)
    return folder


@pytest.fixture
def project(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the good project, to be spoilt; the current folder."""
    folder = shutil.copytree(good, tmp_path / "project")
    monkeypatch.chdir(folder)
    return folder


def snapshot(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


TOP = (
    "dataset, model, seed, precision, download_glue, finetune_backbone, train_ramps, eval_layers, entropy_sweep,"
    " benchmark"
)
LIST = "a list of different numbers, each 0 or more"
THRESHOLDS = "entropy_sweep.thresholds"
MISTAKES: dict[str, tuple[str, Callable[[], object], list[str]]] = {
    # params.yaml
    "unknown data set": ("download_glue", put("dataset", "CoLA"), ["dataset: 'CoLA'", "toy, SST-2, MRPC, RTE, QNLI"]),
    "unknown objective": (
        "plan",
        put("finetune_backbone.objective", "half_depth"),
        ["finetune_backbone.objective: 'half_depth'", "one of alternating", "full_depth"],
    ),
    "unknown model": ("plan", put("model", "brt-base"), ["model: 'brt-base'", "bert-base", "a folder"]),
    "unknown key": ("plan", put("sead", 1), ["unknown key sead", TOP]),
    "unknown key in a section": (
        "train_ramps",
        put("train_ramps.lr", 1),
        ["train_ramps: unknown key lr", "learning_rate"],
    ),
    "missing key": ("finetune_backbone", drop("seed"), ["missing key seed"]),
    "missing key in a section": (
        "eval_layers",
        drop("eval_layers.hidden_test"),
        ["eval_layers: missing key hidden_test"],
    ),
    "missing section": ("entropy_sweep", drop("entropy_sweep"), ["missing key entropy_sweep"]),
    "text for a number": ("train_ramps", put("train_ramps.learning_rate", "fast"), ["'fast'", "a number above 0"]),
    "true for a number": (
        "train_ramps",
        put("train_ramps.epochs", True),
        ["train_ramps.epochs: True", "a whole number"],
    ),
    "number for a list": ("entropy_sweep", put(THRESHOLDS, 0.1), [f"{THRESHOLDS}: 0.1", LIST]),
    "threshold below 0": ("entropy_sweep", put(THRESHOLDS, [0.1, -0.1]), [f"{THRESHOLDS}: [0.1, -0.1]", LIST]),
    "threshold that is NaN": ("entropy_sweep", put(THRESHOLDS, [float("nan")]), [f"{THRESHOLDS}: [nan]", LIST]),
    "no threshold": ("entropy_sweep", put(THRESHOLDS, []), [f"{THRESHOLDS}: []", LIST]),
    "a threshold twice": ("entropy_sweep", put(THRESHOLDS, [0.1, 0.1]), [f"{THRESHOLDS}: [0.1, 0.1]", LIST]),
    "target below 0": ("entropy_sweep", put("entropy_sweep.targets", [-1]), ["entropy_sweep.targets: [-1]", LIST]),
    "a risk of 0": (
        "entropy_sweep",
        put("entropy_sweep.risk", {"epsilons": [0.0], "delta": 0.1}),
        ["entropy_sweep.risk.epsilons: [0.0]", "each above 0, 1 at most"],
    ),
    "a guarantee that is none": (
        "entropy_sweep",
        put("entropy_sweep.risk", {"epsilons": [0.01], "delta": 0.9}),
        ["entropy_sweep.risk.delta: 0.9", "a number above 0, 0.5 at most"],
    ),
    "a threshold to time below 0": (
        "benchmark",
        put("benchmark.thresholds", [-0.1]),
        ["benchmark.thresholds: [-0.1]", LIST],
    ),
    "unknown key of the benchmark": (
        "benchmark",
        put("benchmark.repeats", 3),
        ["benchmark: unknown key repeats", "drop_points, samples, rounds"],
    ),
    "nothing to time": ("benchmark", put("benchmark.samples", 0), ["benchmark.samples: 0", "1 or more"]),
    "words for threads": (
        "benchmark",
        put("benchmark.threads", "all"),
        ["benchmark.threads: 'all'", "a whole number, 1 to 1024; or default"],
    ),
    "a drop that is no target": (
        "plan",
        put("benchmark.drop_points", 2),
        ["params.yaml: benchmark.drop_points: 2", "one of entropy_sweep.targets (0, 0.5, 1, 3)"],
    ),
    "targets without the one that is timed": (
        "plan",
        put("entropy_sweep.targets", [0.5, 2]),
        ["params.yaml: benchmark.drop_points: 1", "one of entropy_sweep.targets (0.5, 2)"],
    ),
    "seed below 0": ("finetune_backbone", put("seed", -1), ["seed: -1", "a whole number, 0 to 4294967295"]),
    "seed too large": ("finetune_backbone", put("seed", 2**32), ["seed: 4294967296", "0 to 4294967295"]),
    "epochs below 0": (
        "finetune_backbone",
        put("finetune_backbone.epochs", -1),
        ["finetune_backbone.epochs: -1", "0 or more"],
    ),
    "no epochs for a model that is made from nothing": (
        "finetune_backbone",
        several(put("finetune_backbone.epochs", 0), start_from("toy-bert")),
        ["finetune_backbone.epochs: 0", "model toy-bert is made from nothing"],
    ),
    "no epochs for a classifier of other labels": (
        "finetune_backbone",
        put("finetune_backbone.epochs", 0),
        ["finetune_backbone.epochs: 0", "model ./start", "LABEL_0, LABEL_1", "no, yes"],
    ),
    "empty batches": ("finetune_backbone", put("finetune_backbone.batch_size", 0), ["batch_size: 0", "1 to 1000000"]),
    "unknown precision": (
        "finetune_backbone",
        put("finetune_backbone.precision", "fp16"),
        ["finetune_backbone.precision: 'fp16'", "auto, fp32, bf16"],
    ),
    "toy-bert on GLUE": (
        "plan",
        several(put("dataset", "RTE"), put("model", "toy-bert")),
        ["model: toy-bert", "dataset toy", "RTE"],
    ),
    "broken YAML": ("download_glue", write("params.yaml", b"dataset: [toy\n"), ["params.yaml: not readable as YAML"]),
    "YAML that is no mapping": ("plan", write("params.yaml", b"toy\n"), ["expected the keys " + TOP, "'toy'"]),
    "another stage's mistake is told first": (
        "plan",
        put("benchmark.samples", 0),
        ["benchmark.samples: 0", "1 or more"],
    ),
    "no params.yaml": ("plan", remove("params.yaml"), ["params.yaml: no such file"]),
    # The folder that download_glue.source names
    "no source folder": (
        "download_glue",
        several(put("dataset", "RTE"), put("download_glue.source", "nowhere")),
        ["download_glue.source: nowhere", "hub or a folder"],
    ),
    "no task folder": (
        "download_glue",
        several(classic(), remove("GLUE/RTE")),
        ["source: GLUE", "holds no folder RTE"],
    ),
    "no dev.tsv": ("download_glue", classic("dev.tsv"), ["GLUE/RTE/dev.tsv: no such file", "validation"]),
    "no column": (
        "download_glue",
        classic("dev.tsv", b"index\tsentence1\tlabel\n0\ta\tentailment\n"),
        ["GLUE/RTE/dev.tsv: has no column sentence2", "index, sentence1, label"],
    ),
    "unknown label": (
        "download_glue",
        classic("train.tsv", RTE["train.tsv"].replace("not_", "un_").encode()),
        ["GLUE/RTE/train.tsv: line 3", "'un_entailment'", "entailment, not_entailment"],
    ),
    "empty split": (
        "download_glue",
        classic("dev.tsv", b"index\tsentence1\tsentence2\tlabel\n"),
        ["GLUE/RTE/dev.tsv: has no rows"],
    ),
    "a name too long for a folder": (
        "download_glue",
        several(classic(), put("download_glue.source", "x" * 300)),
        ["xxx: File name too long"],
    ),
    "broken UTF-8": (
        "download_glue",
        classic("train.tsv", RTE["train.tsv"].encode().replace(b"b c", b"b \xe9")),
        ["GLUE/RTE/train.tsv: line 3: not UTF-8"],
    ),
    # Data of one's own
    "no own data": ("download_glue", put("dataset", "./mine"), ["dataset: mine: no such folder or file", "train.csv"]),
    "a data set of the Hub without a revision": (
        "plan",
        put("dataset", "hub:owner/name"),
        ["dataset: 'hub:owner/name'", "hub:owner/name@revision"],
    ),
    "no train file": ("download_glue", own("dev.csv", OWN), ["mine: has no train file", ".csv, .tsv", "found dev.csv"]),
    "unknown ending": ("download_glue", own("train.xlsx", OWN), ["train.xlsx: unknown ending", ".jsonl or .parquet"]),
    "empty own file": ("download_glue", own(), ["mine/train.csv: has no rows; it is empty"]),
    "no own text column": (
        "download_glue",
        own(content=OWN.replace(b"text", b"words")),
        ["mine/train.csv: has no column for the text; found words, label", "download_glue.columns.text", "sentence"],
    ),
    "no own label column": (
        "download_glue",
        several(own(content=OWN), put("download_glue.columns", {"text": "text", "pair": "default", "label": "kind"})),
        ["mine/train.csv: has no column kind; found text, label"],
    ),
    "one class only": ("download_glue", own(content=b"text,label\na,x\nb,x\n"), ["one class only (x)", "two or more"]),
    "labels of two kinds": ("download_glue", own(content=OWN + b"e,1\n"), ["mixes numbers and words (1 and x)"]),
    "a label that train lacks": (
        "download_glue",
        own(content=OWN, dev=b"text,label\ne,z\n"),
        ["mine/dev.csv: line 2: label 'z' is in validation and not in train", "expected x, y"],
    ),
    "a file that is no text": (
        "download_glue",
        own(content=OWN + b"\0,x\n"),
        ["train.csv: line 6", "no text", "UTF-8"],
    ),
    "own data not UTF-8": ("download_glue", own(content=OWN + b"\xe9,x\n"), ["mine/train.csv: line 6: not UTF-8"]),
    "a row with a comma too many": (
        "download_glue",
        own(content=OWN + b"e, f,x\n"),
        ["mine/train.csv: line 6: 3 fields; expected 2", "double quotes"],
    ),
    "a metric for a known task": (
        "download_glue",
        several(classic(), put("download_glue.metric", "macro_f1")),
        ["download_glue.metric: 'macro_f1'", "RTE has its own", "default"],
    ),
    "F1 of more than two classes": (
        "download_glue",
        several(own(content=OWN + b"e,z\n"), put("download_glue.metric", "f1")),
        ["download_glue.metric: 'f1' is not allowed with 3 classes", "macro_f1"],
    ),
    "unknown class weights": (
        "finetune_backbone",
        put("finetune_backbone.class_weights", "sqrt"),
        ["finetune_backbone.class_weights: 'sqrt'", "none, balanced"],
    ),
    # The model to start from
    "inputs longer than the model reads": (
        "finetune_backbone",
        put("finetune_backbone.max_length", 41),
        ["finetune_backbone.max_length: 41", "at most 40 tokens"],
    ),
    "no model folder": ("plan", put("model", "./nowhere"), ["model: './nowhere'", "no config.json"]),
    "no config.json": ("plan", remove("start/config.json"), ["model: './start'", "no config.json"]),
    "config.json cut": ("plan", halve("start/config.json"), ["model ./start", "config.json"]),
    "unsupported family": (
        "plan",
        config(model_type="gpt2"),
        ["model ./start: gpt2 is not supported", "bert, camembert, deberta-v2, distilbert"],
    ),
    "weights cut": ("plan", halve("start/model.safetensors"), ["model ./start: cannot be loaded"]),
    "weights cut after the plan": (
        "finetune_backbone",
        halve("start/model.safetensors"),
        ["model ./start: its files are not those that `plan` has seen", "dvc repro -f plan"],
    ),
    "weights pickled": ("plan", pickle_weights, ["model: './start'", "no model.safetensors", "pickled"]),
    "no weights": (
        "plan",
        remove("start/model.safetensors"),
        ["model: './start'", "no model.safetensors"],
    ),
    "some weights missing": (
        "finetune_backbone",
        planned(config(num_hidden_layers=4)),
        ["model ./start: damaged checkpoint", "weights are missing"],
    ),
    "no tokenizer": (
        "finetune_backbone",
        planned(remove("start/tokenizer.json")),
        ["model ./start: no tokenizer there", "tokenizer.json, vocab.txt"],
    ),
    "loss that is not finite": (
        "finetune_backbone",
        put("finetune_backbone.learning_rate", 1e30),
        ["finetune_backbone", "not finite", "learning_rate"],
    ),
    # What an earlier stage wrote
    "no start": ("finetune_backbone", remove("data/start.json"), ["data/start.json: no such file", "dvc repro"]),
    "start cut": ("finetune_backbone", halve("data/start.json"), ["data/start.json: not readable as JSON"]),
    "start of another kind": (
        "finetune_backbone",
        write("data/start.json", b"[]"),
        ["data/start.json: expected the keys model, kind", "dvc repro plan"],
    ),
    "no data": ("finetune_backbone", remove("data/glue"), ["data/glue/task.json: no such file", "dvc repro"]),
    "task.json cut": ("train_ramps", halve("data/glue/task.json"), ["data/glue/task.json: not readable as JSON"]),
    "parquet cut": (
        "train_ramps",
        halve("data/glue/train.parquet"),
        ["data/glue/train.parquet: not readable as parquet"],
    ),
    "parquet with fewer rows": ("finetune_backbone", lose_rows, ["data/glue/train.parquet: 3 rows", "32 rows"]),
    "no backbone": ("train_ramps", remove("models/backbone"), ["models/backbone: no model here", "dvc repro"]),
    "backbone cut": ("train_ramps", halve("models/backbone/model.safetensors"), ["models/backbone: cannot be loaded"]),
    "a weight of the backbone missing": (
        "train_ramps",
        without_a_weight("models/backbone/model.safetensors"),
        ["models/backbone: damaged", "1 weights are missing"],
    ),
    "no ramps": (
        "eval_layers",
        remove("models/deebert/ramps.safetensors"),
        ["a model without ramps (ramps.safetensors is missing); `dvc repro` makes one"],
    ),
    "ramps cut": ("eval_layers", halve("models/deebert/ramps.safetensors"), ["ramps.safetensors: cannot be loaded"]),
    "ramps of another model": ("eval_layers", ramps_of_another_model, ["ramps.safetensors: cannot be loaded", "size"]),
    "no logits": ("entropy_sweep", remove("data/logits"), ["data/logits/about.json: no such file", "dvc repro"]),
    "logits cut": (
        "entropy_sweep",
        halve("data/logits/validation.safetensors"),
        ["data/logits/validation.safetensors: not readable as saved logits"],
    ),
    "about.json cut": ("plot", halve("data/logits/about.json"), ["data/logits/about.json: not readable as JSON"]),
    "no sweep": ("plot", remove("data/sweep"), ["data/sweep/sweep.json: no such file", "dvc repro"]),
    "sweep cut": ("plot", halve("data/sweep/exits.json"), ["data/sweep/exits.json: not readable as JSON"]),
    "nothing chosen": (
        "benchmark",
        remove("data/sweep/recommended.json"),
        ["data/sweep/recommended.json: no such file"],
    ),
    "choice cut": (
        "benchmark",
        halve("data/sweep/recommended.json"),
        ["data/sweep/recommended.json: not readable as JSON"],
    ),
    "no data to time": ("benchmark", remove("data/glue"), ["data/glue/task.json: no such file", "dvc repro"]),
    "no validation split to time": (
        "benchmark",
        remove("data/glue/validation.parquet"),
        ["data/glue/validation.parquet: no such file"],
    ),
    "no model to time": ("benchmark", remove("models/deebert"), ["models/deebert: no model here", "dvc repro"]),
    "ramps to time cut": ("benchmark", halve("models/deebert/ramps.safetensors"), ["ramps.safetensors: cannot be"]),
    "ramps to time of another model": ("benchmark", ramps_of_another_model, ["ramps.safetensors: cannot be", "size"]),
    "a model that says nothing of itself": (
        "benchmark",
        remove("models/deebert/training.json"),
        ["models/deebert/training.json: no such file", "dvc repro"],
    ),
    # Where the output goes
    "a file for the folder of the data": (
        "download_glue",
        several(classic(), take_the_place_of("data")),
        ["data/glue: cannot be written"],
    ),
    "a file for the folder of the plan": ("plan", take_the_place_of("data"), ["data/start.json: cannot be written"]),
    "a file for the folder of the backbone": (
        "finetune_backbone",
        take_the_place_of("models"),
        ["models/backbone: cannot be written"],
    ),
    "a file for the folder of the ramps": (
        "train_ramps",
        take_the_place_of("models/deebert"),
        ["models/deebert: cannot be written"],
    ),
    "a file for the folder of the metrics": (
        "entropy_sweep",
        take_the_place_of("metrics"),
        ["metrics/sweep.json: cannot be written"],
    ),
    "smaller models cut": (
        "plot",
        halve("baselines/smaller_models.json"),
        ["baselines/smaller_models.json: not readable as JSON"],
    ),
    "a smaller model without a score": (
        "plot",
        write("baselines/smaller_models.json", b'[{"task": "toy"}]'),
        ["baselines/smaller_models.json: row 1: expected the keys task, whole", "score", "found task"],
    ),
    "a file for the folder of the plots": ("plot", take_the_place_of("plots"), ["cannot be written", "plots"]),
    "a file for the folder of the times": (
        "benchmark",
        take_the_place_of("plots"),
        ["plots/benchmark.json: cannot be written"],
    ),
}


@pytest.mark.parametrize(("name", "spoil", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_touches_nothing(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    spoil: Callable[[], object],
    told: list[str],
) -> None:
    """The stage ends with status 1 and a line that names what is wrong and what is allowed; every file is as it was."""
    spoil()
    before = snapshot(project)
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run_stage(name, monkeypatch)
    assert caught.value.code == 1
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ") and stderr.count("\n") == 1, stderr
    assert [part for part in told if part not in stderr] == [], stderr
    assert snapshot(project) == before


def test_there_are_enough_of_them() -> None:
    """Every stage of the pipeline that reads something has mistakes of its own."""
    assert {name for name, _, _ in MISTAKES.values()} >= set(TRAINED) | {"download_glue"}


@pytest.mark.parametrize("name", ["download_glue", *TRAINED])
def test_the_good_project_runs(project: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What is left unspoilt runs, and writes the same bytes once more; of what is timed, the same rows and keys."""
    if name == "download_glue":
        classic()()
    before = snapshot(project)
    run_stage(name, monkeypatch)
    after = snapshot(project)
    if name == "download_glue":
        assert DataSet.load(project / "data" / "glue").task.name == "RTE"
    else:
        differing = {path for path in before | after if before.get(path) != after.get(path)}
        assert differing <= (TIMED if name == "benchmark" else set())


@pytest.mark.usefixtures("project")
def test_a_precision_that_cannot_be_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """int8 needs a CPU of some kind. The training does not; the stage after it would have said so."""
    put("precision", "int8")()
    run_stage("plan", monkeypatch)
    monkeypatch.setattr(precisions, "multiplies", lambda *_: False)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        run_stage("plan", monkeypatch)
    assert ended.value.code == 1 and capsys.readouterr().err.startswith("error: precision: int8 needs a CPU with AVX2")


@pytest.mark.usefixtures("project")
def test_an_objective_without_a_part_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """All epochs may be for full depth, as those of the embedded example are."""
    told = "finetune_backbone.objective: alternating has no part in the training of "
    caplog.set_level(logging.INFO)
    for objective, share, is_told in (
        ("alternating", 1, True),
        ("full_depth", 1, False),
        ("alternating", 0.5, False),
    ):
        put("finetune_backbone.objective", objective)()
        put("finetune_backbone.full_depth_frac", share)()
        caplog.clear()
        run_stage("plan", monkeypatch)
        assert (told in caplog.text) == is_told


def test_the_benchmark_is_of_the_threshold_that_the_sweep_recommends(project: Path) -> None:
    """Its metrics are of the target drop_points, its rows of the listed thresholds as well, once each."""
    settings = yaml.safe_load(Path("params.yaml").read_text())["benchmark"]
    rows = json.loads(Path("data/sweep/recommended.json").read_text())
    metrics = json.loads(Path("metrics/benchmark.json").read_text())
    (recommended,) = [row["threshold"] for row in rows if row["target_drop_points"] == settings["drop_points"]]
    assert (metrics["threshold"], metrics["n"], metrics["threads"]) == (recommended, 8, 1)
    rows = json.loads(Path("plots/benchmark.json").read_text())
    assert settings["thresholds"] == "default"
    timed = sorted({0.0, 1e-36, 0.05, 0.2, 0.6, recommended})
    assert [(row["mode"], row["threshold"]) for row in rows] == [
        (mode, threshold) for mode in ("batch_1", "batched") for threshold in (None, *timed)
    ]


@pytest.mark.parametrize("arguments", [[], ["data/glue", "more"]])
def test_wrong_arguments_give_the_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """A script called with too few or too many paths names the ones it wants and ends with status 2."""
    monkeypatch.setitem(STAGES, "download_glue", arguments)
    with pytest.raises(SystemExit) as caught:
        run_stage("download_glue", monkeypatch)
    assert caught.value.code == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("usage: python ") and stderr.endswith("download_glue.py OUT\n")


def test_how_a_stage_ends(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A user's mistake is one line even if its text has more, Ctrl-C ends with 130, and a fault of ours is raised.

    SIGTERM is what it was before.
    """

    def raise_(error: BaseException) -> Callable[[], None]:
        def main() -> None:
            raise error

        return main

    monkeypatch.setattr("sys.argv", ["stage.py"])
    before = signal.getsignal(signal.SIGTERM)
    for error, code, line in (
        (UserError("one\ntwo"), 1, "error: one two\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C; no output is half-written\n"),
        (KeyboardInterrupt("train: stopped"), 130, "train: stopped\n"),
    ):
        with pytest.raises(SystemExit) as caught:
            stage.run(raise_(error))
        assert (caught.value.code, capsys.readouterr().err) == (code, line)
    with pytest.raises(ZeroDivisionError):
        stage.run(raise_(ZeroDivisionError()))
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 1, "error: stopped by SIGTERM; no output is half-written"),
        (signal.SIGHUP, 1, "error: stopped by SIGHUP; no output is half-written"),
        (signal.SIGINT, 130, "stopped by Ctrl-C; no output is half-written"),
    ],
)
def test_told_to_stop(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    number: int,
    code: int,
    line: str,
) -> None:
    """A stage that is told to stop when it is about to write ends with one line, and every file is as it was."""
    monkeypatch.setattr(files, "_remove_leftovers", lambda _: os.kill(os.getpid(), number))
    before = snapshot(project)
    capsys.readouterr()
    mine = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
    terminal = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as one that was started by nohup has
    try:
        with pytest.raises(SystemExit) as caught:
            run_stage(name, monkeypatch)
    finally:
        signal.signal(signal.SIGINT, mine)
        signal.signal(signal.SIGHUP, terminal)
    assert (caught.value.code, capsys.readouterr().err.splitlines()[-1]) == (code, line)
    assert snapshot(project) == before


# Signals are ignored where a shell or nohup runs the tests in the background, and that is handed down.
HEEDING = "import signal; signal.signal(2, signal.default_int_handler); signal.signal(1, signal.SIG_DFL)"
PATIENT_STAGE = """
import sys, time
from pathlib import Path
from deebert.base.files import output_dir
from deebert.base.stage import run

def main(out: Path) -> None:
    with output_dir(out) as folder:
        (folder / "half").write_text("half")
        print("ready", flush=True)
        time.sleep(60)

run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130), (signal.SIGHUP, 1)])
def test_a_process_that_is_told_to_stop(tmp_path: Path, number: int, code: int) -> None:
    """Told so while it waits in the midst of its output, a process ends at once, with one line and nothing left.

    It makes no difference if it is told twice, as a shell does of a terminal that is closed.
    """
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "whole").write_text("whole")
    process = subprocess.Popen(
        [sys.executable, "-c", f"{HEEDING}\n{PATIENT_STAGE}", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    if number == signal.SIGHUP:
        process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert told.count("\n") == 1 and re.search("stopped by (SIGTERM|Ctrl-C|SIGHUP); no output is half-written", told)
    assert snapshot(tmp_path) == {"out": None, "out/whole": b"whole"}
