"""The scripts that measure speed fit the code that they measure; what they measure is no test's business."""

import json
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
TINY = ["--size", "tiny", "--samples", "4"]
RUNS = {
    "early_exit": [*TINY, "--rounds", "1", "--single", "2", "--precision", "fp32"],
    "training": [*TINY, "--rounds", "1", "--steps", "1", "--states", "64", "--precision", "fp32"],
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
