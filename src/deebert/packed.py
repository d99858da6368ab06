"""Transformer layers on packed batches: the tokens of many sentences one after the other, with no padding at all.

Everything in a layer but attention treats each token alone, so a pack of T tokens is one (T, H) matrix. Attention is
computed once per run of sentences of equal length, which needs no mask. Shapes: B sentences, T tokens of all of them
together, H width.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from deebert.backbones import LayerParts


@dataclass(frozen=True)
class Pack:
    """Hidden states of B sentences without padding.

    Attributes:
        hidden: (T, H), sentence after sentence, T the sum of `lengths`.
        lengths: (B,) int64, tokens of each sentence; equal ones stand together where speed matters.
        rows: (B,) int64, which sample each sentence is.
    """

    hidden: Tensor
    lengths: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def starts(self) -> np.ndarray:
        """Row of `hidden` that holds each sentence's first token; (B,) int64."""
        return np.cumsum(self.lengths) - self.lengths

    def first_tokens(self) -> Tensor:
        """States (B, H) of the sentences' first tokens."""
        return take(self.hidden, self.starts)

    def keep(self, live: np.ndarray) -> "Pack":
        """The pack of those sentences where `live` (B,) is true."""
        if live.all():
            return self
        return Pack(take(self.hidden, self.tokens_of(live)), self.lengths[live], self.rows[live])

    def tokens_of(self, live: np.ndarray) -> np.ndarray:
        """Rows of `hidden` that belong to the sentences where `live` (B,) is true."""
        return np.flatnonzero(np.repeat(live, self.lengths))

    def runs(self) -> Iterator[tuple[slice, slice]]:
        """Runs of neighbours of one length, as (sentences, their tokens)."""
        cuts = [0, *(np.flatnonzero(np.diff(self.lengths)) + 1), len(self)]
        ends = [0, *np.cumsum(self.lengths)]
        for low, high in itertools.pairwise(cuts):
            yield slice(low, high), slice(ends[low], ends[high])


def take(states: Tensor, positions: np.ndarray) -> Tensor:
    """The rows of `states` at `positions`."""
    return states.index_select(0, torch.from_numpy(positions).to(states.device))


def put(states: Tensor, positions: np.ndarray, new: Tensor) -> None:
    """Write `new` over the rows of `states` at `positions`."""
    states.index_copy_(0, torch.from_numpy(positions).to(states.device), new)


def merged(packs: Sequence[Pack], max_tokens: int) -> list[Pack]:
    """The same sentences in the same order in fewer packs: neighbours are joined up to `max_tokens` tokens.

    After many sentences have left, this gives the matrix units full batches again.
    """
    joined: list[list[Pack]] = []
    room = 0
    for pack in packs:
        if len(pack.hidden) > room:
            joined.append([])
            room = max_tokens
        joined[-1].append(pack)
        room -= len(pack.hidden)
    return [
        group[0]
        if len(group) == 1
        else Pack(
            torch.cat([pack.hidden for pack in group]),
            np.concatenate([pack.lengths for pack in group]),
            np.concatenate([pack.rows for pack in group]),
        )
        for group in joined
    ]


class PackedLayer:
    """One transformer layer of the supported families, in eval mode, on packs.

    It uses the modules of the loaded model in place. All families share the original Transformer's order (attention,
    add and norm, feed-forward, add and norm).
    """

    def __init__(self, parts: LayerParts, num_heads: int) -> None:
        self.parts = parts
        self.num_heads = num_heads

    def __call__(self, pack: Pack) -> Pack:
        """All tokens through the layer."""
        keys, values = self.keys_values(pack)
        context = self._attend(self.parts.query(pack.hidden), pack.lengths, keys, values, pack)
        return replace(pack, hidden=self._after_attention(context, pack.hidden))

    def keys_values(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, each (T, H)."""
        return self.parts.key(pack.hidden), self.parts.value(pack.hidden)

    def first_tokens(self, packs: Sequence[Pack], keyed: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The layer's output (B, H) for the first tokens alone of all the packs' sentences; `keyed` per pack."""
        before = [pack.first_tokens() for pack in packs]
        contexts = [
            self._attend(self.parts.query(first), np.ones_like(pack.lengths), keys, values, pack)
            for pack, (keys, values), first in zip(packs, keyed, before, strict=True)
        ]
        return self._after_attention(torch.cat(contexts), torch.cat(before))

    def other_tokens(self, pack: Pack, keyed: tuple[Tensor, Tensor], first_output: Tensor, live: np.ndarray) -> Pack:
        """The layer's output for the sentences where `live` (B,), given that of the first tokens, (B, H)."""
        keys, values = keyed
        kept = Pack(pack.hidden, pack.lengths[live], pack.rows[live])  # `hidden` follows below
        if not live.all():
            tokens = pack.tokens_of(live)
            kept = replace(kept, hidden=take(pack.hidden, tokens))
            keys, values = take(keys, tokens), take(values, tokens)
        is_other = np.ones(len(kept.hidden), dtype=bool)
        is_other[kept.starts] = False
        others = np.flatnonzero(is_other)
        before = take(kept.hidden, others)
        context = self._attend(self.parts.query(before), kept.lengths - 1, keys, values, kept)
        output = torch.empty_like(kept.hidden)
        put(output, others, self._after_attention(context, before))
        put(output, kept.starts, first_output if live.all() else take(first_output, np.flatnonzero(live)))
        return replace(kept, hidden=output)

    def _attend(self, queries: Tensor, query_counts: np.ndarray, keys: Tensor, values: Tensor, pack: Pack) -> Tensor:
        """Attention of each sentence's queries to its own keys: (Q, H).

        Args:
            queries: (Q, H), sentence after sentence; `query_counts` (B,) of each, the same for equal lengths.
            keys, values: (T, H), of all tokens of `pack`.
        """
        head_size = keys.shape[1] // self.num_heads
        contexts = []
        start = 0
        for sentences, tokens in pack.runs():
            count = sentences.stop - sentences.start
            stop = start + count * int(query_counts[sentences.start])
            query, key, value = (
                states.view(count, len(states) // count, self.num_heads, head_size).transpose(1, 2)
                for states in (queries[start:stop], keys[tokens], values[tokens])
            )
            contexts.append(_attention(query, key, value).transpose(1, 2).reshape(stop - start, -1))
            start = stop
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def _after_attention(self, context: Tensor, before: Tensor) -> Tensor:
        """Output (Q, H) of tokens whose states were `before` and whose attention gave `context`."""
        parts = self.parts
        attended = parts.attention_norm(parts.attention_out(context) + before)
        return parts.output_norm(parts.down(parts.activation(parts.up(attended))) + attended)


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention without a mask: (n, heads, Q, D) to (n, heads, K, D) twice gives (n, heads, Q, D)."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # PyTorch's fused kernel took 1.7 times as long at 60 tokens, and 3 times for a single query.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        return scores.softmax(dim=-1) @ value
    return scaled_dot_product_attention(query, key, value)
