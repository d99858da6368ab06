"""Data of one's own are tracked by DVC where the documents say that they go."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_dvc_sees_what_lies_in_data_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Added and committed, data outlive `dvc checkout` and are pushed.

    Where `.gitignore` has `data/` with an exception, DVC passes over all of it, and `dvc checkout` removes the data.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_bytes((ROOT / ".gitignore").read_bytes())
    own = tmp_path / "data/own/mine/train.csv"
    own.parent.mkdir(parents=True)
    own.write_text("text,label\na,b\n")
    for path in ("data/glue/x", "data/logits/x", "data/sweep/x", "data/start.json", "models/x"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()

    def call(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def dvc(*arguments: str) -> str:
        return call(sys.executable, "-m", "dvc", *arguments)

    call("git", "init", "-q")
    dvc("init", "-q")
    dvc("config", "core.analytics", "false")
    dvc("add", "data/own/mine")
    dvc("remote", "add", "-d", "elsewhere", str(tmp_path.parent / f"{tmp_path.name}-remote"))
    call("git", "add", ".")
    call("git", "-c", "user.name=n", "-c", "user.email=n@example.org", "commit", "-q", "-m", "one")
    dvc("checkout")
    assert own.exists()
    assert "2 files pushed" in dvc("push")
    assert call("git", "ls-files", "data").split() == ["data/own/.gitignore", "data/own/mine.dvc"]
