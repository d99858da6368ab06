"""The workers of a Ray cluster answer as one process does, whatever happens to them."""

import os
import random
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deebert.base.errors import UserError
from deebert.inference import cluster, workers
from deebert.inference.answering import Answering
from deebert.inference.kept import Kept
from tests import tiny
from tests.cli.running import error, status
from tests.data.tables.test_formats import write
from tests.inference.answerers import FOLDER, KILL, Mortal
from tests.inference.test_classifier import write_classifier

ROOT = Path(__file__).parents[2]
COUNT, BATCH_ROWS, WORKERS = 400, 20, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a file in which some rows have no text."""
    folder = tmp_path_factory.mktemp("cluster")
    write_classifier(folder)
    texts = tiny.texts(COUNT)
    write(folder / "in.csv", {"sentence": texts, "id": list(map(str, range(COUNT)))})
    return folder


@pytest.fixture(scope="module")
def two_workers(folder: Path) -> Iterator[None]:
    """A cluster of this machine with room for two workers, to which this process is connected."""
    ray = cluster._ray()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
        monkeypatch.setenv(FOLDER, str(folder))
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))  # or Ray would keep one in the home folder
        ray.init("local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield
        ray.shutdown()
    signal.signal(signal.SIGTERM, before)


def breaks_off(after: int, of: type, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the call number `after` of a method is Ctrl-C."""
    undisturbed, calls = getattr(of, method), []

    def broken(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == after:
            raise KeyboardInterrupt
        return undisturbed(*arguments)

    monkeypatch.setattr(of, method, broken)


@pytest.mark.slow
@pytest.mark.usefixtures("two_workers")
def test_the_same_bytes_whatever_happens(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Begun without a cluster, gone on with one of which a worker is killed, and ended without: as undisturbed."""
    out = tmp_path / "out.csv"
    options = ("--threshold", 0.75, "--batch-rows", BATCH_ROWS, "--threads", 1)
    assert status("predict", folder / "deebert", folder / "in.csv", tmp_path / "undisturbed.csv", *options) == 0
    command = ("predict", folder / "deebert", folder / "in.csv", out, *options)
    with monkeypatch.context() as patched:
        breaks_off(3, Answering, "records", patched)
        assert status(*command) == 130

    told = error(capsys, *command[:-1], 2, "--ray", "auto")
    assert "answers of another command, which was broken off: threads 1 (now 2); repeat that one" in told

    (folder / KILL).touch()
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(workers, "Answerer", Mortal)
        breaks_off(12, Kept, "append", patched)
        assert status(*command, "--ray", "auto") == 130
    told = capsys.readouterr().err
    died = [each for each in caplog.messages if "no worker could be started yet" not in each]  # on a busy machine
    assert not (folder / KILL).exists() and died == ["ray: a worker died; its rows go to another one"]
    answered = (2 + 11) * BATCH_ROWS
    assert told.splitlines()[-1].startswith(f"stopped by Ctrl-C; {answered} of {COUNT} rows are answered")

    assert status(*command) == 0
    assert f"{answered} by an earlier run" in capsys.readouterr().err
    assert out.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "undisturbed.csv"]


class DiedError(Exception):
    """As Ray's own: whoever was asked is dead."""

    actor_init_failed = False


class Puppets:
    """What `workers` uses of Ray, with workers that answer and die as a seeded generator says.

    Attributes:
        alive: how many workers have been started and not ended.
        deadly: texts that end whoever answers them.
    """

    exceptions = SimpleNamespace(RayActorError=DiedError)

    def __init__(self, seed: int, deaths_frac: float, identity: dict[str, str]) -> None:
        self.rng, self.deaths_frac, self.identity = random.Random(seed), deaths_frac, identity
        self.alive, self.deadly = 0, []
        self.open: list[Callable[[], None]] = []  # what may happen next

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 5.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]

    def put(self, value: Any) -> Any:
        return value

    def kill(self, _actor: Any) -> None:
        self.alive -= 1

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options["num_cpus"] == 2
        return lambda _kind: SimpleNamespace(remote=self.start)

    def start(self, *_arguments: Any) -> Any:
        self.alive += 1
        queue: list[Future] = []

        def ask(value: Any) -> Any:
            future = Future()
            queue.append(future)
            self.open.append(lambda: self.happen(queue, future, value))
            return SimpleNamespace(future=lambda: future)

        return SimpleNamespace(
            about=SimpleNamespace(remote=lambda: ask((self.identity, "AVX2"))),
            records=SimpleNamespace(remote=lambda texts: ask(np.array(texts))),
        )

    def happen(self, queue: list[Future], future: Future, value: Any) -> None:
        """A worker answers its first question, or dies."""
        if future.done():
            return
        is_deadly = queue[0] is future and isinstance(value, np.ndarray) and value.tolist() == self.deadly
        if is_deadly or self.rng.random() < self.deaths_frac:
            self.alive -= 1
            for each in queue:
                each.done() or each.set_exception(DiedError("killed"))
        elif queue[0] is future:
            queue.pop(0).set_result(value)
        else:
            self.open.append(lambda: self.happen(queue, future, value))

    def wait(self, futures: Any, *_: Any) -> tuple[set[Future], set[Future]]:
        while not any(future.done() for future in futures):
            self.open.pop(self.rng.randrange(len(self.open)))()
        return {future for future in futures if future.done()}, set()


def pool(puppets: Puppets, identity: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> workers.Pool:
    monkeypatch.setattr(workers, "wait", puppets.wait)
    answering = SimpleNamespace(classifier=SimpleNamespace(identity=identity), threshold_nats=0.5)
    return workers.Pool(puppets, answering, 2)


CPU = {"device": "cpu", "torch": "2.13.0"}


@pytest.mark.parametrize("seed", range(40))
def test_order_and_memory(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers and dies when: each batch has one answer, in order; a few are read ahead; all workers end."""
    monkeypatch.setattr(workers, "MAX_DEATHS", 1000)
    puppets = Puppets(seed, random.Random(seed).choice([0, 0.1, 0.4]), CPU)
    three = pool(puppets, CPU, monkeypatch)
    assert puppets.alive == 3  # two on the machine with five cores, one on that with three
    read = []
    found = []
    for records in three.answers(read.append(i) or [i] for i in range(60)):
        found.append(records.tolist())
        assert len(read) - len(found) < workers.AHEAD * 3
    assert found == [[i] for i in range(60)]
    three.end()
    assert puppets.alive == 0


def test_rows_that_end_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """So do workers that cannot even start: after a few it is told, with Ray's reason, and no more are started."""
    puppets = Puppets(0, 1, CPU)
    with pytest.raises(UserError, match=r"^--ray: 3 workers died of starting, one after another: killed$"):
        list(pool(puppets, CPU, monkeypatch).answers(iter([["a"]])))
    puppets = Puppets(0, 0, CPU)
    puppets.deadly = ["b"]
    found = pool(puppets, CPU, monkeypatch).answers(iter([["a"], ["b"], ["c"]]))
    assert next(found).tolist() == ["a"]
    with pytest.raises(UserError, match=r"^--ray: 3 workers died of the same rows, one after another: killed$"):
        next(found)


def test_workers_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would make other answers is told, and none is taken."""
    puppets = Puppets(0, 0, {**CPU, "torch": "2.9.0"})
    with pytest.raises(
        UserError, match=r"a worker would answer otherwise than this machine: torch 2.9.0 \(here 2.13.0\)"
    ):
        list(pool(puppets, CPU, monkeypatch).answers(iter([["a"]])))


def test_a_cluster_without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is what a worker takes where this process computes on one."""
    gpu = {**CPU, "device": "cuda"}
    with pytest.raises(UserError, match="no machine of the cluster has 2 cores and a GPU, which a worker takes"):
        pool(Puppets(0, 0, gpu), gpu, monkeypatch)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:{free}", "cannot connect to 127.0.0.1:[0-9]+: Connection refused"),
        ("ray://head:10001", "ray://head:10001 is no address of a cluster; expected HOST:PORT, or auto"),
        ("head", "head is no address of a cluster; expected HOST:PORT, or auto"),
        ("127.0.0.1:70000", "cannot connect to 127.0.0.1:70000: "),
    ],
)
def test_an_address_that_cannot_be_reached(address: str, told: str) -> None:
    """One line, at once."""
    with pytest.raises(UserError, match=f"^--ray: {told}"), cluster.Cluster(address.format(free=free_port()), 1):
        pass


def test_without_ray(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """One line says what to install; nothing is written."""
    monkeypatch.setitem(sys.modules, "ray", None)
    told = error(capsys, "predict", folder / "deebert", folder / "in.csv", tmp_path / "out.csv", "--ray", "auto")
    assert told == "--ray: ray is not installed; expected `pip install 'deebert[ray]'`"
    assert not list(tmp_path.iterdir())


def test_arguments_that_a_cluster_cannot_follow(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard streams cannot be kept for a second try, and a number names no GPU of another machine."""
    assert status("predict", folder / "deebert", "-", "out.csv", "--ray", "auto") == 2
    assert "argument --ray: needs files as IN and OUT" in capsys.readouterr().err
    assert status("predict", folder / "deebert", "in.csv", "out.csv", "--ray", "auto", "--device", "cuda:1") == 2
    assert "argument --ray: each worker has a GPU of its own; expected --device cuda" in capsys.readouterr().err
