"""The clock: two ways of doing the same take turns, so that whatever slows the machine for a while slows both."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Race:
    """Seconds that two contenders took for each batch in each round; both (rounds, batches)."""

    plain: np.ndarray
    early_exit: np.ndarray

    def time_saved(self) -> dict[str, float]:
        """1 - time of early exit / time of the plain backbone: median and range over the rounds."""
        saved = 1 - self.early_exit.sum(axis=1) / self.plain.sum(axis=1)  # (rounds,)
        return {
            "time_saved_frac": float(np.median(saved)),
            "time_saved_frac_min": float(saved.min()),
            "time_saved_frac_max": float(saved.max()),
        }


def race(
    plain: Callable[[Batch], Any], early_exit: Callable[[Batch], Any], batches: Sequence[Batch], rounds: int
) -> Race:
    """Time both on every batch, one right after the other and each going first every other time.

    Before the first round both answer the first batch once, uncounted: first calls pay for memory and caches.
    """
    contenders = (plain, early_exit)
    for contender in contenders:
        contender(batches[0])
    seconds = np.empty((2, rounds, len(batches)))
    for number in range(rounds):
        for i, batch in enumerate(batches):
            for who in (0, 1) if (number + i) % 2 == 0 else (1, 0):
                seconds[who, number, i] = _seconds(contenders[who], batch)
    return Race(*seconds)


def _seconds(call: Callable[[Batch], Any], batch: Batch) -> float:
    """Wall-clock seconds of one call, a GPU's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
