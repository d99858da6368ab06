"""Answers in processes that were forked from one that has computed."""

import os
from functools import cache

import torch


@cache
def compute_with_one_thread_after_fork() -> None:
    """From now on have PyTorch compute with one thread in each process that is forked from this one.

    After a fork OpenMP's threads are gone, and its book-keeping says that they are there. The child's next parallel
    step would wait for them for ever. With one thread there is no such step; PyTorch's own data loader does the same.
    """
    if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
        os.register_at_fork(after_in_child=_compute_with_one_thread)


def _compute_with_one_thread() -> None:
    torch.set_num_threads(1)
