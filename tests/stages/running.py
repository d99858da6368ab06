"""Running a stage's real script in the current folder."""

import runpy
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).parents[2]
STAGES = {  # name -> arguments after the script, as the pipeline has them
    name: content["cmd"].split(f"stages/{name}.py")[1].split()
    for name, content in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"].items()
}


def run_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the stage's script in the current folder, as `python stages/<name>.py ...` does."""
    torch.set_num_threads(1)  # a stage may set them, and here the next one would inherit that
    script = str(ROOT / "stages" / f"{name}.py")
    monkeypatch.setattr("sys.argv", [script, *STAGES[name]])
    runpy.run_path(script, run_name="__main__")
