"""The start of several processes for one training.

Whoever starts the stage by torchrun has nothing to set; `DEEBERT_PROCESSES=2 dvc repro` has the stage do it itself.
"""

import logging
import os
import signal
import sys
import threading
import time
from datetime import timedelta
from types import TracebackType
from typing import NoReturn

import torch
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from deebert.base.errors import UserError
from deebert.training.processes import count, rank

VARIABLE = "DEEBERT_PROCESSES"
SAVING = timedelta(minutes=10)  # a checkpoint may take so long after SIGTERM; torchrun itself kills after 30 seconds
# What torchrun passes on; by itself it does so under nohup, too, which is there to be deaf to SIGHUP.
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


def launch() -> None:
    """Have torchrun run this very command in as many processes as DEEBERT_PROCESSES says; by default do nothing.

    With more than one this does not return: the process ends as those that it has started, and adds no word to theirs.

    Raises:
        UserError: the variable is not a whole number of processes that this machine has devices for, or a process was
            killed.
    """
    wanted = os.environ.get(VARIABLE, "1")
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"{VARIABLE}: {wanted!r} is not allowed; expected a whole number, 1 or more")
    devices = torch.cuda.device_count()
    if devices and int(wanted) > devices:
        raise UserError(f"{VARIABLE}: {wanted} is more than the {devices} GPUs that can be seen; one process uses one")
    if "RANK" not in os.environ and int(wanted) > 1:
        _run_by_torchrun(int(wanted))
    if count() > 1:
        sys.excepthook = _but_for_a_lost_neighbour
    if rank() > 0:
        logging.getLogger("deebert").setLevel(logging.ERROR)  # what all have to tell, the first one tells


def _but_for_a_lost_neighbour(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """As Python's own hook, but silent where another process has died, which torchrun or `launch` tells."""
    if not (isinstance(error, RuntimeError) and "gloo" in str(error) and "by peer" in str(error)):
        sys.__excepthook__(kind, error, trace)


def _end_with_dvc() -> None:
    """As `stops.stop_requests` does for a single process: torchrun outlives DVC, and here it is the others' parent."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    if "DVC_STAGE" in os.environ:
        threading.Thread(target=watch, daemon=True).start()


def _run_by_torchrun(size: int) -> NoReturn:
    from torch.distributed import run  # takes a while to import, and is rarely needed

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", f"{SAVING.total_seconds():.0f}")
    _end_with_dvc()
    logging.disable()  # torchrun tells at length that a process has failed, which that process has told in a line
    heeded = [name for name in SIGNALS if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN]
    options = ["--standalone", f"--nproc-per-node={size}", f"--signals-to-handle={','.join(heeded)}"]
    try:
        run.main([*options, *sys.argv])
    except SignalException as error:  # passed on to all, which have ended
        sys.exit(130 if error.sigval == signal.SIGINT else 1)
    except ChildFailedError as error:
        status = error.get_first_failure()[1].exitcode
        if status < 0:
            raise UserError(f"one of the {size} processes was killed: {signal.Signals(-status).name}") from None
        sys.exit(status)
    sys.exit(0)
