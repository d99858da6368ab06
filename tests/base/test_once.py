"""A value that is worked out once, also where a process forks while another thread is at it."""

import ast
import os
import threading
import time
from pathlib import Path

import pytest

from deebert.base.once import once

PACKAGE = Path(__file__).parents[2] / "src/deebert"


class Counted:
    def __init__(self, wait: threading.Event | None = None) -> None:
        self.wait, self.begun, self.count = wait, threading.Event(), 0

    @once
    def value(self) -> int:
        """How often it was worked out."""
        self.begun.set()
        if self.wait:
            self.wait.wait()
        self.count += 1
        return self.count


def test_it_is_worked_out_once() -> None:
    """For each object, and the class tells what it is."""
    one, other = Counted(), Counted()
    assert [one.value, one.value, other.value, one.count, other.count] == [1, 1, 1, 1, 1]
    assert Counted.value.__doc__ == "How often it was worked out."


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_process_forked_meanwhile_does_not_wait() -> None:
    """What another thread was at when the process forked has no end in the child."""
    end = threading.Event()
    slow = Counted(end)
    thread = threading.Thread(target=lambda: slow.value)
    thread.start()
    slow.begun.wait()
    child = os.fork()
    if child == 0:
        os._exit(Counted().value)
    try:
        deadline, done = time.monotonic() + 60, (0, 0)
        while done[0] == 0 and time.monotonic() < deadline:
            done = os.waitpid(child, os.WNOHANG)
            time.sleep(0.005)
        if done[0] == 0:
            os.kill(child, 9)
            os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(done[1]) == 1 and done[0] == child
    finally:
        end.set()
        thread.join()


def test_nothing_that_answers_holds_a_lock_of_a_library() -> None:
    """In Python 3.11 `functools.cached_property` has a lock that all objects share."""
    for room in ("inference", "encoders", "exits", "base"):
        for file in (PACKAGE / room).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.ImportFrom) else []
                assert "cached_property" not in names, file
