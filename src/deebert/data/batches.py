"""Which samples make a batch: such as are of similar length, so that little padding is computed."""

from collections.abc import Iterator

import numpy as np
import torch

WINDOW = 16  # batches that are sorted by length together


def batches_by_length(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield arrays of row numbers that cover all rows once, longest first, each at most `max_tokens` once padded.

    Longest first, so that a batch too large for the memory fails at once and not at the end. A single sample longer
    than `max_tokens` still gets a batch of its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def shuffled_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The batches of an epoch: arrays of `batch_size` row numbers, of similar length, in a new order at every call.

    Samples are shuffled, cut into windows of 16 batches, sorted by length within a window and cut into batches. Then
    the batches are shuffled over the whole epoch. This last step matters: `group_by_length` of Hugging Face's Trainer
    leaves long and short batches in long runs, and on the embedded data set that cost ten points of accuracy.

    Rows that are too few for a whole batch make a smaller one, which comes last. All draws are from torch's default
    generator on the CPU, so its seed decides.
    """
    order = torch.randperm(len(lengths)).numpy()
    windows = np.split(order, range(WINDOW * batch_size, len(order), WINDOW * batch_size))
    order = np.concatenate([rows[np.argsort(lengths[rows], kind="stable")] for rows in windows])
    whole = len(order) // batch_size  # the smaller batch is not shuffled in, or it would shift all the others
    batches = order[: whole * batch_size].reshape(whole, batch_size)[torch.randperm(whole).numpy()]
    rest = order[whole * batch_size :]
    return [*batches, rest] if len(rest) else [*batches]
