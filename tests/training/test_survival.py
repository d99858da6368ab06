"""Training survives what can happen to it: afterwards the next run ends with the bytes of an undisturbed one.

Each run is a process of its own that executes the stage's script in a folder like the project's. The kills come at
seeded random moments, a few of them here; DEEBERT_LONG=1 tries more.
"""

import dataclasses
import gc
import os
import random
import re
import resource
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from deebert.base.errors import UserError
from deebert.training.checkpoints import FOLDER_VARIABLE, KEPT_STATES, PAUSE_VARIABLE, Checkpoints, home
from deebert.training.kept import clear, kept
from deebert.training.launch import VARIABLE
from tests import tiny
from tests.disks import refuse_locks
from tests.forked import PROCESSES, ended, start_server, wait_for
from tests.starting import write_start

ROOT = Path(__file__).parents[2]
ARGUMENTS = {
    "finetune_backbone": ["data/glue", "data/start.json", "models/backbone", "data/finetune.json"],
    "train_ramps": ["data/glue", "models/backbone", "models/deebert", "data/ramps.json"],
}
STEPS = 44  # of fine-tuning, 8 an epoch
KILLS = 20 if os.environ.get("DEEBERT_LONG") else 3


def execute(name: str, folder: Path, stderr: Path, environment: dict[str, str], max_file_bytes: int) -> None:
    """Run a stage's script as `python stages/<name>.py ...` does in `folder`; the target of a process."""
    gc.freeze()  # the server's objects need not be looked through
    os.chdir(folder)
    os.environ.update(environment)
    if VARIABLE in environment:
        os.setsid()  # a group of its own, as a shell's job has, for signals to all its processes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if max_file_bytes:  # to whoever writes more it looks like a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    sys.argv = [str(ROOT / "stages" / f"{name}.py"), *ARGUMENTS[name]]
    sys.stderr = os.fdopen(2, "w", buffering=1)
    runpy.run_path(sys.argv[0], run_name="__main__")


@dataclasses.dataclass(frozen=True)
class Project:
    """A folder with parameters, data, a model to start from, and what the stages write."""

    folder: Path
    python: Path  # what torchrun starts

    def start(
        self, name: str = "finetune_backbone", *, every_s: float = 0, max_file_bytes: int = 0, processes: int = 1
    ) -> BaseProcess:
        self.stderr.unlink(missing_ok=True)
        environment = {PAUSE_VARIABLE: str(every_s)}
        if processes > 1:
            environment |= {VARIABLE: str(processes), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            environment["PYTHON_EXEC"] = str(self.python)
        arguments = (name, self.folder, self.stderr, environment, max_file_bytes)
        process = PROCESSES.Process(target=execute, args=arguments)
        process.start()
        return process

    def run(self, name: str = "finetune_backbone", **how: Any) -> int:
        return ended(self.start(name, **how))

    @property
    def stderr(self) -> Path:
        return self.folder.with_suffix(".stderr")

    def told(self) -> list[str]:
        """What the last run to start has printed."""
        return self.stderr.read_text().splitlines()

    def error(self) -> str:
        """The one line at the end of what a run has printed that failed, of which nothing but log lines came before."""
        assert "Traceback" not in self.stderr.read_text()
        (line,) = [line for line in self.told() if line.startswith("error: ")]
        assert line == self.told()[-1]
        return line

    def went_on(self) -> bool:
        """Whether the last run to start has found a state and gone on from it."""
        return self.stderr.exists() and any(line.startswith("going on after step") for line in self.told())

    def checkpoints(self) -> list[Path]:
        """Files of states, newest last."""
        return sorted((self.folder / ".cache").rglob("*.safetensors"))

    def outputs(self) -> dict[str, bytes]:
        """Every file in data and models, those included that a killed run left in between."""
        files = [path for top in ("data", "models") for path in (self.folder / top).rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files}

    def put(self, **changed: Any) -> None:
        path = self.folder / "params.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changed))


@pytest.fixture(scope="module", autouse=True)
def _server(warm_python: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
        for variable in (FOLDER_VARIABLE, PAUSE_VARIABLE, VARIABLE, "DVC_ROOT", "DVC_STAGE", "RANK"):
            monkeypatch.delenv(variable, raising=False)
        start_server(warm_python)
        yield


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, warm_python: Path) -> Project:
    """A project whose trainings ran without trouble, and without a checkpoint on the way; no test changes it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "project"
    (folder / "data" / "glue").mkdir(parents=True)
    tiny.data(sizes=(120, 16, 16)).save(folder / "data" / "glue")
    tiny.write_model(folder / "start", layers=2)  # one ramp will do: most of the time goes into many small tensors
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["model"] = "./start"
    # half of the steps at full depth, and as many in two kinds that take turns
    content["finetune_backbone"] |= {"objective": "alternating", "full_depth_frac": 0.5}
    content["finetune_backbone"] |= {"epochs": STEPS / 8, "max_length": 24, "batch_size": 16, "precision": "fp32"}
    content["train_ramps"] |= {"ramp": "pooler", "epochs": 20, "batch_size": 8}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    write_start(folder)
    project = Project(folder, warm_python)
    for name in ARGUMENTS:
        assert project.run(name, every_s=1000) == 0, project.told()
    assert not (folder / ".cache").exists()
    return project


@pytest.fixture
def project(undisturbed: Project, tmp_path: Path) -> Project:
    """The same project before the fine-tuning."""
    folder = tmp_path / "project"
    shutil.copytree(undisturbed.folder, folder, ignore=shutil.ignore_patterns("models"))
    for name in ("finetune", "ramps"):
        (folder / f"data/{name}.json").unlink()
    return dataclasses.replace(undisturbed, folder=folder)


def outputs_of(undisturbed: Project, *tops: str) -> dict[str, bytes]:
    return {path: content for path, content in undisturbed.outputs().items() if path.startswith(tops)}


INPUTS = ("data/glue/", "data/start.json")
FINETUNED = (*INPUTS, "data/finetune.json", "models/backbone/")


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_kill_9_at_any_moment(project: Project, undisturbed: Project, name: str) -> None:
    """However often a stage is killed, and wherever, the next run ends with the same bytes and clears up behind it."""
    if name == "train_ramps":
        assert project.run() == 0
    expected = undisturbed.outputs() if name == "train_ramps" else outputs_of(undisturbed, *FINETUNED)
    start = time.monotonic()
    before = project.outputs()
    assert project.run(name) == 0
    duration_s = time.monotonic() - start
    assert project.outputs() == expected

    moments = random.Random(name)
    resumed = kills = 0
    while kills < KILLS:
        process = project.start(name)
        process.join(moments.uniform(0, duration_s))
        process.kill()
        code = ended(process)
        resumed += project.went_on()
        kills += code == -signal.SIGKILL
        if code == 0:  # it was faster: start all over, over what is there
            assert project.outputs() == expected
    if name == "finetune_backbone" and not resumed and not project.checkpoints():  # each kill came before a state
        broken_off_early(project)
    assert project.run(name) == 0
    resumed += project.went_on()
    assert project.outputs() == expected
    assert not (project.folder / ".cache").exists()
    assert resumed or name == "train_ramps"
    assert before.items() <= expected.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "count", "code"), [(signal.SIGTERM, 1, 1), (signal.SIGINT, 1, 130), (signal.SIGHUP, 2, 1)]
)
def test_told_to_stop(project: Project, undisturbed: Project, number: int, count: int, code: int) -> None:
    """SIGTERM, Ctrl-C and the end of a terminal, which is told twice, end a fine-tuning after its step.

    The step is saved and nothing half-written is left; one line says so; the next run goes on.
    """
    process = project.start()
    wait_for(project.checkpoints, process)
    for _ in range(count):
        os.kill(process.pid, number)
        time.sleep(0.001)
    assert ended(process) == code
    told = f"finetune_backbone: stopped by (SIGTERM|Ctrl-C|SIGHUP); step [0-9]+ of {STEPS} is saved, and the next run "
    assert [line for line in project.told() if re.search(told, line)], project.told()
    assert not any("Traceback" in line for line in project.told())
    assert project.outputs() == outputs_of(undisturbed, *INPUTS)
    assert project.run() == 0 and project.went_on()
    assert project.outputs() == outputs_of(undisturbed, *FINETUNED)


def process_of_rank(rank: int, parent: int) -> int | None:
    """Number of the process that torchrun, running as `parent`, has started with this rank."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    return None


PROGRESS = ("model ", "going on after", "epoch ", "step ")  # what a run that is well prints, too


def newest_step(project: Project) -> int:
    return int(project.checkpoints()[-1].name.split(".")[0])


@pytest.mark.slow
def test_two_processes_stop_together(project: Project) -> None:
    """Told all at once or one of them alone, both stop after the same step, which is saved and told in one line.

    The next run goes on from that very step and ends with the bytes of an undisturbed one, dropout included.
    """
    assert project.run(processes=2) == 0, project.told()
    expected = project.outputs()
    shutil.rmtree(project.folder / "models")
    (project.folder / "data/finetune.json").unlink()
    before = project.outputs()
    for is_told_alone in (False, True):
        went_on_from = newest_step(project) if project.checkpoints() else 0
        process = project.start(processes=2)
        wait_for(lambda step=went_on_from: project.checkpoints() and newest_step(project) > step, process)
        if is_told_alone:
            os.kill(process_of_rank(1, process.pid), signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGTERM)
        assert ended(process) == 1, project.told()
        assert [line for line in project.told() if not line.startswith(PROGRESS)] == [project.error()]
        (step,) = re.findall(f"stopped by SIGTERM; step ([0-9]+) of {STEPS} is saved, and the next", project.error())
        assert int(step) == newest_step(project) > went_on_from
        assert project.outputs() == before
    assert project.run(processes=2) == 0 and project.went_on(), project.told()
    assert project.outputs() == expected
    assert not (project.folder / ".cache").exists()


@pytest.mark.slow
def test_a_killed_process_ends_the_other(project: Project) -> None:
    """Whichever of the two the system kills, as for want of memory, one line says so, and the next run goes on."""
    for rank in (0, 1):
        went_on_from = newest_step(project) if project.checkpoints() else 0
        process = project.start(processes=2)
        wait_for(lambda step=went_on_from: project.checkpoints() and newest_step(project) > step, process)
        os.kill(process_of_rank(rank, process.pid), signal.SIGKILL)
        assert ended(process) == 1, project.told()
        assert project.error() == "error: one of the 2 processes was killed: SIGKILL"
        assert [line for line in project.told() if not line.startswith(PROGRESS)] == [project.error()]


@pytest.mark.slow
def test_what_ends_the_first_process_ends_the_other(project: Project) -> None:
    """A disk that is full for the first of two processes is one line; the other ends with it and says nothing."""
    assert project.run(processes=2, max_file_bytes=30_000) == 1
    assert re.match("error: .cache/finetune_backbone/.*no checkpoint can be written", project.error())
    assert [line for line in project.told() if not line.startswith(PROGRESS)] == [project.error()]


def broken_off(project: Project) -> None:
    """Have a fine-tuning killed that has saved some states, and leave as many as a run keeps."""
    process = project.start()
    wait_for(lambda: len(project.checkpoints()) == KEPT_STATES, process)
    process.kill()
    ended(process)
    for surplus in project.checkpoints()[:-KEPT_STATES]:  # the kill came after a new state and before an old one's end
        surplus.unlink()


@pytest.mark.slow
def test_two_at_once(project: Project, undisturbed: Project) -> None:
    """The second run of the same training says so in a line and ends with status 1; the first does not notice."""
    first = project.start()
    wait_for(project.checkpoints, first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert project.run() == 1
        assert f"process {first.pid} is at work on this very training" in project.error()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert ended(first) == 0
    assert project.outputs() == outputs_of(undisturbed, *FINETUNED)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_damaged_checkpoints(project: Project, undisturbed: Project) -> None:
    """A damaged state is named in a line; the run goes on from the one before it or, without one, from the start."""
    for damaged in (1, KEPT_STATES):
        broken_off(project)
        paths = project.checkpoints()[-damaged:]
        for path in paths:
            cut(path)
        assert project.run() == 0
        told = [line for line in project.told() if "damaged" in line]
        assert [path.name in line for path, line in zip(reversed(paths), told, strict=True)] == [True] * damaged
        assert project.went_on() == (damaged < KEPT_STATES)
        assert project.outputs() == outputs_of(undisturbed, *FINETUNED)


@pytest.mark.parametrize("damage", [cut, empty, flip_a_bit])
def test_a_damaged_state_is_not_loaded(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    """Whatever has happened to the bytes of the newest state, the one before it comes back."""
    with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("key")
        for step in (1, 2):
            checkpoints.save(step, {"weight": torch.full((100,), float(step))}, {})
        damage(sorted(checkpoints.folder.glob("*.safetensors"))[-1])
        step, tensors, _ = checkpoints.load()
        assert step == 1 and torch.equal(tensors["weight"], torch.ones(100))
        damage(sorted(checkpoints.folder.glob("*.safetensors"))[-1])
        assert checkpoints.load() is None


@pytest.mark.slow
def test_full_disk(project: Project, undisturbed: Project) -> None:
    """No room for a checkpoint, or for the model, is one line that names the place; nothing half-written is left."""
    assert project.run(max_file_bytes=30_000) == 1
    assert re.match("error: .cache/finetune_backbone/.*no checkpoint can be written", project.error())
    assert project.outputs() == outputs_of(undisturbed, *INPUTS)
    assert not (project.folder / ".cache").exists()

    assert project.run() == 0
    before = project.outputs()
    assert project.run("train_ramps", max_file_bytes=3_000) == 1
    assert re.search("no room|cannot be written", project.error())
    assert project.outputs() == before
    assert project.run("train_ramps") == 0
    assert project.outputs() == undisturbed.outputs()


@pytest.mark.slow
def test_folder_that_cannot_be_written(project: Project, undisturbed: Project) -> None:
    """What stands in the way of the checkpoints is told in a line before any step is made."""
    (project.folder / ".cache").write_text("mine")
    assert project.run() == 1
    assert re.match("error: .cache/finetune_backbone/.*cannot be written", project.error())
    assert project.outputs() == outputs_of(undisturbed, *INPUTS)


@pytest.mark.slow
def test_only_its_own_checkpoints(project: Project) -> None:
    """With another seed a run begins anew, as if the states of the broken-off one were not there, and leaves them."""
    broken_off(project)
    kept = [path.read_bytes() for path in project.checkpoints()]
    project.put(seed=7)
    assert project.run() == 0 and not project.went_on()
    assert [path.read_bytes() for path in project.checkpoints()] == kept


@pytest.mark.slow
def test_six_broken_off_trainings_all_go_on(project: Project) -> None:
    """Six trainings of one project that were broken off, restarted in any order, go on from their own states."""
    seeds = list(range(6))
    for seed in seeds:
        project.put(seed=seed)
        broken_off_early(project)
    assert len(kept(project.folder / ".cache")) == 6
    random.Random(0).shuffle(seeds)
    for seed in seeds:
        project.put(seed=seed)
        assert project.run(every_s=1000) == 0 and project.went_on(), seed
    assert not (project.folder / ".cache").exists()


def broken_off_early(project: Project) -> None:
    """Have a fine-tuning killed as soon as it has saved a state of its own."""
    before = set(project.checkpoints())
    process = project.start()
    wait_for(lambda: set(project.checkpoints()) - before, process)
    process.kill()
    ended(process)


def broken_off_state(home: Path, key: str, step: int) -> None:
    with pytest.raises(UserError), Checkpoints(home) as checkpoints:
        checkpoints.open(key)
        checkpoints.save(step, {"weight": torch.ones(2)}, {})
        raise UserError("broken off")


def test_states_are_shown_and_cleared_on_request(tmp_path: Path) -> None:
    """Each training's key, step, size, age and holder are told; a person clears some or all, but none at work."""
    root = tmp_path / "cache"
    at_work = Checkpoints(root / "home")
    at_work.open("ab0")
    for step, name in enumerate(("ab1", "ab2", "cd1", "cd2"), start=1):
        broken_off_state(root / "home", name, step)
    old = next((root / "home" / "cd1").glob("*.safetensors"))
    os.utime(old, (time.time() - 7200,) * 2)

    found = {each.key: each for each in kept(root)}
    assert next(iter(found)) == "cd1" and 7190 < found["cd1"].age_s < 7300
    assert {name: each.step for name, each in found.items()} == {"ab0": 0, "ab1": 1, "ab2": 2, "cd1": 3, "cd2": 4}
    assert found["cd1"].num_bytes >= old.stat().st_size > 0
    assert found["ab0"].holder == str(os.getpid()) and found["ab1"].holder is None
    assert {each.stage for each in found.values()} == {"home"}

    removed, spared = clear(root, "ab")
    assert sorted(each.key for each in removed) == ["ab1", "ab2"] and [each.key for each in spared] == ["ab0"]
    assert sorted(folder.name for folder in (root / "home").iterdir()) == ["ab0", "cd1", "cd2"]
    clear(root)
    assert [folder.name for folder in (root / "home").iterdir()] == ["ab0"]
    with at_work:
        pass
    assert not root.exists() and kept(root) == []


def test_states_come_back(tmp_path: Path) -> None:
    """What is saved is loaded, newest first, by the next run of the same key alone; success removes it all."""
    state = {"weight": torch.arange(6.0).view(2, 3), "step": torch.tensor(3.0)}
    with pytest.raises(UserError), Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("key")
        assert checkpoints.load() is None
        for step in (9, 10, 11):
            checkpoints.save(step, {**state, "step": torch.tensor(float(step))}, {"rows": [{"value": 0.1}]})
        raise UserError("broken off")
    with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("other")
        assert checkpoints.load() is None
    with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("key")
        step, tensors, notes = checkpoints.load()
        assert (step, notes) == (11, {"rows": [{"value": 0.1}]})
        assert torch.equal(tensors["weight"], state["weight"]) and tensors["step"] == 11.0
        assert len(list(checkpoints.folder.glob("*.safetensors"))) == KEPT_STATES
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Checkpoints go on without a lock, and a line says so; whether they are in use, nobody can tell nor clear them."""
    refuse_locks(monkeypatch)
    (root := tmp_path / "cache").mkdir()
    with pytest.raises(KeyboardInterrupt), Checkpoints(root / "home") as checkpoints:
        checkpoints.open("key")
        checkpoints.save(1, {"weight": torch.ones(2)}, {})
        raise KeyboardInterrupt
    (line,) = caplog.messages
    assert line.startswith(f"{root / 'home' / 'key'}: no locks on this disk (Function not implemented); going on")
    assert [each.holder for each in kept(root)] == [str(os.getpid())]
    with pytest.raises(UserError, match="key: no locks on this disk, so a process may be at work there"):
        clear(root)
    with Checkpoints(root / "home") as checkpoints:
        checkpoints.open("key")
        assert checkpoints.load()[0] == 1
    assert list(tmp_path.iterdir()) == []


def test_states_have_the_modes_that_the_umask_leaves(tmp_path: Path) -> None:
    """Who may read a folder may read the states in it."""
    before = os.umask(0o027)
    try:
        with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
            checkpoints.open("key")
            checkpoints.save(1, {"weight": torch.ones(2)}, {})
            assert {path.stat().st_mode & 0o777 for path in checkpoints.folder.iterdir()} == {0o640}
    finally:
        os.umask(before)


def test_the_folder_of_checkpoints_may_start_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder there, too; one that nobody has is told."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(FOLDER_VARIABLE, "~/ck")
    assert home("stage") == tmp_path / "ck" / "stage"
    monkeypatch.setenv(FOLDER_VARIABLE, "~nobody-has-this-name/ck")
    with pytest.raises(UserError, match=f"{FOLDER_VARIABLE}: '~nobody-has-this-name/ck': there is no such home folder"):
        home("stage")


def test_checkpoints_take_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute passes between two states; where writing one takes long, 50 times as long; or what the user wants."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def due(at_s: float) -> bool:
        clock[0] = at_s
        return checkpoints.due()

    def slow_rename(self: Path, target: Path) -> Path:
        clock[0] += 10
        return self.replace(target)

    monkeypatch.setattr(Path, "rename", slow_rename)
    with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("key")
        assert [due(59), due(61)] == [False, True]
        checkpoints.save(1, {"weight": torch.ones(2)}, {})
        assert [due(61 + 10 + 499), due(61 + 10 + 501)] == [False, True]
    monkeypatch.setenv(PAUSE_VARIABLE, "7.5")
    with Checkpoints(tmp_path / "cache" / "home") as checkpoints:
        checkpoints.open("key")
        start = clock[0]
        assert [due(start + 7), due(start + 8)] == [False, True]


@pytest.mark.parametrize("pause", ["often", "nan", "inf", "-1"])
def test_wrong_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause: str) -> None:
    """A pause that is no number of seconds is one line that names the variable."""
    monkeypatch.setenv(PAUSE_VARIABLE, pause)
    told = f"^{PAUSE_VARIABLE}: '{pause}' is not allowed; expected a number of seconds, 0 or more$"
    with pytest.raises(UserError, match=told):
        Checkpoints(tmp_path)
