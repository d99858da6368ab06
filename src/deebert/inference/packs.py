"""Transformer layers on packed batches: the tokens of many sentences one after the other, with no padding at all.

Everything in a layer but attention treats each token alone, so a pack of T tokens is one (T, H) matrix. Attention is
computed once per run of sentences of equal length, which needs no mask. Shapes: B sentences, T tokens of all of them
together, H width.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from deebert.data.encoded import Encoded
from deebert.encoders.backbones import LayerParts, family_of

PACK_TOKENS = 2048  # a layer's working set at bert-base's width is then some 40 MB in float32


@dataclass(frozen=True)
class Layout:
    """Which tokens of a pack are whose.

    Attributes:
        lengths: (B,) int64, tokens of each sentence; equal ones stand together where speed matters.
        rows: (B,) int64, which sample each sentence is.
    """

    lengths: np.ndarray
    rows: np.ndarray

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of each sentence's first token; (B,) int64."""
        return np.cumsum(self.lengths) - self.lengths

    @cached_property
    def others(self) -> np.ndarray:
        """Numbers of the tokens that are not the first of their sentence; (T - B,) int64."""
        is_other = np.ones(self.lengths.sum(), dtype=bool)
        is_other[self.starts] = False
        return np.flatnonzero(is_other)

    @cached_property
    def runs(self) -> list[tuple[slice, slice]]:
        """Runs of neighbours of one length, as (sentences, their tokens)."""
        cuts = [0, *(np.flatnonzero(np.diff(self.lengths)) + 1).tolist(), len(self.lengths)]
        ends = [0, *np.cumsum(self.lengths).tolist()]
        return [(slice(low, high), slice(ends[low], ends[high])) for low, high in itertools.pairwise(cuts)]

    def tokens_of(self, live: np.ndarray) -> np.ndarray:
        """Numbers of the tokens of those sentences where `live` (B,) is true."""
        return np.flatnonzero(np.repeat(live, self.lengths))

    def keep(self, live: np.ndarray) -> "Layout":
        """The layout of those sentences where `live` (B,) is true."""
        return Layout(self.lengths[live], self.rows[live])


@dataclass(frozen=True)
class Pack:
    """Hidden states (T, H) of B sentences without padding, sentence after sentence as `layout` has them."""

    hidden: Tensor
    layout: Layout

    def __len__(self) -> int:
        return len(self.layout.rows)

    def first_tokens(self) -> Tensor:
        """States (B, H) of the sentences' first tokens."""
        return take(self.hidden, self.layout.starts)

    def keep(self, live: np.ndarray) -> "Pack":
        """The pack of those sentences where `live` (B,) is true."""
        if live.all():
            return self
        return Pack(take(self.hidden, self.layout.tokens_of(live)), self.layout.keep(live))


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
    return [group[0] if len(group) == 1 else _joined(group) for group in joined]


def _joined(packs: Sequence[Pack]) -> Pack:
    layouts = [pack.layout for pack in packs]
    return Pack(
        torch.cat([pack.hidden for pack in packs]),
        Layout(np.concatenate([each.lengths for each in layouts]), np.concatenate([each.rows for each in layouts])),
    )


class PackedLayer:
    """One transformer layer of the supported families, in eval mode, on packs.

    It uses the modules of the loaded model in place, their matrices converted to `dtype`. Hidden states and norms stay
    in float32 whatever that is: between sentences a first token's state varies less, in early layers, than bfloat16
    resolves, and ramps that read it rounded guess (49 % instead of 75 % right at layer 1 where this was tried).
    """

    def __init__(self, parts: LayerParts, num_heads: int, dtype: torch.dtype) -> None:
        self.parts = parts
        self.num_heads = num_heads
        self.dtype = dtype
        for linear in (parts.query, parts.key, parts.value, parts.attention_out, parts.up, parts.down):
            linear.to(dtype)

    def __call__(self, pack: Pack) -> Pack:
        """All tokens through the layer."""
        lengths = pack.layout.lengths
        context = self._attend(self._queries(pack.hidden), lengths, *self.keys_values(pack), pack.layout)
        return Pack(self._after_attention(context, pack.hidden), pack.layout)

    def keys_values(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens, each (T, H)."""
        hidden = pack.hidden.to(self.dtype)
        return self.parts.key(hidden), self.parts.value(hidden)

    def first_tokens(self, packs: Sequence[Pack], keyed: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The layer's output (B, H) for the first tokens alone of all the packs' sentences; `keyed` per pack."""
        before = [pack.first_tokens() for pack in packs]
        contexts = [
            self._attend(self._queries(first), np.ones_like(pack.layout.lengths), keys, values, pack.layout)
            for pack, (keys, values), first in zip(packs, keyed, before, strict=True)
        ]
        return self._after_attention(torch.cat(contexts), torch.cat(before))

    def other_tokens(self, pack: Pack, keyed: tuple[Tensor, Tensor], first_output: Tensor, live: np.ndarray) -> Pack:
        """The layer's output for the sentences where `live` (B,), given that of the first tokens, (B, H)."""
        hidden, (keys, values), layout = pack.hidden, keyed, pack.layout
        if not live.all():
            tokens = layout.tokens_of(live)
            hidden, keys, values = take(hidden, tokens), take(keys, tokens), take(values, tokens)
            first_output = take(first_output, np.flatnonzero(live))
            layout = layout.keep(live)
        before = take(hidden, layout.others)
        context = self._attend(self._queries(before), layout.lengths - 1, keys, values, layout)
        output = torch.empty_like(hidden)
        put(output, layout.others, self._after_attention(context, before))
        put(output, layout.starts, first_output)
        return Pack(output, layout)

    def _queries(self, hidden: Tensor) -> Tensor:
        return self.parts.query(hidden.to(self.dtype))

    def _attend(
        self, queries: Tensor, query_counts: np.ndarray, keys: Tensor, values: Tensor, layout: Layout
    ) -> Tensor:
        """Attention of each sentence's queries to its own keys: (Q, H).

        Args:
            queries: (Q, H), sentence after sentence; `query_counts` (B,) of each, the same for equal lengths.
            keys, values: (T, H), of all tokens.
        """
        head_size = keys.shape[1] // self.num_heads
        contexts = []
        start = 0
        for sentences, tokens in layout.runs:
            count = sentences.stop - sentences.start
            stop = start + count * int(query_counts[sentences.start])
            query, key, value = (
                states.view(count, len(states) // count, self.num_heads, head_size).transpose(1, 2)
                for states in (queries[start:stop], keys[tokens], values[tokens])
            )
            contexts.append(_attention(query, key, value).transpose(1, 2).reshape(stop - start, keys.shape[1]))
            start = stop
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)

    def _after_attention(self, context: Tensor, before: Tensor) -> Tensor:
        """Output (Q, H) of tokens whose states were `before` and whose attention gave `context`."""
        parts = self.parts
        attended = parts.attention_norm(parts.attention_out(context) + before)
        return parts.output_norm(parts.down(parts.activation(parts.up(attended.to(self.dtype)))) + attended)


class PackedBackbone:
    """Embeddings and layers of a loaded model, in eval mode, on packs; takes the model over, as `PackedLayer` does.

    Args:
        precision: `fp32` or `bf16`, of the layers' matrix products.
    """

    def __init__(self, backbone: PreTrainedModel, precision: str) -> None:
        backbone.eval()
        self._backbone = backbone
        self._family = family_of(backbone)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        num_heads = backbone.config.num_attention_heads
        layers = self._family.layers(backbone)
        self.layers = [PackedLayer(self._family.parts(layer), num_heads, dtype) for layer in layers]

    def embed(self, encoded: Encoded, rows: np.ndarray) -> Pack:
        """What the first layer reads of the samples `rows`."""
        chosen = encoded.take(rows)
        ids, lengths = chosen.input_ids, chosen.lengths
        inputs = {"input_ids": ids, "position_ids": self._positions(ids, lengths)}
        if self._family.token_types and chosen.token_type_ids is not None:
            inputs["token_type_ids"] = chosen.token_type_ids
        device = self._backbone.device
        tensors = {name: torch.from_numpy(array)[None].to(device).long() for name, array in inputs.items()}
        return Pack(self._backbone.base_model.embeddings(**tensors)[0], Layout(lengths, rows))

    def _positions(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Position number of every token, as the family counts them."""
        starts = np.cumsum(lengths) - lengths
        if not self._family.positions_after_padding_id:
            return np.arange(len(ids)) - np.repeat(starts, lengths)
        padding_id = self._backbone.config.pad_token_id
        counted = ids != padding_id  # a text may hold the padding token, which has no position of its own
        count = np.cumsum(counted)
        return padding_id + counted * (count - np.repeat(count[starts] - counted[starts], lengths))


def cut_by_tokens(rows: np.ndarray, lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Cut `rows` into stretches of at most `max_tokens` tokens; a longer sample gets one of its own."""
    ends = np.cumsum(lengths[rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + max_tokens, side="right")))
        yield rows[start:stop]
        start = stop


def _attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention without a mask: (n, heads, Q, D) to (n, heads, K, D) twice gives (n, heads, Q, D)."""
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        # PyTorch's fused kernel took 1.7 times as long at 60 tokens, and several times for a single query; that in turn
        # is too thin for matrix products.
        query = query * query.shape[-1] ** -0.5
        if query.shape[2] == 1:
            weights = (key * query).sum(dim=-1).softmax(dim=-1)
            return (value * weights[..., None]).sum(dim=2, keepdim=True)
        return (query @ key.transpose(-1, -2)).softmax(dim=-1) @ value
    return scaled_dot_product_attention(query, key, value)
