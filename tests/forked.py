"""Processes that a test may end as it likes, and that start in no time: they fork from one that has imported all."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing import forkserver, resource_tracker, spawn
from multiprocessing.process import BaseProcess
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
# What all tests' processes need, for they share one server.
PRELOADED = [
    "tests.cli.running",
    "tests.training.test_survival",
    "deebert.inference.bulk",
    "transformers.models.bert.modeling_bert",
]
TIMEOUT_S = 300  # for what hangs; a busy machine takes its time over the rest


def start_server(python: Path) -> None:
    """Have `python`, a warm one, run the server of these processes, unless it runs already.

    A Python of its own would import for seconds what the warm one has. What the server forks has the project's code as
    well, which each warm Python imports anew.
    """
    PROCESSES.set_forkserver_preload(PRELOADED)
    resource_tracker.ensure_running()  # it needs no libraries
    before = spawn.get_executable()
    spawn.set_executable(str(python))
    try:
        forkserver.ensure_running()
    finally:
        spawn.set_executable(before)


def ended(process: BaseProcess) -> int:
    """Wait for a process; its exit code, minus the signal's number if it was killed."""
    process.join(TIMEOUT_S)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def wait_for(condition: Callable[[], object], process: BaseProcess) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert process.is_alive() and time.monotonic() < end, "it never happened"
        time.sleep(0.001)
