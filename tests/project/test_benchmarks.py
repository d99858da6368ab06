"""The scripts that measure speed fit the code that they measure; what they measure is no test's business."""

import json
import sys
from pathlib import Path

import pytest

from tests import tiny

FOLDER = Path(__file__).parents[2] / "benchmarks"
TINY = ["--size", "tiny", "--samples", "4"]
PARTS = "finetuning,objectives,ramps"
RUNS = {
    "early_exit": [*TINY, "--rounds", "1", "--single", "2", "--precision", "fp32"],
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
