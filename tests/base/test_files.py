"""Outputs are whole or absent, and what was there before outlives a failure."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from deebert.base import files
from deebert.base.errors import UserError
from deebert.base.files import check_readable, check_writable, output_dir, read_json, write_json
from tests.disks import refuse_locks, watch_renames, withheld


def tree(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_output_dir_replaces_the_folder(tmp_path: Path) -> None:
    """After the block the folder holds what the block wrote and nothing of before, and nothing else is left around."""
    out = tmp_path / "made" / "out"
    for content in ("old", "new"):
        with output_dir(out) as folder:
            assert list(folder.iterdir()) == []
            (folder / content).write_text(content)
    assert tree(tmp_path) == {"made/out/new": "new"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("target", ["elsewhere/out", "new/out"])
def test_output_dir_through_a_link(tmp_path: Path, target: str) -> None:
    """The link stays, and the folder that it leads to is replaced, or made."""
    (tmp_path / "elsewhere/out").mkdir(parents=True)
    (tmp_path / "elsewhere/out/old").write_text("old")
    (tmp_path / "link").symlink_to(target)
    for content in ("one", "two"):
        with output_dir(tmp_path / "link") as folder:
            (folder / content).write_text("new")
    assert (tmp_path / "link").readlink() == Path(target)
    assert [path.name for path in (tmp_path / target).iterdir()] == ["two"]
    assert [path.name for path in (tmp_path / target).parent.iterdir()] == ["out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"elsewhere", "link", target.split("/")[0]})


@pytest.mark.parametrize("name", [".", "../here"])
def test_output_dir_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The working folder is filled, and whoever is in it sees that; after an exception it is as it was."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for content in ("old", "new"):
        with output_dir(Path(name)) as folder:
            (folder / content).write_text(content)
    with pytest.raises(KeyboardInterrupt), output_dir(Path(name)) as folder:
        raise KeyboardInterrupt
    assert tree(Path.cwd()) == {"new": "new"} and [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, UserError])
def test_output_dir_keeps_the_old_folder_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    """When the block raises, the old folder is as it was and no half-written one is left."""
    out = tmp_path / "out"
    with output_dir(out) as folder:
        (folder / "file").write_text("old")
    with pytest.raises(error), output_dir(out) as folder:
        (folder / "file").write_text("half")
        raise error
    assert tree(tmp_path) == {"out/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("place", ["taken", "taken/out"])
def test_output_dir_where_a_file_is(tmp_path: Path, place: str) -> None:
    """A file where the folder or its parent should be is one line naming the path, and the file stays."""
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(UserError, match=f"{place}: cannot be written: "), output_dir(tmp_path / place) as folder:
        (folder / "file").write_text("new")
    assert tree(tmp_path) == {"taken": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def lost_input(folder: Path) -> None:
    (folder.parent / "input").read_text()


def lost_tensors(folder: Path) -> None:
    load_file(folder.parent / "input.safetensors")


def damaged_tensors(folder: Path) -> None:
    load_file(folder.parent / "damaged.safetensors")


def lost_original(folder: Path) -> None:
    shutil.copy(folder.parent / "input", folder / "file")


def refused_connection(folder: Path) -> None:
    raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lost_input, FileNotFoundError),
        (lost_tensors, FileNotFoundError),
        (lost_original, FileNotFoundError),
        (damaged_tensors, SafetensorError),
        (refused_connection, ConnectionRefusedError),
    ],
)
def test_an_input_is_not_told_as_the_output(
    read: Callable[[Path], None], error: type[Exception], tmp_path: Path
) -> None:
    """What cannot be read inside the block passes through as it is, and the old folder stays."""
    (tmp_path / "damaged.safetensors").write_bytes(b"damaged")
    with output_dir(tmp_path / "out") as folder:
        (folder / "file").write_text("old")
    with pytest.raises(error), output_dir(tmp_path / "out") as folder:
        read(folder)
    assert (tmp_path / "out/file").read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def under_a_file(folder: Path) -> None:
    (folder / "file").write_text("a file")
    (folder / "file/below").write_text("more")


def tensors_in_no_folder(folder: Path) -> None:
    save_file({"a": torch.zeros(1)}, folder / "none/a.safetensors")


def copied_to_no_folder(folder: Path) -> None:
    (folder.parent / "input").write_text("there")
    shutil.copy(folder.parent / "input", folder / "none/file")


def relative_name(folder: Path) -> None:
    Path(os.path.relpath(folder / "none/file")).write_text("text")


def full_disk(folder: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")  # as `write` tells it: without a name


@pytest.mark.parametrize("write", [under_a_file, tensors_in_no_folder, copied_to_no_folder, relative_name, full_disk])
def test_what_cannot_be_written_is_told_as_the_output(write: Callable[[Path], None], tmp_path: Path) -> None:
    """Whatever writes into the folder and however it names the file, the line is about the output."""
    with pytest.raises(UserError, match="out: cannot be written: ") as caught, output_dir(tmp_path / "out") as folder:
        write(folder)
    assert "\n" not in str(caught.value) and ".tmp" not in str(caught.value).split(": ")[0]
    assert not (tmp_path / "out").exists()


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    """What a process killed in the middle left beside the output goes with the next one, which needs no old folder."""
    code = f"""
import os, sys; sys.path.insert(0, {str(Path(files.__file__).parents[2])!r})
from pathlib import Path; from deebert.base.files import output_dir
with output_dir(Path({str(tmp_path / "out")!r})) as folder:
    (folder / "file").write_text("half")
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    (tmp_path / ".out.1.old.tmp").mkdir()
    (tmp_path / ".it.json.1.tmp").write_text("half")
    os.utime(tmp_path / ".it.json.1.tmp", (0, 0))
    assert len(list(tmp_path.iterdir())) == 3
    with output_dir(tmp_path / "out") as folder:
        (folder / "file").write_text("new")
    write_json(tmp_path / "it.json", {})
    assert tree(tmp_path) == {"out/file": "new", "it.json": "{}\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["it.json", "out"]


def test_a_file_through_a_link(tmp_path: Path) -> None:
    """The link stays, and the file that it leads to is replaced, or made."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link.json").symlink_to("elsewhere/it.json")
    for content in (1, 2):
        write_json(tmp_path / "link.json", content)
    (tmp_path / "lost.json").symlink_to("elsewhere/it.json/no.json")
    with pytest.raises(UserError, match=r"lost\.json: cannot be written"):
        check_writable(tmp_path / "lost.json")
    (tmp_path / "lost.json").unlink()
    assert (tmp_path / "link.json").is_symlink() and tree(tmp_path / "elsewhere") == {"it.json": "2\n"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "link.json"]


def test_threads_write_one_file(tmp_path: Path) -> None:
    """Whoever reads it meanwhile finds all of what one of them wrote, and nothing is left beside it."""
    path = tmp_path / "it.json"
    write_json(path, {"rows": []})

    def write_often(number: int) -> None:
        for _ in range(200):
            write_json(path, {"rows": [number] * 1000 * number})
            assert len(set(read_json(path)["rows"])) == 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write_often, range(1, 5)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_being_written_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer of the same folder leaves the first one's unfinished work alone; the last to end wins."""
    out = tmp_path / "out"
    with output_dir(out) as first:
        (first / "file").write_text("first")
        monkeypatch.setattr(os, "getpid", lambda: 123456789)
        with output_dir(out) as second:
            (second / "file").write_text("second")
        assert tree(tmp_path)["out/file"] == "second"
    assert tree(tmp_path) == {"out/file": "first"}


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), pytest.raises(UserError, match="out: cannot be written: Input/out")),
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    ],
)
def test_a_failed_swap_leaves_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, told: AbstractContextManager
) -> None:
    """When the new folder does not get into its place, the old one is put back."""
    out = tmp_path / "out"
    with output_dir(out) as folder:
        (folder / "file").write_text("old")
    rename = Path.rename

    def rename_unless_new(self: Path, target: Path) -> Path:
        if (self / "new").exists():
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_unless_new)
    with told, output_dir(out) as folder:
        (folder / "new").write_text("new")
    assert tree(tmp_path) == {"out/file": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    """Whoever wrote them, also safetensors, which lets nobody but the owner read: files are as open as their folder."""
    before = os.umask(umask)
    try:
        with output_dir(tmp_path / "out") as folder:
            (folder / "below").mkdir()
            save_file({"a": torch.zeros(1)}, folder / "a.safetensors")
            save_file({"a": torch.zeros(1)}, folder / "below/a.safetensors")
            (folder / "file").touch(mode=0o600)
        write_json(tmp_path / "out/it.json", {})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~umask}


def test_output_dir_where_nobody_can_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is written all the same. Folders beside it stay, since somebody may be writing them."""
    refuse_locks(monkeypatch)
    (tmp_path / ".out.1.tmp").mkdir()
    for content in ("old", "new"):
        with output_dir(tmp_path / "out") as folder:
            (folder / "file").write_text(content)
    assert tree(tmp_path) == {"out/file": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.1.tmp", "out"]


def test_what_is_to_be_kept_stays(tmp_path: Path) -> None:
    """All else in the folder is replaced, and after an exception everything is as it was."""
    (tmp_path / "out/kept").mkdir(parents=True)
    (tmp_path / "out/kept/file").write_text("kept")
    (tmp_path / "out/former").mkdir()
    (tmp_path / "out/file").write_text("old")
    with pytest.raises(KeyboardInterrupt), output_dir(tmp_path / "out", keep=["kept"]) as folder:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt
    assert tree(tmp_path) == {"out/kept/file": "kept", "out/file": "old"}
    with output_dir(tmp_path / "out", keep=["kept"]) as folder:
        (folder / "file").write_text("new")
    assert tree(tmp_path) == {"out/kept/file": "kept", "out/file": "new"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file", "kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_disk_has_what_takes_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the machine after a rename leaves no empty file, be it of a folder, put into one, or alone."""
    lost = watch_renames(monkeypatch)
    for keep, name in (([], "below/file"), (["below"], "file")):
        with output_dir(tmp_path / "out", keep) as folder:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("text")
    write_json(tmp_path / "it.json", [1])
    assert lost == [] and tree(tmp_path)["it.json"] == "[\n1\n]\n"


@pytest.mark.parametrize("name", ["folder/file.json", "folder"])
def test_what_must_not_be_read_is_not_told_as_missing(tmp_path: Path, name: str) -> None:
    """One line says that the permission is missing, of a file or of a folder; what is not there is no matter here."""
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder/file.json"
    file.write_text("{}")
    check_readable(tmp_path / "folder")
    check_readable(tmp_path / "nowhere")
    with withheld(tmp_path / name):
        for call, told in ((check_readable, tmp_path / name), (read_json, file)):
            with pytest.raises(UserError) as caught:
                call(told)
            assert str(caught.value) == f"{told}: cannot be read: Permission denied"
        with pytest.raises(UserError, match=f"{name}: cannot be read: Permission denied"):
            check_readable(tmp_path / "folder")


@pytest.mark.parametrize("content", [{"a": [1, 2.5, "é"], "b": {"c": None}}, [{"row": 1}, {"row": 2}], [], {}])
def test_json_comes_back(tmp_path: Path, content: object) -> None:
    """What is written is read back, from UTF-8 text that ends in a newline, and no other file is left."""
    path = tmp_path / "new" / "it.json"
    write_json(path, content)
    assert read_json(path) == content
    assert path.read_text(encoding="utf-8").endswith("\n")
    assert [file.name for file in path.parent.iterdir()] == ["it.json"]


def test_rows_get_a_line_each(tmp_path: Path) -> None:
    """A list of rows is one row per line, so that a diff shows the rows that changed."""
    write_json(tmp_path / "rows.json", [{"a": 1}, {"a": 2}, {"a": 3}])
    lines = (tmp_path / "rows.json").read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[1:-1]] == [{"a": 1}, {"a": 2}, {"a": 3}]


@pytest.mark.parametrize("content", [{"a": float("nan")}, [{"a": float("inf")}], {"a": object()}])
def test_what_json_cannot_hold_is_refused(tmp_path: Path, content: object) -> None:
    """NaN, infinity and the like raise, and the file of before is as it was."""
    path = tmp_path / "it.json"
    write_json(path, {"old": True})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert tree(tmp_path) == {"it.json": '{\n  "old": true\n}\n'}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When writing breaks off in the middle, the line names the file, which is as it was, and nothing is left over."""
    path = tmp_path / "it.json"
    write_json(path, {"old": True})
    before = tree(tmp_path)
    write_bytes = Path.write_bytes

    def write_half(self: Path, content: bytes) -> int:
        write_bytes(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(UserError, match=r"it\.json: cannot be written: No space left on device"):
        write_json(path, {"new": True})
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["taken/it.json", "folder"])
def test_json_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    """A file for a parent or a folder in the file's place is one line naming the path, with nothing left over."""
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "folder").mkdir()
    for write in (check_writable, partial(write_json, content={})):
        with pytest.raises(UserError, match=f"{place}: cannot be written: "):
            write(tmp_path / place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "taken"]


@pytest.mark.parametrize(
    ("content", "told"), [(None, "no such file"), (b"{", "not readable as JSON"), (b"\xff", "not readable as JSON")]
)
def test_json_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    """A missing, cut or non-UTF-8 file is one line naming the path."""
    path = tmp_path / "it.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: {told}") and "\n" not in str(caught.value)


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    """A link to a folder that is not to be kept goes, and no file of that folder."""
    for folder in ("mine", "out/kept"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "mine/file").write_text("mine")
    (tmp_path / "out/link").symlink_to(tmp_path / "mine")
    with output_dir(tmp_path / "out", keep=["kept"]) as folder:
        (folder / "file").write_text("new")
    assert tree(tmp_path) == {"mine/file": "mine", "out/file": "new"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file", "kept"]


def test_no_handle_stays_open(tmp_path: Path) -> None:
    """A program may write as many folders as it likes."""

    def handles() -> int:
        return sum(1 for _ in Path("/dev/fd").iterdir())

    before = handles()
    for _ in range(3):
        with output_dir(tmp_path / "out") as folder:
            (folder / "file").write_text("new")
        with pytest.raises(KeyboardInterrupt), output_dir(tmp_path / "out"):
            raise KeyboardInterrupt
    assert handles() == before


@pytest.mark.parametrize("age_s", [60, 7200])
def test_a_file_that_somebody_may_be_writing_stays(tmp_path: Path, age_s: int) -> None:
    """Beside a file, what another process has begun to write goes once it is older than an hour."""
    begun = tmp_path / ".it.json.1.tmp"
    begun.write_text("half")
    os.utime(begun, (time.time() - age_s,) * 2)
    write_json(tmp_path / "it.json", {})
    assert begun.exists() == (age_s < 3600)


def test_a_device_is_written_to(tmp_path: Path) -> None:
    """It is never replaced by a file, which root could do to /dev/null; of a pipe, somebody reads what is written."""
    write_json(Path("/dev/null"), {})
    check_writable(Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
    with pytest.raises(UserError, match="/dev/full: cannot be written: No space left on device"):
        write_json(Path("/dev/full"), {})
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read_text)
        write_json(pipe, {"a": 1})
        assert json.loads(read.result()) == {"a": 1}
    assert pipe.is_fifo() and [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_within_is_replaced_where_files_are_put_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it has files of its own: those of before are gone."""
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        with output_dir(Path()) as folder:
            (folder / "part").mkdir()
            (folder / "part" / name).write_text(name)
    assert tree(tmp_path) == {"part/two": "two"}


def test_a_folder_just_begun_is_no_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread, or process, that writes in the same place at that very moment leaves it alone."""
    locked = files._locked

    def write(content: str) -> None:
        with output_dir(tmp_path / "out") as folder:
            (folder / "file").write_text(content)

    def late(folder: Path) -> int | None:
        monkeypatch.setattr(files, "_locked", locked)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(write, "other").result()
        assert tree(tmp_path)["out/file"] == "other"
        return locked(folder)

    monkeypatch.setattr(files, "_locked", late)
    write("mine")
    assert tree(tmp_path) == {"out/file": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
