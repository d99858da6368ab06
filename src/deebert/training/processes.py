"""One training by several processes: torchrun starts them (see `launch`), PyTorch's DDP joins them."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

PATIENCE = timedelta(hours=1)  # of the others, while the first process scores the validation split or writes
# Whoever lets go of a piece of work last frees Python's objects, for which it needs Python's lock. Were that a thread
# of Gloo's, the end of the group could wait for the thread while holding the lock, for ever. So the last works are kept
# here. DDP's own works cannot be kept. Gloo has one thread instead of its two: then whatever came before a work that is
# done has been let go of.
_LAST_WORKS: deque[distributed.Work] = deque(maxlen=16)
GLOO = "gloo_of_one_thread"


def rank() -> int:
    """The number of this process, counted from 0; only process 0 writes files and tells how it goes."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many processes share the work, 1 unless started by torchrun or its like."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def _gloo(store: distributed.Store, rank: int, size: int, timeout: timedelta) -> distributed.ProcessGroupGloo:
    options = distributed.ProcessGroupGloo._Options()
    options._devices = [distributed.ProcessGroupGloo.create_default_device()]
    options._threads = 1
    options._timeout = timeout
    return distributed.ProcessGroupGloo(store, rank, size, options)


distributed.Backend.register_backend(GLOO, _gloo, devices=["cpu"])


@contextmanager
def joined(device: torch.device, place: str | None = None) -> Iterator[None]:
    """Within the block the processes can talk to each other, and each has its own GPU where `device` is one.

    The block ends by `agree`, or what calls it.

    Args:
        place: where they meet, a URL of PyTorch's; None = where torchrun says.
    """
    if count() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is agreed on lies in the CPU's memory, so that no process has to wait for its GPU.
    backend = f"cpu:{GLOO},cuda:nccl" if device.type == "cuda" else GLOO
    distributed.init_process_group(backend, place, timeout=PATIENCE, rank=rank(), world_size=count())
    try:
        yield
    finally:
        distributed.destroy_process_group()


def agree(*values: int) -> list[int]:
    """The largest that any process gives of each value: the same for all, which wait for each other here."""
    if count() == 1:
        return list(values)
    largest = torch.tensor(values)
    all_reduce(largest, distributed.ReduceOp.MAX)
    return largest.tolist()


def all_reduce(tensor: Tensor, operation: Any = distributed.ReduceOp.SUM) -> None:
    """As `torch.distributed.all_reduce`, by which all processes get the same `tensor`."""
    work = distributed.all_reduce(tensor, operation, async_op=True)
    work.wait()
    _LAST_WORKS.append(work)


def on_first(action: Callable[[], Any]) -> None:
    """Have the first process do `action` while the others wait; where it fails, they end with it and say nothing."""
    problem = None
    if rank() == 0:
        try:
            action()
        except Exception as error:
            problem = error
    if agree(problem is not None)[0]:
        raise problem or SystemExit(1)


def told_once(error: BaseException) -> BaseException:
    """What to raise where every process has the same `error`: the others end with its status and leave telling to one.

    The first process gets the error itself.
    """
    if rank() == 0:
        return error
    return SystemExit(130 if isinstance(error, KeyboardInterrupt) else 1)
