"""Transformer layers on packed batches: the tokens of many sentences one after the other, with no padding at all.

Everything in a layer but attention treats each token alone, so a pack of T tokens is one (T, H) matrix. Attention is
computed once per run of sentences of equal length, which needs no mask. Shapes: B sentences, T tokens of all of them
together, H width.
"""

import copy
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from deebert.base.once import once
from deebert.data.encoded import Encoded
from deebert.encoders.interface import Layer, positions_in
from deebert.encoders.registry import family_of
from deebert.inference import at_once
from deebert.inference.precisions import PRECISIONS, Rounding
from deebert.inference.weights import LayerWeights

# A layer's working set at bert-base's width is then some 20 MB in float32. Twice as many tokens took 1.01 to 1.14 times
# as long, most in int8.
PACK_TOKENS = 1024
_ALL, _FIRST, _OTHERS = slice(None), slice(0, 1), slice(1, None)  # tokens of a sentence


@dataclass(frozen=True)
class Layout:
    """Which tokens of a pack are whose.

    Attributes:
        lengths: (B,) int64, tokens of each sentence; equal ones stand together where speed matters.
        rows: (B,) int64, which sample each sentence is.
    """

    lengths: np.ndarray
    rows: np.ndarray

    @once
    def starts(self) -> np.ndarray:
        """Number of each sentence's first token; (B,) int64."""
        return np.cumsum(self.lengths) - self.lengths

    @once
    def positions(self) -> np.ndarray:
        """Position of every token in its own sentence, from 0; (T,) int64."""
        return positions_in(self.lengths)

    @once
    def others(self) -> np.ndarray:
        """Numbers of the tokens that are not the first of their sentence; (T - B,) int64."""
        is_other = np.ones(self.lengths.sum(), dtype=bool)
        is_other[self.starts] = False
        return np.flatnonzero(is_other)

    @once
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
        if len(self) == 1:  # a slice is made several times as fast
            return self.hidden[:1]
        return take(self.hidden, self.layout.starts)

    def keep(self, live: np.ndarray) -> "Pack":
        """The pack of those sentences where `live` (B,) is true."""
        if live.all():
            return self
        return Pack(take(self.hidden, self.layout.tokens_of(live)), self.layout.keep(live))


def take(states: Tensor, positions: np.ndarray) -> Tensor:
    """The rows of `states` at `positions`."""
    return states.index_select(0, torch.from_numpy(positions).to(states.device))


def joined(parts: Sequence[Tensor]) -> Tensor:
    """All rows of `parts`."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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
    """A transformer layer on packs.

    Hidden states and norms stay in float32 whatever the products are in. Between sentences a first token's state varies
    less, in early layers, than bfloat16 resolves. Ramps that read it rounded guess: 49 % instead of 75 % right at
    layer 1 where this was tried.

    Args:
        rounding: what rounds states, where the precision's linear maps do; first tokens' states are then rounded finer.
            What attention gives is not: it varies between sentences as it is, and finer it brought the states after
            layer 2 and deeper no nearer to float32's (MiniLM, MPNet). First tokens also attend in a call of their own,
            as they do where they are computed first. Else a sentence's last bits depend on which way was taken, and so
            on its company. Products that round states would make much of these bits.
    """

    def __init__(self, layer: Layer, rounding: type[Rounding] | None = None) -> None:
        self.layer = layer
        self.rounding = rounding

    def __call__(self, pack: Pack) -> Pack:
        """All tokens through the layer."""
        layout = pack.layout
        layer = self._finer(layout.starts)
        queries, *keyed = layer.projections(pack.hidden, layout.positions)
        if self.rounding:
            context = torch.empty_like(queries)
            for which, tokens in ((_FIRST, layout.starts), (_OTHERS, layout.others)):
                put(context, tokens, self._attend(take(queries, tokens), which, *keyed, layout))
        else:
            context = self._attend(queries, _ALL, *keyed, layout)
        return Pack(layer.output(context, pack.hidden), layout)

    def keys_values(self, pack: Pack) -> tuple[Tensor, Tensor]:
        """Keys and values of all tokens."""
        return self._finer(pack.layout.starts).keys_values(pack.hidden, pack.layout.positions)

    def first_tokens(self, packs: Sequence[Pack], keyed: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """The layer's output (B, H) for the first tokens alone of all the packs' sentences; `keyed` per pack."""
        before = torch.cat([pack.first_tokens() for pack in packs])
        layer, positions = self._finer(np.arange(len(before))), np.zeros(len(before), dtype=np.int64)
        queries = layer.queries(before, positions).split([len(pack) for pack in packs])
        contexts = [
            self._attend(each, _FIRST, *keys, pack.layout)
            for pack, keys, each in zip(packs, keyed, queries, strict=True)
        ]
        return layer.output(torch.cat(contexts), before)

    def other_tokens(self, pack: Pack, keyed: tuple[Tensor, Tensor], first_output: Tensor, live: np.ndarray) -> Pack:
        """The layer's output for the sentences where `live` (B,), given that of the first tokens, (B, H)."""
        hidden, (keys, values), layout = pack.hidden, keyed, pack.layout
        if not live.all():
            tokens = layout.tokens_of(live)
            hidden, keys, values = take(hidden, tokens), take(keys, tokens), take(values, tokens)
            first_output = take(first_output, np.flatnonzero(live))
            layout = layout.keep(live)
        before = take(hidden, layout.others)
        queries = self.layer.queries(before, layout.positions[layout.others])
        context = self._attend(queries, _OTHERS, keys, values, layout)
        output = torch.empty_like(hidden)
        put(output, layout.others, self.layer.output(context, before))
        put(output, layout.starts, first_output)
        return Pack(output, layout)

    def _finer(self, rows: np.ndarray) -> Layer:
        """The layer for one call that rounds the tokens `rows` finer, where it rounds."""
        if self.rounding is None:
            return self.layer
        layer, rounding = copy.copy(self.layer), self.rounding(torch.from_numpy(rows))
        for name in layer.linear_names:
            if name != "attention_out":
                setattr(layer, name, functools.partial(getattr(layer, name), rounding=rounding))
        return layer

    def _attend(self, queries: Tensor, which: slice, keys: Tensor, values: Tensor, layout: Layout) -> Tensor:
        """Attention of each sentence's queries to its own keys: (Q, heads * D).

        Args:
            queries: (Q, heads * D), sentence after sentence, of the tokens `which` of each.
            keys, values: (T, heads * D), of all tokens.
        """
        heads, width = self.layer.num_heads, values.shape[1]
        contexts = []
        start = 0
        for sentences, tokens in layout.runs:
            count = sentences.stop - sentences.start
            positions = range((tokens.stop - tokens.start) // count)[which]
            stop = start + count * len(positions)
            query, key, value = (
                states.view(count, len(states) // count, heads, width // heads).transpose(1, 2)
                for states in (queries[start:stop], keys[tokens], values[tokens])
            )
            context = self.layer.attention(query, key, value, positions)
            contexts.append(context.transpose(1, 2).reshape(stop - start, width))
            start = stop
        return contexts[0] if len(contexts) == 1 else torch.cat(contexts)


class PackedBackbone:
    """Embeddings and layers of a loaded model, in eval mode, on packs. It takes the model over.

    The weights of the layers' linear maps are then here alone, and the model's own forward is an error.

    Args:
        precision: of the layers' linear maps, a key of `PRECISIONS`.

    Attributes:
        attention: for all sentences of a pack at once, on a GPU; else None.
    """

    def __init__(self, backbone: PreTrainedModel, precision: str) -> None:
        self._backbone = backbone.eval()
        self._family = family_of(backbone)
        layers = self._family.layers(backbone)
        self._weights = LayerWeights(backbone, layers, precision)
        self.attention = at_once.attention_for(backbone.device, precision, layers, backbone.config.hidden_size)
        if self.attention:
            for layer in layers:
                layer.join(PRECISIONS[precision].joined)
        self.layers = [PackedLayer(layer, PRECISIONS[precision].rounding) for layer in layers]

    def state_dict(self) -> dict[str, Tensor]:
        """The model's weights by name, bit for bit as they were loaded. Of fp32 alone: others have rounded them."""
        return self._backbone.state_dict() | self._weights.state_dict()

    def cut(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """The rows of samples of `lengths` in packs for `first_token_states`.

        The longest are first, so that a pack too large for the memory fails at once and not at the end.
        """
        rows = np.argsort(-lengths, kind="stable")
        if self.attention is None:
            return cut_by_tokens(rows, lengths, PACK_TOKENS)
        return cut_by_tokens(rows, lengths, at_once.PACK_TOKENS, self.attention.most_samples)

    def embed(self, encoded: Encoded, rows: np.ndarray) -> Pack:
        """What the first layer reads of the samples `rows`."""
        chosen = encoded.take(rows)
        inputs = self.inputs(chosen).items()
        hidden = self.embedded({name: torch.from_numpy(each).to(self._backbone.device) for name, each in inputs})
        return Pack(hidden, Layout(chosen.lengths, rows))

    def inputs(self, encoded: Encoded) -> dict[str, np.ndarray]:
        """What the embeddings look up of all the samples, by name: (T,) int64 each."""
        ids, types = encoded.input_ids.astype(np.int64), encoded.token_type_ids
        types = None if types is None else types.astype(np.int64)
        return self._family.inputs(self._backbone, ids, types, encoded.lengths)

    def embedded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the first layer reads, (T, H), of `inputs`."""
        return self._family.embed(self._backbone, inputs)

    def first_token_states(self, pack: Pack, depth: int) -> Iterator[Tensor]:
        """Yield the first tokens' states (B, H) after layer 1, 2, ..., `depth`; deeper layers are not run.

        Of the last one nothing but the first tokens is computed.
        """
        *before, last = self.layers[:depth]
        if self.attention is None:
            for layer in before:
                pack = layer(pack)
                yield pack.first_tokens()
            yield last.first_tokens([pack], [last.keys_values(pack)])
            return
        hidden, lengths = pack.hidden, pack.layout.lengths
        bounds = torch.from_numpy(np.append(0, lengths.cumsum())).int().to(hidden.device)
        sentences = at_once.Sentences(bounds, len(hidden), int(lengths.max()))
        for layer in before:
            hidden = at_once.all_tokens(self.attention, layer.layer, hidden, sentences)
            yield hidden.index_select(0, sentences.firsts)
        yield at_once.first_tokens(self.attention, last.layer, hidden, sentences)


def cut_by_tokens(
    rows: np.ndarray, lengths: np.ndarray, max_tokens: int, most_samples: Callable[[int], int] | None = None
) -> Iterator[np.ndarray]:
    """Cut `rows` into stretches of at most `max_tokens` tokens; a longer sample gets one of its own.

    Args:
        most_samples: how many samples may be in a stretch whose first has so many tokens.
    """
    ends = np.cumsum(lengths[rows])
    start = 0
    while start < len(rows):
        before = ends[start - 1] if start else 0
        stop = int(np.searchsorted(ends, before + max_tokens, side="right"))
        if most_samples:
            stop = min(stop, start + most_samples(int(lengths[rows[start]])))
        stop = max(start + 1, stop)
        yield rows[start:stop]
        start = stop
