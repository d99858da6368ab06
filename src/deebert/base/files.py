"""Files that are either whole or absent: JSON and folders are written beside their place and moved into it."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deebert.base.errors import UserError


@contextmanager
def output_dir(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block ends without an exception.

    After an exception the half-written folder is removed and `path` is as it was. What a killed process left beside
    `path` is removed too.

    Raises:
        UserError: no folder can be made there, which is found out before the block, or the disk is full.
    """
    scratch, former = _beside(path), _beside(path, ".old")
    lock = None
    try:
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _remove_leftovers(path)
        scratch.mkdir(parents=True)
        lock = os.open(scratch, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield scratch
        _swap(scratch, path, former)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with a final newline; NaN and infinity are refused (ValueError).

    A list of rows gets one row per line, so that a diff in git shows the rows that changed.
    """
    if isinstance(content, list):
        rows = ",\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in content)
        text = f"[\n{rows}\n]\n" if rows else "[]\n"
    else:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    scratch = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            scratch.unlink()


def read_json(path: Path) -> Any:
    """Return the parsed JSON of `path`; a missing or damaged file is a UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON: {error}") from error


def _beside(path: Path, mark: str = "") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{mark}.tmp")


def _swap(scratch: Path, path: Path, former: Path) -> None:
    """Rename `scratch` to `path`. An old folder is moved aside first, and so is never seen half-removed."""
    if not path.exists():
        scratch.rename(path)
        return
    try:
        path.rename(former)
        scratch.rename(path)
    except BaseException:  # Ctrl-C, too, may come between the two
        if former.exists() and not path.exists():
            former.rename(path)
        raise
    shutil.rmtree(former)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside `path`.

    A folder that is still being written is locked by its process, and a lock ends with its process, even where process
    numbers mean nothing, as between containers. Files are written in an instant and need no lock.
    """
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            if not leftover.is_dir():
                leftover.unlink()
                continue
            handle = os.open(leftover, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(leftover)
            finally:
                os.close(handle)
