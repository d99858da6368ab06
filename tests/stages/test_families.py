"""Every family of encoders goes through all stages, and comes out with the answers that transformers gives."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deebert.analysis.logits import SplitLogits
from deebert.base.files import read_json, write_json
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.inference.engine import Engine
from deebert.model import DeeBert
from tests import tiny
from tests.stages.running import ROOT, run_stage

KEPT = ("plan", "finetune_backbone", "train_ramps", "eval_layers", "entropy_sweep", "plot")
STAGES = ("plan", "finetune_backbone", "train_ramps", "eval_layers", "entropy_sweep", "benchmark")


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What transformers says that a user can do nothing about."""
    told: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logging.getLogger("transformers").addHandler(handler)
    yield told
    logging.getLogger("transformers").removeHandler(handler)


@pytest.mark.parametrize("family", [family for family in tiny.EVERY_FAMILY if family != "bert"])
def test_a_family_goes_through_all_stages(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """It is fine-tuned, its frozen backbone gets ramps, and the last layer's saved logits are transformers' own."""
    monkeypatch.chdir(tmp_path)
    write_project(family)
    for stage in STAGES:
        run_stage(stage, monkeypatch)

    assert {row["split"] for row in read_json(Path("data/finetune.json"))} == {"train", "validation"}
    trained = Path("models/backbone/model.safetensors").read_bytes()
    assert trained == Path("models/deebert/model.safetensors").read_bytes()
    assert trained != Path("start/model.safetensors").read_bytes()
    check_last_layer(family)
    assert read_json(Path("metrics/benchmark.json"))["n"] == 4
    assert warnings == []


def test_a_trained_classifier_gets_ramps_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0 epochs of fine-tuning the stages keep its weights to the byte, train ramps, and plot what there is."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "baselines", "baselines")
    write_project("bert", epochs=0, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1})
    for stage in KEPT:
        run_stage(stage, monkeypatch)

    given = Path("start/model.safetensors").read_bytes()
    assert all(given == Path(f"models/{name}/model.safetensors").read_bytes() for name in ("backbone", "deebert"))
    assert read_json(Path("plots/finetune.json")) == [] and len(read_json(Path("plots/ramps.json"))) > 0
    about = read_json(Path("models/deebert/training.json"))
    assert (about["model"], about["labels_in_source"], about["task"]) == ("start", ["no", "yes"], "tiny")
    assert Path("plots/tradeoff.svg").is_file()
    check_last_layer("bert")


def test_what_is_deployed_is_what_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8 the ramps learn from int8 states, and logits and times are int8's: all by what train_ramps recorded.

    The backbone is the same bytes in either precision. Later stages do not read the parameter: they have the record.
    """
    monkeypatch.chdir(tmp_path)
    write_project("bert", precision="int8")
    for stage in STAGES[:3]:
        run_stage(stage, monkeypatch)
    assert read_json(Path("models/deebert/ramps.json"))["precision"] == "int8"
    set_param("precision", "fp32")
    for stage in STAGES[3:]:
        run_stage(stage, monkeypatch)
    assert read_json(Path("metrics/benchmark.json"))["precision"] == "int8"
    model, tokenizer = DeeBert.load(Path("models/deebert"))
    sentences = DataSet.load(Path("data/glue")).validation
    expected = Engine(model, "int8").all_logits(encode(tokenizer, sentences, ("sentence",)))
    saved = SplitLogits.load(Path("data/logits/validation.safetensors")).logits
    np.testing.assert_array_equal(saved, expected)

    made = {name: Path(f"models/deebert/{name}.safetensors").read_bytes() for name in ("model", "ramps")}
    for stage in STAGES[1:3]:
        run_stage(stage, monkeypatch)
    again = {name: Path(f"models/deebert/{name}.safetensors").read_bytes() for name in ("model", "ramps")}
    assert read_json(Path("models/deebert/ramps.json"))["precision"] == "fp32"
    assert made["model"] == again["model"] and made["ramps"] != again["ramps"]


def set_param(key: str, value: Any) -> None:
    content = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(yaml.safe_dump(content | {key: value}))


def write_project(family: str, epochs: int = 1, precision: str = "fp32", **model: Any) -> None:
    """Parameters, data and a model of `family` to start from, in the current folder."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content |= {"model": "./start", "precision": precision}
    content["finetune_backbone"] |= {"epochs": epochs, "max_length": 24, "batch_size": 8, "precision": "fp32"}
    content["train_ramps"] |= {"epochs": 1}
    content["entropy_sweep"] |= {"grid_points": 10}
    content["benchmark"] |= {"samples": 4, "rounds": 1, "threads": 1, "thresholds": [0.3]}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    Path("data/glue").mkdir(parents=True)
    tiny.data(sizes=(16, 16, 16)).save(Path("data/glue"))
    tiny.write_model(Path("start"), family, **model)


def check_last_layer(family: str) -> None:
    """The last layer's saved logits are those of transformers' own forward of the saved model."""
    model = AutoModelForSequenceClassification.from_pretrained("models/deebert").eval()
    tokenizer = AutoTokenizer.from_pretrained("models/deebert")
    sentences = DataSet.load(Path("data/glue")).validation["sentence"].tolist()
    told = tokenizer(sentences, padding=True, return_tensors="pt")
    if family not in tiny.TYPED:
        del told["token_type_ids"]
    with torch.inference_mode():
        expected = model(**told).logits.numpy()
    saved = SplitLogits.load(Path("data/logits/validation.safetensors")).logits
    assert expected.std() > 0.05
    np.testing.assert_allclose(saved[:, -1], expected, atol=1e-4)


def weights() -> dict[str, bytes]:
    return {name: Path(f"models/deebert/{name}.safetensors").read_bytes() for name in ("model", "ramps")}


@pytest.mark.parametrize("kind", ["pooler", "linear"])
def test_validation_has_no_part_in_the_weights(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other validation samples fine-tuning and ramps give the same bytes, with other train samples others."""
    monkeypatch.chdir(tmp_path)
    write_project("bert")
    import yaml

    content = yaml.safe_load(Path("params.yaml").read_text())
    content["train_ramps"]["ramp"] = kind
    Path("params.yaml").write_text(yaml.safe_dump(content))
    made = []
    data = DataSet.load(Path("data/glue"))
    tables = {split: data[split] for split in data.sizes}
    other = tiny.samples(16, seed=9)
    for changed in ({}, {"validation": other}, {"train": other}):
        DataSet.of(data.task, tables | changed).save(Path("data/glue"))
        for stage in ("plan", "finetune_backbone", "train_ramps"):
            run_stage(stage, monkeypatch)
        made.append(weights())
    assert made[0] == made[1]
    assert all(made[0][name] != made[2][name] for name in made[0])


def test_the_seed_reaches_both_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another seed gives another backbone and, on the same backbone, other ramps."""
    monkeypatch.chdir(tmp_path)
    write_project("bert")
    for stage in ("plan", "finetune_backbone", "train_ramps"):
        run_stage(stage, monkeypatch)
    first = weights()
    set_param("seed", 7)
    run_stage("train_ramps", monkeypatch)
    again = weights()
    assert again["model"] == first["model"] and again["ramps"] != first["ramps"]
    run_stage("finetune_backbone", monkeypatch)
    assert Path("models/backbone/model.safetensors").read_bytes() != first["model"]


def test_the_seed_is_told_and_draws_the_fresh_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With next to no learning the heads of two seeds differ; the record says which seed it was."""
    import yaml
    from safetensors.numpy import load_file

    monkeypatch.chdir(tmp_path)
    write_project("bert")
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["finetune_backbone"]["learning_rate"] = 1e-9
    Path("params.yaml").write_text(yaml.safe_dump(content))
    heads = []
    for seed in (1, 2):
        set_param("seed", seed)
        for stage in ("plan", "finetune_backbone"):
            run_stage(stage, monkeypatch)
        assert read_json(Path("models/backbone/training.json"))["seed"] == seed
        heads.append(load_file("models/backbone/model.safetensors")["classifier.weight"])
    assert np.abs(heads[0] - heads[1]).max() > 0.01


def test_a_classifier_that_stays_needs_unseen_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """At 0 epochs on own data a line says so, before anything is done; and of no other run."""
    monkeypatch.chdir(tmp_path)
    write_project("bert")
    for dataset, epochs, count in (("./own", 0, 1), ("./own", 1, 0), ("RTE", 0, 0)):
        content = yaml.safe_load(Path("params.yaml").read_text()) | {"dataset": dataset}
        content["finetune_backbone"]["epochs"] = epochs
        Path("params.yaml").write_text(yaml.safe_dump(content))
        caplog.clear()
        run_stage("plan", monkeypatch)
        assert caplog.text.count("validation has to be a file that it was not trained on") == count


def test_a_head_that_has_not_learned_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a ramp is far ahead of full depth, the sweep says so: what loses nothing against it may be bad."""
    monkeypatch.chdir(tmp_path)
    write_project("bert")
    labels = np.arange(200) % 2
    logits = np.zeros((200, 3, 2), np.float32)
    logits[np.arange(200), 1, labels] = 1.0
    logits[np.arange(40), 2, labels[:40]] = 1.0  # and of the others half are right
    about = {"task": "toy", "model": "m", "num_layers": 3, "metric": "accuracy", "splits": ["validation"]}
    about |= {"test_splits": [], "n": {"validation": 200}}
    for given, told in ((logits, True), (logits[:, [1, 1, 1]], False)):
        Path("data/logits").mkdir(exist_ok=True)
        SplitLogits(given, labels, np.arange(200), np.full(200, 5), None).save(
            Path("data/logits/validation.safetensors")
        )
        write_json(Path("data/logits/about.json"), about)
        caplog.clear()
        run_stage("entropy_sweep", monkeypatch)
        assert ("validation: the ramp after layer 2 scores 100.0 %, full depth 60.0 %; " in caplog.text) == told
