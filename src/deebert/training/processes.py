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
# Whoever lets go of a piece of work last frees its tensors, for which it needs Python's lock. Were that a thread of
# Gloo's, the end of the group could wait for the thread while holding the lock, for ever.
_LAST_WORKS: deque[distributed.Work] = deque(maxlen=16)


def rank() -> int:
    """The number of this process, counted from 0; only process 0 writes files and tells how it goes."""
    return int(os.environ.get("RANK", 0))


def count() -> int:
    """How many processes share the work, 1 unless started by torchrun or its like."""
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Within the block the processes can talk to each other, and each has its own GPU where `device` is one."""
    if count() == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # What is agreed on lies in the CPU's memory, so that no process has to wait for its GPU.
    distributed.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
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
