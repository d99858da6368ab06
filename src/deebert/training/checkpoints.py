"""A long training's state on disk: it outlives kill -9, and only the same training finds it again.

A training is the same if its parameters, data, versions and code are. A state is either whole or absent.

The files lie outside DVC's outputs, which DVC deletes before it runs a stage. They are safetensors and never pickles.
The name of each has the SHA-256 of its content, so a damaged file is recognised. They stay until their training has
ended or a person clears them, see `tools/checkpoints.py`.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deebert.base.errors import UserError
from deebert.base.files import sha256_of, share, to_disk
from deebert.base.locks import NoLocksError, try_lock

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "DEEBERT_CHECKPOINTS"
PAUSE_VARIABLE = "DEEBERT_CHECKPOINT_EVERY_S"
PAUSE_S = 60.0  # between two states, unless the variable says otherwise; longer where writing takes long:
MAX_TIME_FRAC = 0.02  # of the training's time may go into checkpoints
KEPT_STATES = 2  # of a run, so that a damaged last one costs some minutes and not everything


def root() -> Path:
    """Where checkpoints of all stages are: `.cache` at the top of the project, or the folder DEEBERT_CHECKPOINTS.

    An experiment that DVC runs in a copy of the project has them in the project itself and survives the copy.

    Raises:
        UserError: DEEBERT_CHECKPOINTS begins with the home folder of somebody who has none.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return Path(os.environ.get("DVC_ROOT", "."), ".cache")
    try:
        return Path(folder).expanduser()
    except RuntimeError:
        raise UserError(f"{FOLDER_VARIABLE}: {folder!r}: there is no such home folder") from None


def home(stage: str) -> Path:
    """Where `stage` keeps what must be on a disk while it works, and its checkpoints: a folder in `root()`."""
    return root() / stage


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
            self._wanted_pause_s = math.nan
        if self._wanted_pause_s is not None and not 0 <= self._wanted_pause_s < math.inf:
            raise UserError(f"{PAUSE_VARIABLE}: {wanted!r} is not allowed; expected a number of seconds, 0 or more")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._lock is None:
            return
        with suppress(OSError):
            if kind is None or not self._states():
                remove_folder(self.folder)
        os.close(self._lock)
        self._lock = None

    def open(self, key: str) -> None:
        """Lock the checkpoints of the run `key` for this process alone; the kernel unlocks them when it ends.

        On a disk without locks a line says so, and the run goes on.

        Raises:
            UserError: another process has them, or they cannot be written.
        """
        self.folder = self.home / key
        try:
            self._lock = self._locked()
            (self.folder / "lock").write_text(f"{os.getpid()}\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror or error}") from error
        self._due = time.monotonic() + self._pause_s(0.0)

    def _locked(self) -> int:
        """The lock's file, open, and locked where that is possible."""
        try:
            for pause_s in (0.0, 0.1):  # somebody who only looks, see `kept.py`, has it for an instant
                time.sleep(pause_s)
                if (lock := lock_folder(self.folder)) is not None:
                    return lock
        except NoLocksError as error:
            told = "%s: no locks on this disk (%s); going on without, so do not start this very training twice"
            log.warning(told, self.folder, error)
            return os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        raise UserError(
            f"{self.folder}: process {holder(self.folder)} is at work on this very training; wait for it or end it"
        )

    def load(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest state that is not damaged, as (step, tensors, notes) given to `save`; None if there is none.

        Raises:
            UserError: the newest must not be read.
        """
        for path in reversed(self._states()):
            step, digest = path.name.split(".")[:2]
            try:
                if _digest(path) == digest:
                    with safe_open(path, framework="pt") as file:
                        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                        return int(step), tensors, json.loads(file.metadata()["notes"])
                reason = "its content has changed"
            except PermissionError as error:
                raise UserError(f"{path}: cannot be read: {error.strerror}") from None
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
            share(scratch)
            to_disk(scratch)
            scratch.rename(self.folder / f"{step:09}.{_digest(scratch)}.safetensors")
            to_disk(self.folder)
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


def holder(folder: Path) -> str:
    """Number of the process that has locked `folder`, or had it last."""
    return (folder / "lock").read_text(encoding="utf-8").strip()


def lock_folder(folder: Path) -> int | None:
    """The open, locked file `lock` of `folder`, which is made where needed; None if another process has it.

    Raises:
        NoLocksError: the system or the disk has no locks.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the run that had it may be about to remove it: then look again
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                is_ours = try_lock(lock)
                if is_ours and os.path.samestat(os.fstat(lock), (folder / "lock").stat()):
                    return lock
            except (OSError, NoLocksError):
                os.close(lock)
                raise
            os.close(lock)
            if not is_ours:
                return None


def remove_folder(folder: Path) -> None:
    """Remove a locked `folder`, and the two above it where they are left empty."""
    shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()
        folder.parent.parent.rmdir()


def _digest(path: Path) -> str:
    return sha256_of(path)[:32]
