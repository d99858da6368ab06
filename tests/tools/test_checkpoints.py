"""`make checkpoints` shows what broken-off trainings go on from, and clears it when told to."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import torch

from deebert.base.errors import UserError
from deebert.training.checkpoints import FOLDER_VARIABLE, Checkpoints

TOOL = Path(__file__).parents[2] / "tools" / "checkpoints.py"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with the states of two trainings that were broken off."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "states"))
    for step, key in enumerate(("ab", "cd"), start=7):
        with pytest.raises(UserError), Checkpoints(tmp_path / "states" / "finetune_backbone") as checkpoints:
            checkpoints.open(key)
            checkpoints.save(step, {"weight": torch.zeros(300_000)}, {})
            raise UserError("broken off")
    return tmp_path / "states"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [str(TOOL), *arguments])
    runpy.run_path(str(TOOL), run_name="__main__")


def test_show_and_clear(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each with stage, step, size and age; then the one whose key begins so goes, then all."""
    run(monkeypatch)
    first, second, total = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"ab  finetune_backbone  step 7  1\.2 MB  \d+ s old  broken off", first)
    assert second.startswith("cd  finetune_backbone  step 8") and total == f"2 in {folder}, 2.4 MB"
    run(monkeypatch, "--clear", "a")
    assert capsys.readouterr().out.startswith("removed: ab ")
    with pytest.raises(SystemExit, match=r"^1$"):
        run(monkeypatch, "--clear", "a")
    assert re.match(r"error: CLEAR: 'a' begins no key", capsys.readouterr().err)
    run(monkeypatch, "--clear", "all")
    assert not folder.exists()
    run(monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == f"0 in {folder}, 0.0 MB"
