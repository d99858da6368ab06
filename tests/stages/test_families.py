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


def write_project(family: str, epochs: int = 1, **model: Any) -> None:
    """Parameters, data and a model of `family` to start from, in the current folder."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["model"] = "./start"
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
