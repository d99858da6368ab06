"""Sentences to tensors: tokenised once, batched by length so that little padding is computed."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def encode(
    tokenizer: PreTrainedTokenizerBase, frame: pd.DataFrame, text_columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Token ids of every row, cut to the tokenizer's `model_max_length` (of a pair, the longer side first)."""
    texts = [frame[column].tolist() for column in text_columns]
    encoded = tokenizer(*texts, truncation=True)
    keys = list(encoded.keys())
    return [dict(zip(keys, row, strict=True)) for row in zip(*encoded.values(), strict=True)]


def token_counts(encoded: Sequence[dict[str, Any]]) -> np.ndarray:
    """Tokens of each sample, special ones included; (N,) int64."""
    return np.array([len(sample["input_ids"]) for sample in encoded], dtype=np.int64)


def batches_by_length(counts: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Yield arrays of row numbers that cover all rows once, longest first, each at most `max_tokens` once padded.

    Longest first, so that a batch too large for the memory fails at once and not at the end. A single sample longer
    than `max_tokens` still gets a batch of its own.
    """
    order = np.argsort(-counts, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(counts[order[start]]))
        yield order[start : start + size]
        start += size


def collate(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[dict[str, Any]], rows: np.ndarray, device: torch.device
) -> dict[str, Tensor]:
    """Pad the chosen rows to the longest among them: a dict of (B, T) tensors on `device`."""
    batch = tokenizer.pad([encoded[row] for row in rows], return_tensors="pt")
    return {name: tensor.to(device) for name, tensor in batch.items()}
