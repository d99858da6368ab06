"""Running the command `deebert`: in this process, or in one of its own that a test may end as it likes."""

import os
import resource
import signal
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from deebert.cli.main import main
from tests.forked import PROCESSES


def status(*arguments: object) -> int:
    """Run a command line in this process; its exit status."""
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def error(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line in which a command line is told to be a mistake."""
    capsys.readouterr()
    assert status(*arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


def execute(arguments: Sequence[str], stderr: Path, max_file_bytes: int) -> None:
    """Run a command line as `python -m deebert` does; the target of a process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs the tests in the background
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    if max_file_bytes:  # to whoever writes more it looks like a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))
    main(arguments)


def start(*arguments: object, stderr: Path, max_file_bytes: int = 0) -> BaseProcess:
    process = PROCESSES.Process(target=execute, args=([str(each) for each in arguments], stderr, max_file_bytes))
    process.start()
    return process
