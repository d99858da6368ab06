"""What people do to a project's folder: a run undone, git that comes later, another name, a larger repository.

A small project with the Makefile of this one stands in for it; DVC, git and make are real.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from dvc.cli import main as dvc_main

from deebert.reports import experiments

ROOT = Path(__file__).parents[2]
VENV = Path(sys.executable).parents[1]
PIPELINE = """
stages:
  plot:
    cmd: cp params.yaml metrics/sweep.json && cp params.yaml model
    deps: [params.yaml]
    outs: [model]
    metrics: [metrics/sweep.json: {cache: false}]
"""
TIMEOUT_S = 120

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:_NoneStep:DeprecationWarning")]  # DVC's own


def git(folder: Path, *arguments: str) -> str:
    who = [word for key in ("user.name", "user.email") for word in ("-c", f"{key}=tests")]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def dvc(folder: Path, *arguments: str) -> None:
    """Run DVC in this process, where it is imported once."""
    with contextlib.chdir(folder):
        assert dvc_main([*arguments, "--quiet"]) == 0


def make(folder: Path, target: str, expect_failure: bool = False) -> str:
    """Run `make` with what it installs taken as installed; return what it prints."""
    done = subprocess.run(["make", target], cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.returncode != 0) == expect_failure, done.stdout + done.stderr
    return done.stdout + done.stderr


def write(folder: Path) -> Path:
    """The project's files, with an environment whose scripts, as after a rename, cannot be run."""
    (folder / ".dvc").mkdir(parents=True)
    (folder / "metrics").mkdir()
    for name in ("Makefile", ".dvc/config"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / "params.yaml").write_text('{"task": "toy"}\n')
    (folder / ".gitignore").write_text("/model\n/.venv\n/.dvc/tmp\n/.dvc/cache\n/.dvc/config.local\n")
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{VENV}/bin/python" "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/bin/dvc").write_text("#!/the/former/name/.venv/bin/python\n")
    (folder / ".venv/bin/dvc").chmod(0o755)
    for name in ("requirements-report.txt", "requirements.txt", "requirements-dev.txt"):
        (folder / name).touch()
    for name in ("for-report", "for-repro", "for-tests"):
        (folder / ".venv" / name).touch()
    return folder


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "tests")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "tests@tests")
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site_cache"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    yield


def committed(folder: Path, top: Path) -> Path:
    """The project, run and committed in the git repository `top`."""
    git(top, "init", "--quiet", "--initial-branch=main")
    dvc(folder, "repro")
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message=First run")
    return folder


def content(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in ("params.yaml", "dvc.lock", "model", "metrics/sweep.json")}


def test_the_way_back_leads_to_one_run(tmp_path: Path) -> None:
    """After a run that succeeded and one that failed, what docs/runs.md says brings back the last commit and its model.

    DVC has staged the lock file of the run that succeeded, so git has two to choose from. And git looks at a file's
    size and second. DVC puts the file back before it writes a new value. If both are done in one second, a value as
    long as the one before is unchanged to git.
    """
    page = (ROOT / "docs/runs.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"## Back to the last good run.*?```\n(.*?)\n```", page, re.DOTALL)
    touch, undo, fetch = line.split(" && ")
    project = committed(write(tmp_path / "project"), tmp_path / "project")
    before = content(project)
    params = project / "params.yaml"
    git(project, "config", "core.trustctime", "false")  # all happens within a second
    for name in git(project, "ls-files").split():  # a commit is older than a second when its stages run again
        os.utime(project / name, (1e9, 1e9))
    git(project, "status")
    params.write_text('{"task": "RTE"}\n')
    os.utime(params, (1e9, 1e9))
    assert "params.yaml" not in git(project, "status", "--porcelain")
    dvc(project, "repro")
    assert "RTE" in content(project)["model"]
    assert "dvc.lock" in git(project, "diff", "--cached", "--name-only")
    (project / "model").unlink()

    assert touch == "touch params.yaml" and undo.startswith("git ") and fetch == "dvc checkout"
    params.touch()
    git(project, *undo.split()[1:])
    dvc(project, "checkout")
    assert content(project) == before
    assert git(project, "status", "--porcelain") == ""


def test_a_project_in_a_larger_repository(tmp_path: Path) -> None:
    """What the tools read of commits is found from the project's folder, wherever that is."""
    project = committed(write(tmp_path / "larger/below/project"), tmp_path / "larger")
    (project / "params.yaml").write_text('{"task": "RTE"}\n')
    with contextlib.chdir(project):
        (working_tree, commit) = experiments.revisions(experiments.show())
        assert (working_tree.revision, commit.name) == ("workspace", "main")
        assert experiments.file_of(commit.revision, "metrics/sweep.json") == '{"task": "toy"}\n'
        assert commit.metrics["metrics/sweep.json"] == {"task": "toy"}


def test_git_may_come_later_and_folders_get_another_name(tmp_path: Path) -> None:
    """`make` tells DVC that there is no git, and that there is; it needs no script that has the folder's old name."""
    project = write(tmp_path / "project")
    local = project / ".dvc/config.local"
    make(project, "repro")
    assert "no_scm = true" in local.read_text()
    assert (project / "model").read_text() == '{"task": "toy"}\n'
    git(project, "init", "--quiet")
    make(project, "repro")
    assert "no_scm" not in local.read_text()
    make(project, "lock-check")


def test_lock_check_tells_what_is_wrong(tmp_path: Path) -> None:
    """A lock file that is out of date is told as such, and DVC that cannot run is not."""
    project = write(tmp_path / "project")
    git(project, "init", "--quiet")
    told = make(project, "lock-check", expect_failure=True)
    assert "error: dvc.lock is out of date" in told and "Running stage 'plot'" in told
    (project / "dvc.yaml").write_text(PIPELINE.replace("deps: [params.yaml]", "deps: [params.yaml, not_here]"))
    told = make(project, "lock-check", expect_failure=True)
    assert "error: dvc.lock is out of date" in told and "failed to reproduce 'plot'" in told
    (project / "dvc.yaml").write_text("stages: [")
    told = make(project, "lock-check", expect_failure=True)
    assert "error: DVC cannot tell" in told and "out of date" not in told
