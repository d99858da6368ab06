"""A long training's state on disk: it outlives kill -9, is whole or absent, and is found again by its like alone.

The files lie outside DVC's outputs, which DVC deletes before it runs a stage. They are safetensors with the SHA-256 of
their content in their name, so that a damaged one is told from a good one, and never pickled.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deebert.base.errors import UserError

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "DEEBERT_CHECKPOINTS"
PAUSE_VARIABLE = "DEEBERT_CHECKPOINT_EVERY_S"
PAUSE_S = 60.0  # between two states, unless the variable says otherwise; longer where writing takes long:
MAX_TIME_FRAC = 0.02  # of the training's time may go into checkpoints
KEPT_STATES = 2  # of a run, so that a damaged last one costs some minutes and not everything
KEPT_RUNS = 3  # broken off with other parameters or data, the newest of them


def home(stage: str) -> Path:
    """Where checkpoints of `stage` are: in `.cache` at the top of the project, or in the folder DEEBERT_CHECKPOINTS.

    An experiment that DVC runs in a copy of the project has them in the project itself and survives the copy.
    """
    return Path(os.environ.get(FOLDER_VARIABLE) or Path(os.environ.get("DVC_ROOT", "."), ".cache")) / stage


class Checkpoints:
    """States of one training, newest last; use it as a context manager around the training and what it writes.

    Everything is removed where the block ends without an exception, and kept for the next run where it does not.
    """

    def __init__(self, home: Path) -> None:
        """Prepare for checkpoints in `home`, of which `open` makes use.

        Raises:
            UserError: DEEBERT_CHECKPOINT_EVERY_S is not a number of seconds.
        """
        self.home = home
        self.folder: Path | None = None
        self._lock: int | None = None
        wanted = os.environ.get(PAUSE_VARIABLE)
        try:
            self._wanted_pause_s = None if wanted is None else float(wanted)
        except ValueError:
            raise UserError(f"{PAUSE_VARIABLE}: {wanted!r} is not allowed; expected a number of seconds") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is None:
            return
        with suppress(OSError):
            if kind is None or not self._states():
                _remove(self.folder)
        os.close(self._lock)
        self._lock = None

    def open(self, key: str) -> None:
        """Lock the checkpoints of the run `key` for this process alone; the kernel unlocks them when it ends.

        Raises:
            UserError: another process has them, or they cannot be written.
        """
        self.folder = self.home / key
        try:
            self._lock = _lock(self.folder)
            if self._lock is None:
                holder = (self.folder / "lock").read_text(encoding="utf-8").strip()
                raise UserError(
                    f"{self.folder}: process {holder} is at work on this very training; wait for it or end it"
                )
            (self.folder / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        self._forget_others()
        self._due = time.monotonic() + self._pause_s(0.0)

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest state that is not damaged, as (step, tensors, notes) given to `save`; None if there is none."""
        for path in reversed(self._states()):
            step, digest = path.name.split(".")[:2]
            try:
                if _digest(path) == digest:
                    with safe_open(path, framework="pt") as file:
                        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                        return int(step), tensors, json.loads(file.metadata()["notes"])
                reason = "its content has changed"
            except (OSError, SafetensorError) as error:
                reason = str(error)
            log.warning("%s: damaged checkpoint: %s; going back to an older state", path, reason)
            with suppress(OSError):
                path.unlink()
        return None

    def due(self) -> bool:
        """Whether it is time for the next `save`: results must not depend on the answer."""
        return time.monotonic() >= self._due

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: dict[str, Any]) -> None:
        """Write the state after `step` steps; a process or machine that dies meanwhile leaves the former ones.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        start = time.monotonic()
        scratch = self.folder / "writing.tmp"
        try:
            on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_file(on_cpu, scratch, metadata={"notes": json.dumps(notes)})
            _to_disk(scratch)
            scratch.rename(self.folder / f"{step:09}.{_digest(scratch)}.safetensors")
            _to_disk(self.folder)
            for path in self._states()[:-KEPT_STATES]:
                path.unlink()
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                scratch.unlink()
            raise UserError(f"{self.folder}: no checkpoint can be written: {error}") from error
        end = time.monotonic()
        self._due = end + self._pause_s(end - start)

    def _pause_s(self, last_took_s: float) -> float:
        if self._wanted_pause_s is not None:
            return self._wanted_pause_s
        return max(PAUSE_S, last_took_s / MAX_TIME_FRAC)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("*.safetensors"))

    def _forget_others(self) -> None:
        others = [folder for folder in self.home.iterdir() if folder.is_dir() and folder != self.folder]
        for folder in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True)[KEPT_RUNS:]:
            with suppress(OSError):
                if (lock := _lock(folder)) is not None:
                    _remove(folder)
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """The open, locked file `lock` of `folder`, which is made where needed; None if another process has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the run that had it may be about to remove it: then look again
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), (folder / "lock").stat()):
                    return lock
            except BlockingIOError:
                os.close(lock)
                return None
            except OSError:
                os.close(lock)
                raise
            os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a locked `folder`, and the two above it where they are left empty."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def stop_requests() -> Iterator[Callable[[], str | None]]:
    """Yield a function to ask between two steps: why the training is to end now, or None while it is to go on.

    Reasons are Ctrl-C, SIGTERM (what `kill`, SLURM and clouds send first) and, in a stage, the end of the DVC that
    started it: DVC would delete whatever the stage still writes, and a new DVC find it in the way. A second Ctrl-C or
    SIGTERM does not wait for the next step.
    """
    received = []
    parent = os.getppid() if "DVC_STAGE" in os.environ else None

    def note(number: int, _frame: object) -> None:
        received.append({signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number])
        signal.signal(number, before[number])

    def reason() -> str | None:
        if received:
            return received[0]
        return "the end of DVC" if parent is not None and os.getppid() != parent else None

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield reason
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(stage: str, reason: str, state: str) -> BaseException:
    """What to raise on a `reason` of `stop_requests`; `state` tells how `stage` leaves things."""
    told = f"{stage}: stopped by {reason}; {state}"
    return KeyboardInterrupt(told) if reason == "Ctrl-C" else UserError(told)
