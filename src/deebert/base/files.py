"""Files that are either whole or absent: files and folders are written beside their place and moved into it."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from deebert.base.errors import UserError, one_line
from deebert.base.locks import NoLocksError, try_lock

STALE_S = 3600  # of a single file, which is written in an instant; clocks of two machines may differ by minutes
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # of these the system does not say for which file


@contextmanager
def output_dir(path: Path, keep: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block ends without an exception.

    After an exception the half-written folder is removed and `path` is as it was. What a killed process left beside
    `path` is removed too. Whoever may read the folder may read the files in it, as the umask has it. A link stays, and
    the folder that it leads to is replaced.

    Args:
        keep: names that stay in `path`. If any is there, or if `path` is the working folder, files are put into `path`
            one by one, each as a whole, and what else was there is removed.

    Raises:
        UserError: no folder can be made there, which is found out before the block; what the block writes into the
            folder cannot be written; or the disk is full. An error of another file passes through.
    """
    place = Path(os.path.realpath(path))
    scratch, former = _beside(place), _beside(place, ".old")
    begun = scratch.with_suffix(".new")  # until it is locked: whoever removes leftovers would take it for one
    lock = None
    try:
        with write_errors(path):
            if place.exists() and not place.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            _remove_leftovers(place)
            begun.mkdir(parents=True)
            lock = _locked(begun)
            begun.rename(scratch)
        try:
            yield scratch
        except (OSError, SafetensorError) as error:
            if not _is_of_writing(error, scratch):
                raise
            with write_errors(path):
                raise
        with write_errors(path):
            for file in scratch.rglob("*"):
                if file.is_file() and not file.is_symlink():
                    share(file)
                    to_disk(file)
            is_here = place == Path.cwd()  # moved aside, it would be gone for the shell that is in it
            if is_here or any((place / name).exists() for name in keep):
                _put_into(scratch, place, keep)
            else:
                _swap(scratch, place, former)
    finally:
        for folder in (begun, scratch):
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def share(file: Path) -> None:
    """Let those read and write `file` who may read and write its folder; safetensors lets nobody but the owner."""
    mode = file.parent.stat().st_mode & 0o666
    with suppress(OSError):  # some disks have one mode for all files
        file.chmod(mode)


def to_disk(path: Path) -> None:
    """Wait until the content of a file, or the names in a folder, are on the disk itself.

    A disk may have a rename before it has the content of what is renamed. If the machine crashes in between, the new
    file is there, empty, and the old one is not.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Within the block, which does nothing but write `path`, what the system refuses is a UserError about `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or one_line(error)}") from error


def _is_of_writing(error: OSError | SafetensorError, folder: Path) -> bool:
    """Whether `error` is of a file that was being written into `folder`, and not of one that was read elsewhere."""
    if isinstance(error, SafetensorError):
        return str(error).startswith("Error while serializing")
    names = [name for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    if not names:
        return error.errno in NO_ROOM
    return any(Path(os.fsdecode(name)).resolve().is_relative_to(folder.resolve()) for name in names)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON with a final newline; NaN and infinity are refused (ValueError).

    A list of rows gets one row per line, so that a diff in git shows the rows that changed.
    """
    if isinstance(content, list):
        rows = ",\n".join(json.dumps(row, allow_nan=False, ensure_ascii=False) for row in content)
        text = f"[\n{rows}\n]\n" if rows else "[]\n"
    else:
        text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as a whole, and the folder where needed; a UserError says why that is not possible.

    Threads and processes may write one file: each writes its own, and the last to end wins. A link stays, and the file
    that it leads to is replaced. A device or a pipe, such as /dev/null, stays as well, and is written to.
    """
    place = Path(os.path.realpath(path))
    if _is_special(place):
        with write_errors(path):
            place.write_bytes(content)
        return
    scratch = _beside(place)
    try:
        with write_errors(path):
            place.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(place)
            scratch.write_bytes(content)
            to_disk(scratch)
            scratch.replace(place)
    finally:
        with suppress(OSError):
            scratch.unlink()


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Within the block no other process is in such a block of the same path, where there are locks.

    A hidden file beside it is locked, since whoever writes the path puts another file in its place.

    Raises:
        UserError: another process is, or nothing can be written there.
    """
    place = Path(os.path.realpath(path))
    beside = place.with_name(f".{place.name}.lock")
    made = [each for each in place.parents if not each.exists()]
    with write_errors(path):
        beside.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            is_free = try_lock(handle) and beside.exists() and os.path.samestat(os.fstat(handle), beside.stat())
        except NoLocksError:
            is_free = True
        if not is_free:
            raise UserError(f"{path}: another process is at work on it; wait for it or end it")
        try:
            yield
        finally:
            if os.name != "nt":  # where an open file cannot go
                beside.unlink(missing_ok=True)
                for each in made:
                    with suppress(OSError):  # something was written there
                        each.rmdir()
    finally:
        os.close(handle)


def check_writable(path: Path) -> None:
    """UserError where `write_bytes` could not write `path`; neither a file nor a folder is left."""
    place = Path(os.path.realpath(path))
    made = [each for each in place.parents if not each.exists()]
    with write_errors(path):
        if place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if _is_special(place):
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place.parent):
                pass
        finally:
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()


def read_json(path: Path) -> Any:
    """Return the parsed JSON of `path`; a missing or damaged file is a UserError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro` makes it") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
    except ValueError as error:
        raise UserError(f"{path}: not readable as JSON: {one_line(error)}") from error


def check_readable(path: Path) -> None:
    """UserError where `path`, a file or a folder with files, is there and one of them must not be read.

    Some libraries say of such a file that there is none. What is not there is left to those who look for it.
    """
    try:
        for file in [each for each in path.iterdir() if each.is_file()] if path.is_dir() else [path]:
            with file.open("rb"):
                pass
    except PermissionError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except FileNotFoundError:
        return


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_special(path: Path) -> bool:
    """Whether it is there, and neither a file nor a folder."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _beside(path: Path, mark: str = "") -> Path:
    """A hidden name of this thread's own."""
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}{mark}.tmp")


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


def _put_into(scratch: Path, path: Path, keep: Collection[str]) -> None:
    """Move what is in `scratch` into the folder `path`, and remove whatever else is there but what is to be kept."""
    new = {file.name for file in scratch.iterdir()}
    for name in sorted(new):
        if _is_folder(path / name):
            shutil.rmtree(path / name)  # a folder takes no other's place
        (scratch / name).replace(path / name)
    for old in path.iterdir():
        if old.name not in new and old.name not in keep:
            shutil.rmtree(old) if _is_folder(old) else old.unlink()


def _is_folder(path: Path) -> bool:
    """Whether it is a folder itself, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def _locked(folder: Path) -> int | None:
    """`folder`, opened and locked; None where another process has it or nobody can lock it."""
    if os.name == "nt":  # there folders cannot be opened
        return None
    handle = os.open(folder, os.O_RDONLY)
    with suppress(NoLocksError):
        if try_lock(handle):
            return handle
    os.close(handle)
    return None


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left beside `path`.

    A folder that is still being written is locked by its process, and a lock ends with its process, even where process
    numbers mean nothing, as between containers. Folders stay where nobody can lock. A file has no lock, and goes once
    it is so old that nobody can still be writing it.
    """
    stale = time.time() - STALE_S
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            if not leftover.is_dir():
                if leftover.stat().st_mtime < stale:
                    leftover.unlink()
            elif (lock := _locked(leftover)) is not None:
                shutil.rmtree(leftover)
                os.close(lock)
