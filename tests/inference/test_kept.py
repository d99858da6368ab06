"""Answers that are kept beside an output: whole ones only, of this very command only, for one process at a time."""

import errno
import fcntl
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deebert.base.errors import UserError
from deebert.inference.kept import ANSWERS, NO_TEXT, RECORD, Kept, parts_folder
from tests.disks import watch_renames

COMMAND = {"input": "abc", "threshold_nats": 0.1}


def records(count: int, start: int = 0) -> np.ndarray:
    made = np.zeros(count, RECORD)
    made["label_id"] = np.arange(start, start + count)
    made["probability"] = 0.5
    made["exit_layer"] = 1
    return made


def broken_off(out: Path, count: int = 5, **command: Any) -> Path:
    """What a command has left that was ended after `count` answers; returns their file."""
    with pytest.raises(KeyboardInterrupt), Kept(out, COMMAND | command, False) as kept:
        kept.append(records(2))
        kept.append(records(count - 2, start=2))
        raise KeyboardInterrupt
    return parts_folder(out) / ANSWERS


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_answers_come_back(tmp_path: Path) -> None:
    """In their order, from any row on; when the output has its place, nothing else is left."""
    out = tmp_path / "new" / "out.csv"
    broken_off(out)
    with Kept(out, COMMAND, False) as kept:
        assert kept.rows == 5
        kept.append(records(1, start=5))
        assert kept.read(0, 6).tolist() == records(6).tolist()
        assert kept.read(4, 2)["label_id"].tolist() == [4, 5] and len(kept.read(6, 0)) == 0
        kept.output.write_bytes(b"rows")
        assert not out.exists()
        kept.finish()
    assert content_of(tmp_path) == {"new/out.csv": b"rows"}


def test_the_disk_has_an_output_before_its_answers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the machine leaves one or the other."""
    lost = watch_renames(monkeypatch)
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        kept.append(records(1))
        kept.output.write_bytes(b"rows")
        kept.finish()
    assert lost == [] and content_of(tmp_path) == {"out": b"rows"}


def test_a_file_that_came_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """It stays, and so do the answers, for the same command with `replace`."""
    out = tmp_path / "out"
    with pytest.raises(UserError, match="out: exists already; "), Kept(out, COMMAND, False) as kept:
        kept.append(records(5))
        kept.output.write_bytes(b"rows")
        out.write_bytes(b"precious")
        kept.finish()
    assert out.read_bytes() == b"precious"
    with Kept(out, COMMAND, True) as kept:
        assert kept.rows == 5
        kept.output.write_bytes(b"rows")
        kept.finish()
    assert content_of(tmp_path) == {"out": b"rows"}


@pytest.mark.parametrize("more", [b"\0", b"\xff" * 11, bytes(RECORD.itemsize), bytes(100 * RECORD.itemsize)])
def test_what_was_half_written_does_not_count(tmp_path: Path, more: bytes) -> None:
    """Half a record, and the zeros that a disk may have after the machine itself has crashed, are no answers."""
    with broken_off(tmp_path / "out").open("ab") as file:
        file.write(more + (records(1).tobytes() if len(more) >= RECORD.itemsize else b""))
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        assert kept.rows == 5
        kept.cut(4)
        kept.append(records(2, start=4))
        assert kept.read(0, 6).tolist() == records(6).tolist()
        assert (tmp_path / ".out.parts" / ANSWERS).stat().st_size == 6 * RECORD.itemsize


def test_a_command_without_answers_leaves_nothing(tmp_path: Path) -> None:
    """Whatever ended it."""
    with pytest.raises(UserError), Kept(tmp_path / "out", COMMAND, False) as kept:
        kept.output.write_bytes(b"half")
        raise UserError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_another_commands_answers_are_not_lost(tmp_path: Path) -> None:
    """The line says how many there are and what differs; with leave they make room; without answers nothing is told."""
    path = broken_off(tmp_path / "out", threshold_nats=0.3)
    before = content_of(tmp_path)
    told = "holds 5 answers of another command, which was broken off: threshold_nats 0.3 (now 0.1); repeat that one"
    with pytest.raises(UserError, match=re.escape(told)), Kept(tmp_path / "out", COMMAND, False):
        pass
    assert content_of(tmp_path) == before
    with Kept(tmp_path / "out", COMMAND, True) as kept:
        assert kept.rows == 0 and not path.exists()
        kept.append(records(1))
    path.write_bytes(b"")
    with Kept(tmp_path / "out", COMMAND | {"threshold_nats": 0.7}, False) as kept:
        assert kept.rows == 0


@pytest.mark.parametrize("damage", [b"", b"{", b"[]"])
def test_answers_of_nobody_knows_what(tmp_path: Path, damage: bytes) -> None:
    """Where the command is damaged, its answers are another command's."""
    path = broken_off(tmp_path / "out")
    (path.parent / "command.json").write_bytes(damage)
    with pytest.raises(UserError, match="answers of another command"), Kept(tmp_path / "out", COMMAND, False):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """Whoever comes second is told; the first does not notice."""
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        kept.append(records(3))
        told = "another process is at work on this very output"
        with pytest.raises(UserError, match=told), Kept(tmp_path / "out", COMMAND, True):
            pass
        assert kept.read(0, 3).tolist() == records(3).tolist()
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        assert kept.rows == 3


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps answers all the same."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    broken_off(tmp_path / "out")
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        assert kept.rows == 5


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """One line names it."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written: "), Kept(tmp_path / "file" / "out", COMMAND, False):
        pass


def test_rows_without_a_text_are_kept(tmp_path: Path) -> None:
    """They have no answer, and are done all the same."""
    made = records(5)
    made["exit_layer"][2] = NO_TEXT
    with pytest.raises(KeyboardInterrupt), Kept(tmp_path / "out", COMMAND, False) as kept:
        kept.append(made)
        raise KeyboardInterrupt
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        assert kept.rows == 5 and kept.read(0, 5).tolist() == made.tolist()


def test_what_a_crash_left_unwritten_is_cut_off_behind_many_rows(tmp_path: Path) -> None:
    """All before it stays, however much that is."""
    count = 2**16 + 5
    with broken_off(tmp_path / "out", count).open("ab") as file:
        file.write(bytes(3 * RECORD.itemsize))
    with Kept(tmp_path / "out", COMMAND, False) as kept:
        assert kept.rows == count
