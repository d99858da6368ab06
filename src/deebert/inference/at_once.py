"""Attention for sentences of all lengths in one call, where a processor has a kernel for it: a GPU, in bfloat16.

Shapes: B sentences, T tokens of all of them together, Q of these as queries, D width of a head.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from deebert.encoders.interface import Layer

_ANYWHERE = np.empty(0, dtype=np.int64)  # positions, which no layer reads here
PACK_TOKENS = 131072  # bounds the memory: at bert-base's width some 3 GiB


def attends_at_once(layer: Layer) -> bool:
    """Whether the layer's attention knows neither positions nor biases, and so is one call for any lengths."""
    return layer.plain_maps and type(layer).attention is Layer.attention


def runs_on(device: torch.device, precision: str, layers: Sequence[Layer]) -> bool:
    """Whether `attend` works for them there."""
    return device.type == "cuda" and precision == "bf16" and all(map(attends_at_once, layers))


def attend(
    layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, bounds: tuple[Tensor, Tensor, int, int]
) -> Tensor:
    """Attention of each sentence's queries to its own keys, for all sentences at once: (Q, heads * D).

    Args:
        queries: (Q, heads * D), sentence after sentence.
        keys, values: (T, heads * D), of all tokens.
        bounds: where each sentence's queries begin, (B + 1,) int32; where its tokens do; and how many of the first and
            of the second no sentence has more of.
    """
    split = (states.view(len(states), layer.num_heads, -1) for states in (queries, keys, values))
    return varlen_attn(*split, *bounds).reshape(len(queries), -1)


def bounds_of(lengths: Tensor) -> Tensor:
    """Where sentences of `lengths` (B,) begin, and where the last one ends: (B + 1,) int32."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int()


def all_tokens(layer: Layer, hidden: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """The layer's output (T, H) for states `hidden` (T, H) of sentences of no more than `longest` tokens."""
    return layer.output(attend(layer, *layer.projections(hidden), (bounds, bounds, longest, longest)), hidden)


def first_tokens(layer: Layer, hidden: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """The layer's output (B, H) for the sentences' first tokens alone."""
    before = hidden.index_select(0, bounds[:-1])
    each = torch.arange(len(bounds), dtype=torch.int32, device=bounds.device)
    keyed = layer.keys_values(hidden, _ANYWHERE)
    context = attend(layer, layer.queries(before, _ANYWHERE), *keyed, (each, bounds, 1, longest))
    return layer.output(context, before)
