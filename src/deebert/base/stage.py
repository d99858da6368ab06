"""What all scripts have in common: an end told in one line; and the stages' own, paths from the command line."""

import inspect
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from deebert.base.errors import UserError, one_line
from deebert.base.files import NO_ROOM, write_errors

STOPPED = "stopped by {}; no output is half-written"
# `kill`, SLURM and clouds send the first, a terminal that is closed the second, which Windows does not know.
ENDINGS = [signal.Signals[name] for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(BaseException):
    """One of ENDINGS has come, which is the argument; like KeyboardInterrupt nothing that a library would catch."""


def run(main: Callable[..., None]) -> None:
    """Call `main` with the command line's paths, one per parameter of `main`; mistakes are `told_in_one_line`."""
    log_to_stderr()
    names = list(inspect.signature(main).parameters)
    arguments = sys.argv[1:]
    if len(arguments) != len(names):
        print(f"usage: python {sys.argv[0]} {' '.join(name.upper() for name in names)}", file=sys.stderr)
        sys.exit(2)
    with told_in_one_line():
        main(*map(Path, arguments))


def log_to_stderr() -> None:
    """What the project logs is for the user to read; of libraries only warnings are."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "httpcore", "fsspec", "datasets", "filelock", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def flush() -> None:
    """Write out what was printed; there is no standard output where a shell has closed it."""
    if sys.stdout is not None:
        sys.stdout.flush()


@contextmanager
def told_in_one_line() -> Iterator[None]:
    """End the process in order where the block cannot go on.

    A UserError, SIGTERM, SIGHUP, a full disk or GPU, or a file that cannot be read or written ends it with status 1 and
    one line on stderr, Ctrl-C with 130 and one line. Anything else is a fault of ours and keeps its traceback.
    """
    try:
        with _endings_raise():
            yield
            with write_errors(Path("standard output")):  # here, and not when Python ends
                flush()
    except UserError as error:
        _end(1, f"error: {error}")
    except OSError as error:  # nobody below had more to say of it: a folder one may not enter, a name too long
        if error.filename is not None:
            _end(1, f"error: {error.filename}: {error.strerror}")
        if error.errno in NO_ROOM:  # of a file that we write we know the name
            _end(1, f"error: standard output or a temporary file: cannot be written: {error.strerror}")
        if isinstance(error, FileNotFoundError | PermissionError):  # libraries tell the file in their own words
            _end(1, f"error: {one_line(error)}")
        raise
    except RuntimeError as error:
        torch = sys.modules.get("torch")  # commands that compute nothing do without
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            _end(
                1, f"error: no room left on the GPU; expected a freer one, smaller batches, or a CPU: {one_line(error)}"
            )
        raise
    except Terminated as error:
        _end(1, f"error: {STOPPED.format(error)}")
    except KeyboardInterrupt as error:
        _end(130, str(error) or STOPPED.format("Ctrl-C"))


@contextmanager
def _endings_raise() -> Iterator[None]:
    """Within the block ENDINGS are exceptions, so that what was begun is cleared up; by default they kill at once."""

    def handle(number: int, _frame: object) -> None:
        name = signal.Signals(number).name
        if name == "SIGHUP":  # both the system and the shell send it; the second must not break the clearing up
            signal.signal(number, signal.SIG_IGN)
        raise Terminated(name)

    before = {number: signal.getsignal(number) for number in ENDINGS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:  # else it was decided meanwhile to be deaf to it
                signal.signal(number, handler)


def _end(status: int, line: str) -> None:
    with suppress(OSError):  # the terminal may be closed
        print(*line.splitlines(), file=sys.stderr)
    try:
        flush()
    except OSError:  # Python would try once more, complain, and end with a status of its own
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
