"""The files for clusters and clouds do what they say: here with real git and bash, and stand-ins for the rest."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.training.checkpoints import FOLDER_VARIABLE

CLUSTER = Path(__file__).parents[2] / "cluster"
SLURM = CLUSTER / "slurm.sh"
SKY = CLUSTER / "sky.yaml"
TIMEOUT_S = 60

# `exp run` is as DVC: it takes no notice of Ctrl-C while its stage runs, and fails if the stage does.
DVC = rf"""#!/bin/bash
echo "$PWD: $*" >> "$CALLS"
case "$*" in
  *" cache dir") echo /the/cache ;;
  "exp run"*)
    echo "${FOLDER_VARIABLE} $OMP_NUM_THREADS" >> "$CALLS"
    [ -z "${{STAGE:-}}" ] || {{
      trap "" INT
      python3 -c "$STAGE" "$CALLS"
    }} ;;
esac
"""
# Ctrl-C is heard although DVC ignores it, because Python is told here to hear it.
STAGE = """
import signal, sys, time
def note(number, frame):
    time.sleep(0.5)
    print("stage: " + signal.Signals(number).name, file=open(sys.argv[1], "a"))
    sys.exit(1)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
print("stage: ready", file=open(sys.argv[1], "a"), flush=True)
time.sleep(60)
"""


def git(folder: Path, *arguments: str) -> str:
    who = [word for key in ("user.name", "user.email") for word in ("-c", f"{key}=tests")]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one commit, a change that is not committed, and a stand-in for DVC in its environment."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").touch()
    (folder / ".gitignore").write_text(".venv/\n.cache/\n")
    (folder / "file").write_text("committed")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=first")
    (folder / "file").write_text("not committed")
    script(folder / ".venv/bin/dvc", DVC)
    return folder


def slurm(project: Path, *arguments: str, task: str = "2", **variables: str) -> subprocess.Popen:
    """Start slurm.sh as SLURM does: a copy from elsewhere, in the folder of `sbatch`, which here is not the top."""
    folder = project / "folder"
    folder.mkdir(exist_ok=True)
    job = {"SLURM_SUBMIT_DIR": str(folder), "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": task}
    environment = {**os.environ, **job, "SLURM_CPUS_PER_TASK": "3", "CALLS": str(project.parent / "calls"), **variables}
    copy = shutil.copy(SLURM, project.parent / "slurm_script")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(["bash", copy, *arguments], cwd=folder, env=environment, **pipes)


def ended(process: subprocess.Popen) -> str:
    """What a process that must succeed has printed."""
    printed, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, printed
    return printed


def calls(project: Path) -> list[str]:
    path = project.parent / "calls"
    return path.read_text().splitlines() if path.exists() else []


def sky() -> dict[str, Any]:
    return yaml.safe_load(SKY.read_text())


@pytest.mark.parametrize("path", [SLURM, SKY], ids=lambda path: path.name)
def test_under_thirty_lines(path: Path) -> None:
    """Both are short enough to be read before they are trusted with a machine."""
    assert len(path.read_text().splitlines()) < 30


def test_array_is_all_tasks() -> None:
    """The array has a number for each task of GLUE and no other."""
    text = SLURM.read_text()
    tasks = re.search(r"^tasks=\((.*)\)$", text, re.MULTILINE)[1].split()
    assert sorted(tasks) == sorted(GLUE_TASKS)
    assert f"#SBATCH --array=0-{len(tasks) - 1}\n" in text


def test_options_precede_commands() -> None:
    """SLURM reads no option after the first command."""
    lines = SLURM.read_text().splitlines()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first_command:] if line.startswith("#SBATCH")]


def test_slurm_task(project: Path) -> None:
    """A task runs its experiment with the arguments of sbatch in a clone of the last commit, and hands it back."""
    clone = project / ".cache/slurm/RTE-17"
    ended(slurm(project, "-S", "model=/a  b", "-S", "seed=2"))
    assert calls(project) == [
        f"{clone}: --cd {project} cache dir",
        f"{clone}: cache dir --local /the/cache",
        f"{clone}: exp run --name RTE-17 --set-param dataset=RTE -S model=/a  b -S seed=2",
        f"{project}/.cache 3",
        f"{clone}: exp push --force --no-cache origin RTE-17",
    ]
    assert not clone.exists()


def test_slurm_in_a_larger_repository(project: Path) -> None:
    """Where the project is a folder of a larger repository, that is cloned, and the experiment runs in the folder."""
    shutil.rmtree(project / ".git")
    project = project.parent.rename(project.parent.with_name("larger")) / "project"
    git(project.parent, "init", "--quiet", "--initial-branch=main")
    git(project.parent, "add", ".")
    git(project.parent, "commit", "--quiet", "--message=first")
    ended(slurm(project))
    clone = project / ".cache/slurm/RTE-17"
    assert calls(project)[:3] == [
        f"{clone}/project: --cd {project} cache dir",
        f"{clone}/project: cache dir --local /the/cache",
        f"{clone}/project: exp run --name RTE-17 --set-param dataset=RTE",
    ]
    assert not clone.exists()
    assert sorted(path.name for path in project.parent.iterdir()) == [".git", "calls", "project", "slurm_script"]


def test_slurm_clone_is_of_the_commit(project: Path) -> None:
    """What is not committed does not run; a failed task leaves its clone to look at, and runs again in a new one."""
    clone = project / ".cache/slurm/SST-2-17"
    failed = slurm(project, task="0", STAGE="raise SystemExit(3)")
    failed.communicate(timeout=TIMEOUT_S)
    assert failed.returncode != 0
    assert (clone / "file").read_text() == "committed"
    assert not [call for call in calls(project) if "push" in call]
    (clone / "left").touch()
    ended(slurm(project, task="0"))
    assert not clone.exists()


def test_slurm_time_is_up(project: Path) -> None:
    """SLURM's signal to the script, sent before the time is up, is a Ctrl-C to the stage, which is waited for."""
    assert "#SBATCH --signal=B:TERM@" in SLURM.read_text()
    process = slurm(project, STAGE=STAGE)
    deadline = time.monotonic() + TIMEOUT_S
    while "stage: ready" not in calls(project):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=TIMEOUT_S) != 0
    assert calls(project)[-1] == "stage: SIGINT"


def test_slurm_suspended(project: Path) -> None:
    """A job that is stopped for a while, as `scontrol suspend` does, goes on to its end."""
    stop_dvc_for_a_while = "import os, time; os.kill(os.getppid(), 19); time.sleep(0.5); os.kill(os.getppid(), 18)"
    ended(slurm(project, STAGE=stop_dvc_for_a_while))
    assert "exp push" in calls(project)[-1]


def test_slurm_without_a_clone(project: Path) -> None:
    """A task that cannot make its clone does nothing, and above all not in the project itself."""
    (project / ".cache").touch()
    failed = slurm(project)
    failed.communicate(timeout=TIMEOUT_S)
    assert failed.returncode != 0
    assert calls(project) == []


def test_sky_variables() -> None:
    """Every variable that the commands use is declared, set by themselves, or the machine's."""
    task = sky()
    text = task["setup"] + task["run"]
    declared = {*task["envs"], *task["secrets"]}
    assert set(re.findall(r"\$\{?(\w+)", text)) == declared
    assert task["secrets"] == {"GITHUB_TOKEN": None}  # never in a file


@pytest.fixture
def machine(project: Path) -> dict[str, str]:
    """The environment of a new machine whose home is `project`'s neighbour, with stand-ins for uv, make and DVC."""
    home = project.parent / "home"
    (home / "sky_workdir").mkdir(parents=True)
    script(home / ".local/bin/uv", '#!/bin/bash\n[ "$2" != find ] || echo /the/python\n')
    script(home / "bin/make", '#!/bin/bash\nmkdir -p .venv/bin\ntouch .venv/bin/activate\necho "make $*" >> "$CALLS"\n')
    script(home / "bin/dvc", DVC)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
        **sky()["envs"],
        "HOME": str(home),
        "PATH": f"{home}/bin{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(project.parent / "calls"),
        "REPOSITORY": str(project),
        "GITHUB_TOKEN": "secret",
    }


def on(machine: dict[str, str], part: str) -> int:
    """The exit status of `setup` or `run` on a machine."""
    folder = Path(machine["HOME"]) / "sky_workdir"
    return subprocess.run(["bash", "-c", sky()[part]], cwd=folder, env=machine, timeout=TIMEOUT_S).returncode


def test_sky_commands(project: Path, machine: dict[str, str]) -> None:
    """A machine has a clone, an environment of uv's Python, cache and state in the bucket, and pushes the result."""
    machine["ARGS"] = "-S dataset=QNLI -S seed=2"
    assert [on(machine, part) for part in ("setup", "run")] == [0, 0]
    (bucket,) = sky()["file_mounts"]
    clone = project.parent / "home/sky_workdir/deebert"
    assert calls(project) == [
        "make setup PYTHON=/the/python",
        f"{clone}: cache dir --local {bucket}/cache",
        f"{clone}: exp run --name rte -S dataset=QNLI -S seed=2",
        f"{bucket}/checkpoints/rte 4",
        f"{clone}: exp push --force --no-cache origin rte",
    ]
    url = ["git", "ls-remote", "--get-url", "https://github.com/you/deebert"]
    rewritten = subprocess.run(url, cwd=clone, env=machine, capture_output=True, text=True, check=True).stdout
    assert rewritten.strip() == "https://x-access-token:secret@github.com/you/deebert"


def test_sky_failures(project: Path, machine: dict[str, str]) -> None:
    """A repository that is not there, an environment that is not made and a stage that fails are told as failures."""
    assert on({**machine, "REPOSITORY": f"{project}-missing"}, "setup") != 0
    assert on(machine, "run") != 0
    assert calls(project) == []
    assert on(machine, "setup") == 0
    assert on({**machine, "STAGE": "raise SystemExit(3)"}, "run") != 0
    assert not [call for call in calls(project) if "push" in call]
