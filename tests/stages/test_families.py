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
from deebert.base.files import read_json
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
