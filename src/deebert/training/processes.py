"""One training by several processes: torchrun (or `accelerate launch`) starts them, PyTorch's DDP joins them.

Whoever starts the stage by torchrun has nothing to set; `DEEBERT_PROCESSES=2 dvc repro` has the stage do it itself.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import distributed

from deebert.base.devices import pick_device
from deebert.base.errors import UserError

VARIABLE = "DEEBERT_PROCESSES"
PATIENCE = timedelta(hours=1)  # of the others, while the first process scores the validation split or writes


def rank() -> int:
    """The number of this process, counted from 0; only process 0 writes files and tells how it goes."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many processes share the work, 1 unless started by torchrun or its like."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def launch() -> None:
    """Become torchrun with as many processes of this very command as DEEBERT_PROCESSES says; by default do nothing.

    Raises:
        UserError: the variable is not a whole number of processes that this machine has devices for.
    """
    wanted = os.environ.get(VARIABLE, "1")
    if not wanted.isascii() or not wanted.isdigit() or int(wanted) < 1:
        raise UserError(f"{VARIABLE}: {wanted!r} is not allowed; expected a whole number, 1 or more")
    devices = torch.cuda.device_count()
    if devices and int(wanted) > devices:
        raise UserError(f"{VARIABLE}: {wanted} is more than the {devices} GPUs that can be seen; one process uses one")
    if "RANK" in os.environ or int(wanted) == 1:
        return
    sys.stderr.flush()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={wanted}"]
    os.execv(sys.executable, [*torchrun, *sys.argv])


@contextmanager
def joined() -> Iterator[None]:
    """Within the block the processes can talk to each other, and each has its own GPU, where there are any."""
    if count() == 1:
        yield
        return
    cuda = pick_device().type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()
