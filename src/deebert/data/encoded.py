"""Sentences as token ids: tokenised once, and kept one after the other in flat arrays.

Shapes: N samples, T tokens of all of them together; in a batch, B samples, T columns.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

if TYPE_CHECKING:
    import pandas as pd  # who answers texts waits for no import of it

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 4096  # what the tokenizer itself keeps of a sentence takes several times the room of its token ids


@dataclass(frozen=True, eq=False)
class Encoded:
    """N tokenised samples, one after the other.

    A flat array takes a small part of the memory of lists: four bytes a token, or five with token types. `len` counts
    samples. An index gives one of them and a slice several, as `Encoded` too.

    Attributes:
        input_ids: (T,) int32.
        offsets: (N+1,) int64; the tokens of sample n are `offsets[n]` up to, not including, `offsets[n + 1]`.
        token_type_ids: (T,) int8, 1 in the second text of a pair; None where the tokenizer gives none.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    token_type_ids: np.ndarray | None = None

    @classmethod
    def of(cls, input_ids: Sequence[Sequence[int]], token_type_ids: Sequence[Sequence[int]] | None = None) -> "Encoded":
        """The samples whose tokens are given as one list each."""
        offsets = np.zeros(len(input_ids) + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids in input_ids], out=offsets[1:])
        ids = _flat(input_ids, np.int32, offsets[-1])
        return cls(ids, offsets, None if token_type_ids is None else _flat(token_type_ids, np.int8, offsets[-1]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, which: int | slice) -> "Encoded":
        rows = range(len(self))[which]
        return self.take(np.array(rows if isinstance(which, slice) else [rows], dtype=np.int64))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sample, special ones included; (N,) int64."""
        return self.offsets[1:] - self.offsets[:-1]

    def take(self, rows: np.ndarray) -> "Encoded":
        """The samples `rows`, numbers from 0, in the order asked for; a row may come twice."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts  # not of all N samples, of which one batch needs few
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        tokens = np.repeat(starts - offsets[:-1], lengths)
        tokens += np.arange(len(tokens))
        types = self.token_type_ids
        return Encoded(self.input_ids[tokens], offsets, None if types is None else types[tokens])

    def padded(
        self, rows: np.ndarray, pad_token_id: int, device: torch.device, width: int | None = None
    ) -> dict[str, Tensor]:
        """A batch of the samples `rows`: (B, T) int64 tensors on `device`, as the tokenizer's own `pad` makes them.

        Args:
            width: T; by default as many columns as the longest of the samples needs.

        Returns:
            `input_ids`, filled up on the right with `pad_token_id`; `attention_mask`, 1 = token and 0 = padding; and
            `token_type_ids`, filled up with 0, where there are any.
        """
        chosen = self.take(rows)
        is_token = np.arange(width or chosen.lengths.max()) < chosen.lengths[:, None]  # (B, T)

        def filled(padding: int, values: np.ndarray) -> np.ndarray:
            array = np.full(is_token.shape, padding, dtype=np.int64)
            array[is_token] = values
            return array

        batch = {"input_ids": filled(pad_token_id, chosen.input_ids), "attention_mask": is_token.astype(np.int64)}
        if chosen.token_type_ids is not None:
            batch["token_type_ids"] = filled(0, chosen.token_type_ids)
        return {name: torch.from_numpy(array).to(device) for name, array in batch.items()}


def encode(tokenizer: PreTrainedTokenizerBase, frame: "pd.DataFrame", text_columns: Sequence[str]) -> Encoded:
    """Tokenise every row, cut to the tokenizer's `model_max_length` (of a pair, the longer side first)."""
    parts = []
    for start in range(0, len(frame), ROWS_AT_ONCE):
        rows = frame[start : start + ROWS_AT_ONCE]
        told = tokenizer(*(rows[column].tolist() for column in text_columns), truncation=True)
        parts.append(Encoded.of(told["input_ids"], told.get("token_type_ids")))
    return _joined(parts)


def tell_cut(split: str, encoded: Encoded, max_length: int) -> None:
    """Say in one line how many samples have all of `max_length` tokens, if any: the cut, and few that just fit."""
    if full := int(np.sum(encoded.lengths >= max_length)):
        told = "%s: %d of %d texts (%.1f %%) have all %d tokens of max_length; what was longer is cut"
        log.info(told, split, full, len(encoded), 100 * full / len(encoded), max_length)


def _joined(parts: Sequence[Encoded]) -> Encoded:
    if not parts:
        return Encoded.of([])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.lengths for part in parts]))])
    types = [part.token_type_ids for part in parts]
    return Encoded(
        np.concatenate([part.input_ids for part in parts]),
        offsets,
        None if types[0] is None else np.concatenate(types),
    )


def _flat(lists: Sequence[Sequence[int]], dtype: type, count: int) -> np.ndarray:
    return np.fromiter(itertools.chain.from_iterable(lists), dtype=dtype, count=count)
