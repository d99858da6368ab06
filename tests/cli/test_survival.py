"""`deebert predict` survives what can happen to it: given again, it ends with the bytes of an undisturbed run.

Each run is a process of its own. The kills come at seeded random moments, few of them here; DEEBERT_LONG=1 tries more.
"""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from deebert.inference.kept import ANSWERS, RECORD, parts_folder
from tests import tiny
from tests.cli.running import start
from tests.data.tables.test_formats import write
from tests.forked import ended, start_server, wait_for
from tests.inference.test_classifier import write_classifier

ROOT = Path(__file__).parents[2]
KILLS = 40 if os.environ.get("DEEBERT_LONG") else 4
COUNT, BATCH_ROWS = 2000, 50

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _server(warm_python: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
        start_server(warm_python)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its input in two formats; some rows have no text."""
    folder = tmp_path_factory.mktemp("survival")
    write_classifier(folder)
    texts = tiny.texts(COUNT)
    for ending in (".csv", ".parquet"):
        write(folder / f"in{ending}", {"sentence": texts, "id": list(map(str, range(COUNT)))})
    return folder


class Command:
    """One command line, which may be given again and again."""

    def __init__(self, model: Path, source: Path, out: Path, threshold: float = 0.75) -> None:
        self.out, self.stderr = out, out.with_suffix(".stderr")
        self.arguments = ("predict", model, source, out, "--threshold", threshold, "--batch-rows", BATCH_ROWS)

    def start(self, max_file_bytes: int = 0) -> BaseProcess:
        self.stderr.unlink(missing_ok=True)
        return start(*self.arguments, stderr=self.stderr, max_file_bytes=max_file_bytes)

    def run(self, max_file_bytes: int = 0) -> int:
        return ended(self.start(max_file_bytes))

    def answered(self) -> int:
        """How many rows are, at this moment."""
        path = parts_folder(self.out) / ANSWERS
        return path.stat().st_size // RECORD.itemsize if path.exists() else 0

    def told(self) -> str:
        """What the last run has printed last."""
        assert "Traceback" not in self.stderr.read_text()
        return self.stderr.read_text().splitlines()[-1]


@pytest.fixture(params=[".csv", ".parquet"])
def command(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Command:
    return Command(folder / "deebert", folder / f"in{request.param}", tmp_path / f"out{request.param}")


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Ending -> the bytes of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    written = {}
    for ending in (".csv", ".parquet"):
        command = Command(folder / "deebert", folder / f"in{ending}", out.with_suffix(ending))
        assert command.run() == 0, command.told()
        written[ending] = command.out.read_bytes()
    return written


def test_kill_9_at_any_moment(command: Command, undisturbed: dict[str, bytes]) -> None:
    """However often and wherever: what is answered stays, the file is there once it is whole, and nothing is left."""
    begin = time.monotonic()
    assert command.run() == 0
    duration_s = time.monotonic() - begin
    command.out.unlink()

    moments = random.Random(command.out.suffix)
    kills = 0
    while kills < KILLS:
        process = command.start()
        process.join(moments.uniform(0, duration_s))
        process.kill()
        code = ended(process)
        kills += code == -signal.SIGKILL
        assert command.out.exists() or code != 0
        if command.out.exists():  # it was faster: start all over
            assert command.out.read_bytes() == undisturbed[command.out.suffix]
            command.out.unlink()
    if not command.answered():
        broken_off(command)
    answered = command.answered()
    assert command.run() == 0, command.told()
    assert f"{answered:,} by an earlier run" in command.stderr.read_text()
    assert command.out.read_bytes() == undisturbed[command.out.suffix]
    assert not parts_folder(command.out).exists()


def broken_off(command: Command) -> int:
    """Have a run killed that has answered some rows, and not all; how many they are."""
    process = command.start()
    wait_for(lambda: command.answered() >= 2 * BATCH_ROWS, process)
    process.kill()
    assert ended(process) == -signal.SIGKILL
    assert 0 < command.answered() < COUNT
    return command.answered()


@pytest.mark.parametrize(("number", "code", "told"), [(signal.SIGTERM, 1, "error: "), (signal.SIGINT, 130, "")])
def test_told_to_stop(command: Command, undisturbed: dict[str, bytes], number: int, code: int, told: str) -> None:
    """SIGTERM and Ctrl-C: one line says how many rows are answered, and the same command goes on after them."""
    process = command.start()
    wait_for(lambda: command.answered() >= 2 * BATCH_ROWS, process)
    os.kill(process.pid, number)
    assert ended(process) == code
    name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
    line = rf"{told}stopped by {name}; ([\d,]+) of 2,000 rows are answered, and the same command goes on"
    found = re.fullmatch(line, command.told())
    assert found and int(found[1].replace(",", "")) == command.answered()
    assert not command.out.exists()
    assert command.run() == 0
    assert f"{found[1]} by an earlier run" in command.stderr.read_text()
    assert command.out.read_bytes() == undisturbed[command.out.suffix]


def test_two_at_once(command: Command, undisturbed: dict[str, bytes]) -> None:
    """The second run of the same command says so in a line; the first does not notice."""
    first = command.start()
    wait_for(lambda: command.answered() >= BATCH_ROWS, first)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        assert command.run() == 1
        assert "another process is at work on this very output" in command.told()
    finally:
        os.kill(first.pid, signal.SIGCONT)
    assert ended(first) == 0
    assert command.out.read_bytes() == undisturbed[command.out.suffix]


def test_another_command_does_not_mix(folder: Path, command: Command, undisturbed: dict[str, bytes]) -> None:
    """With another threshold it is told what was left; the first command still goes on from there."""
    answered = broken_off(command)
    other = Command(*command.arguments[1:4], threshold=0.5)
    assert other.run() == 1
    told = f"holds {answered:,} answers of another command, which was broken off: threshold_nats 0.75 (now 0.5)"
    assert told in other.told()
    assert command.run() == 0 and "by an earlier run" in command.stderr.read_text()
    assert command.out.read_bytes() == undisturbed[command.out.suffix]


def test_full_disk(command: Command, undisturbed: dict[str, bytes]) -> None:
    """No room for an answer, or for the output, is one line; with room again the same command goes on."""
    for max_file_bytes in (RECORD.itemsize * COUNT // 2, RECORD.itemsize * COUNT + 1):
        assert command.run(max_file_bytes) == 1
        assert re.match(r"error: .*parts.*: cannot be written: File too large", command.told())
        assert command.answered() >= max_file_bytes // RECORD.itemsize // BATCH_ROWS * BATCH_ROWS
        assert not command.out.exists()
    assert command.run() == 0 and "2,000 by an earlier run" in command.stderr.read_text()
    assert command.out.read_bytes() == undisturbed[command.out.suffix]
