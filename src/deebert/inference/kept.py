"""Answers kept while their file is at work, so that a command which is broken off goes on where it was.

Beside the output, in a folder `.NAME.parts`: `command.json` says which command it is, and `answers` has a record of
fixed size per row. Whatever ends the process, whole records stay. The output itself is written there too, and takes
its place by a rename.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from deebert.base.errors import UserError
from deebert.base.files import to_disk, write_errors, write_json
from deebert.base.locks import NoLocksError, try_lock

RECORD = np.dtype([("label_id", "<i4"), ("probability", "<f4"), ("exit_layer", "<i4")])
NO_TEXT = -1  # as exit layer: there was nothing to answer; 0 is what a disk has where nothing was written
COMMAND, ANSWERS, OUTPUT = "command.json", "answers", "output"


class Kept:
    """The answers of one command that writes `out`; a context manager, which lets no other process at them.

    Attributes:
        rows: how many are answered.
    """

    def __init__(self, out: Path, command: Mapping[str, Any], replace: bool) -> None:
        """Prepare for what the block does.

        Args:
            command: all that the answers depend on, as JSON has it.
            replace: whether what another command has left may be lost.
        """
        self.out = Path(os.path.realpath(out))  # a link stays, and the file that it leads to is written
        self.command, self.replace = dict(command), replace
        self.folder = parts_folder(self.out)
        self.rows = 0
        self._lock: int | None = None

    def __enter__(self) -> Self:
        with write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder)
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self.rows:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def _open(self) -> None:
        found = _json(self.folder / COMMAND)
        kept = self.whole_records()
        if found == self.command:
            self.rows = kept
        elif kept and not self.replace:
            self._tell_other(found, kept)
        with write_errors(self.folder):
            if found != self.command:
                for name in (ANSWERS, OUTPUT):
                    (self.folder / name).unlink(missing_ok=True)
                write_json(self.folder / COMMAND, self.command)

    def _tell_other(self, found: Any, kept: int) -> None:
        known = found if isinstance(found, dict) else {}
        differ = [key for key, value in self.command.items() if known.get(key) != value]
        told = ", ".join(f"{key} {known.get(key)} (now {self.command[key]})" for key in differ)
        raise UserError(
            f"{self.folder}: holds {kept:,} answers of another command, which was broken off: {told}; repeat that one,"
            " name another output, or lose them with --force"
        )

    def whole_records(self) -> int:
        """How many rows were answered; what a crash of the machine left unwritten, and all after it, is not."""
        path = self.folder / ANSWERS
        count = path.stat().st_size // RECORD.itemsize if path.exists() else 0
        for start in range(0, count, 2**16):
            layers = self.read(start, min(2**16, count - start))["exit_layer"]
            if (unwritten := np.flatnonzero(layers == 0)).size:
                return start + int(unwritten[0])
        return count

    def cut(self, rows: int) -> None:
        """Keep the first `rows` answers, and none of a chunk that was half written."""
        self.rows = rows
        if (self.folder / ANSWERS).exists():
            with write_errors(self.folder):
                os.truncate(self.folder / ANSWERS, rows * RECORD.itemsize)

    def append(self, answers: np.ndarray) -> None:
        """Keep the answers (B,) of `RECORD` of the next rows."""
        with write_errors(self.folder), (self.folder / ANSWERS).open("ab") as file:
            file.write(answers.tobytes())
        self.rows += len(answers)

    def read(self, start: int, count: int) -> np.ndarray:
        """The answers (count,) of the rows from `start` on."""
        if not count:
            return np.empty(0, RECORD)
        return np.fromfile(self.folder / ANSWERS, RECORD, count, offset=start * RECORD.itemsize)

    @property
    def output(self) -> Path:
        """Where to write the output."""
        return self.folder / OUTPUT

    def finish(self) -> None:
        """Give the output its place, and clear up.

        Raises:
            UserError: a file has come there meanwhile, which must not be lost; the answers stay.
        """
        check_free(self.out, self.replace)
        with write_errors(self.out):
            to_disk(self.output)  # before the answers go: a crash of the machine must not cost both
            self.output.replace(self.out)
            (self.folder / ANSWERS).unlink(missing_ok=True)  # first of all: without the command they are a riddle
            shutil.rmtree(self.folder)
        self.rows = 0


def parts_folder(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def check_free(out: Path, replace: bool) -> None:
    """UserError where `out` cannot take its place."""
    if out.is_dir():
        raise UserError(f"{out}: is a folder; expected the name of a file")
    if out.exists() and not replace:
        raise UserError(f"{out}: exists already; name another output, or replace it with --force")


def _locked(folder: Path) -> int | None:
    """A handle of the folder that no other process has; the system lets go of it when this one ends.

    Some disks know no locks. There nothing keeps a second process away. Windows has no such handle; there it is None.
    """
    if os.name == "nt":
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            raise UserError(f"{folder}: another process is at work on this very output; wait for it or end it")
    except NoLocksError:
        pass
    except BaseException:
        os.close(handle)
        raise
    return handle


def _json(path: Path) -> Any:
    """What a file holds; None where there is none, or half of one."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
