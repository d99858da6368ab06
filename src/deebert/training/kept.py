"""States on disk that broken-off trainings go on from: what there is, and how a person gets rid of it."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from deebert.base.errors import UserError
from deebert.base.locks import NoLocksError, try_lock
from deebert.training.checkpoints import holder, lock_folder, remove_folder


@dataclass(frozen=True)
class Kept:
    """The states of one training that are on disk.

    Attributes:
        key: the name of its folder; another training, with other parameters or data, has another.
        step: after how many steps the newest was saved; 0 where there is none.
        age_s: how long ago that was, in seconds.
        holder: number of the process that is at work on it, or may be, on a disk without locks; None where it was
            broken off.
    """

    stage: str
    key: str
    step: int
    num_bytes: int
    age_s: float
    holder: str | None


def kept(root: Path) -> list[Kept]:
    """All trainings with states below `root`, oldest first."""
    found = []
    for lock in root.glob("*/*/lock"):
        with suppress(FileNotFoundError):  # it has just ended
            found.append(_kept(lock.parent))
    return sorted(found, key=lambda each: -each.age_s)


def clear(root: Path, start_of_key: str = "") -> tuple[list[Kept], list[Kept]]:
    """Remove the states of those trainings whose key begins so.

    Returns:
        What was removed; and what was not, because a process is at work on it.

    Raises:
        UserError: the disk has no locks, so nobody can tell whether a process is at work.
    """
    removed, spared = [], []
    for each in kept(root):
        if not each.key.startswith(start_of_key):
            continue
        folder = root / each.stage / each.key
        try:
            lock = lock_folder(folder)
        except NoLocksError:
            raise UserError(
                f"{folder}: no locks on this disk, so a process may be at work there; expected you to remove the folder"
            ) from None
        if lock is None:
            spared.append(each)
            continue
        remove_folder(folder)
        os.close(lock)
        removed.append(each)
    return removed, spared


def _kept(folder: Path) -> Kept:
    files = {path.name: path.stat() for path in folder.iterdir()}
    states = sorted(name for name in files if name.endswith(".safetensors"))
    newest = states[-1] if states else "lock"
    with (folder / "lock").open() as lock:
        try:
            at_work = None if try_lock(lock.fileno(), shared=True) else holder(folder)
        except NoLocksError:
            at_work = holder(folder)
    return Kept(
        stage=folder.parent.name,
        key=folder.name,
        step=int(newest.split(".")[0]) if states else 0,
        num_bytes=sum(stat.st_size for stat in files.values()),
        age_s=max(0.0, time.time() - files[newest].st_mtime),
        holder=at_work,
    )
