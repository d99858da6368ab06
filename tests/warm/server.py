"""Forks Pythons that have imported the large libraries already, for the clients that ask for one.

A new Python imports torch and transformers for seconds. Where a test starts many, most of its time would be that. The
project's own code is imported anew in each of them, from where its PYTHONPATH says.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path
from typing import NoReturn

FOR_DVC = (
    "dvc.cli.parser",
    "dvc.data_cloud",
    "dvc.repo.experiments.executor.local",
    "dvc.repo.experiments.queue.celery",
    "dvc.repo.graph",
    "dvc.repo.index",
    "dvc.repo.open_repo",
    "dvc.repo.plots",
    "dvc.repo.stage",
    "hydra.compose",
    "networkx",
    "pygit2",
)
LIBRARIES = (
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "matplotlib.style",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "ruamel.yaml",
    "safetensors.numpy",
    "scipy.special",
    "scipy.stats",
    "torch.distributed.run",
    "torch.nn.parallel",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.trainer_utils",
)
MOST_FILES = 100  # that a client may have been handed open


def serve(place: str, until_ends: int) -> dict:
    """Take requests until that process ends. Return, in a new process for each, what that one has to run."""
    its_end = os.pidfd_open(until_ends)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(place)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    while True:
        ready, _, _ = select.select([listener, its_end], [], [])
        if its_end in ready:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(its_end)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return attend(connection)
        connection.close()


def attend(connection: socket.socket) -> dict:
    """Fork the process that the client stands for. In that process return its request; here, tell how it ends."""
    length, (*files,), _, _ = socket.recv_fds(connection, 4, MOST_FILES)
    request = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    process = os.fork()
    if process == 0:
        connection.close()
        take(files, request.pop("files"))
        return request
    for file in files:
        os.close(file)
    its_end = os.pidfd_open(process)
    while its_end not in (ready := select.select([connection, its_end], [], [])[0]):
        assert connection in ready
        number = connection.recv(1)
        os.kill(process, number[0] if number else signal.SIGKILL)  # a client that was killed says nothing more
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(status.to_bytes(4, "big", signed=True))
    os._exit(0)


def take(files: list[int], numbers: list[int]) -> None:
    """Have each file open under its number, which may at first be another file's, and under no other one."""
    away = [fcntl.fcntl(file, fcntl.F_DUPFD, 1 + max(numbers)) for file in files]
    for file in files:
        os.close(file)
    for file, number in zip(away, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def become(
    program: str, arguments: list[str], folder: str, environment: dict[str, str], max_file_bytes: tuple[int, int]
) -> None:
    """Run a script, the module after -m or the words after -c as a new Python in that folder and environment would."""
    sys.executable = program  # so what this one starts is warm, too
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(max_file_bytes))
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if arguments[0] == "-u":
        sys.stdout.reconfigure(write_through=True)
        arguments = arguments[1:]
    own = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    if arguments[-2:-1] == ["-c"]:
        sys.path[:] = [folder, *own, *sys.path[1:]]
        sys.argv = ["-c"]
        exec(arguments[-1], {"__name__": "__main__"})
    elif arguments[0] == "-m":
        sys.path[:] = [folder, *own, *sys.path[1:]]
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[:] = [str(Path(arguments[0]).resolve().parent), *own, *sys.path[1:]]
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def end(status: object) -> NoReturn:
    """End the process in order, but do not take all those libraries apart, which takes a second."""
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in (*LIBRARIES, *(FOR_DVC if sys.argv[3:] else ())):
            importlib.import_module(library)
    # A thousand patterns, which each process that loads a model would compile anew.
    sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("bert")
    gc.freeze()  # no process has to look through all their objects
    request = serve(sys.argv[1], int(sys.argv[2]))
    try:
        become(**request)
    except SystemExit as error:
        end(error.code)
    end(0)
