"""Disks and systems that refuse what most grant."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deebert.base import locks

NOBODY = 65534


def refuse_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the disk one without locks, as some of Lustre and FUSE are."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)


def watch_renames(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that were renamed, alone or with their folder, before the disk had their content."""
    synced: set[tuple[int, int]] = set()
    lost: list[str] = []
    fsync = os.fsync

    def watched_fsync(handle: int) -> None:
        fsync(handle)
        synced.add((os.fstat(handle).st_ino, os.fstat(handle).st_size))

    def watched(move: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def moved(self: Path, target: Path) -> Path:
            files = [each for each in (self, *self.rglob("*")) if each.is_file()]
            lost.extend(each.name for each in files if (each.stat().st_ino, each.stat().st_size) not in synced)
            return move(self, target)

        return moved

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(Path, "rename", watched(Path.rename))
    monkeypatch.setattr(Path, "replace", watched(Path.replace))
    return lost


@contextlib.contextmanager
def withheld(path: Path) -> Iterator[None]:
    """Within the block this process must not read `path`, be it root's: it is nobody's process then."""
    mode, is_root = path.stat().st_mode, os.geteuid() == 0
    path.chmod(0)
    parents = [parent for parent in path.parents if not parent.stat().st_mode & 0o001] if is_root else []
    modes = [parent.stat().st_mode for parent in parents]
    try:
        for parent in parents:
            parent.chmod(0o711)
        if is_root:
            os.seteuid(NOBODY)
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for parent, before in zip(parents, modes, strict=True):
            parent.chmod(before)
        path.chmod(mode)
