"""Layers on a GPU: attention for sentences of all lengths in one call, of which there are two kinds.

Shapes: B sentences, T tokens of all of them together, L of the longest as they are padded, H width, D width of a head.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from deebert.base.once import once
from deebert.encoders.interface import Layer, Positions
from deebert.inference.precisions import multiplies

KERNEL_WIDTHS = range(8, 257, 8)  # of a head; the kernel refuses others, and GPUs that do not multiply bf16 themselves
_UNREAD = np.empty(0, dtype=np.int64)  # positions, for a layer that reads none
PACK_TOKENS = 131072  # bounds the memory: at bert-base's width some 3 GiB
MOST_SCORES = 2**23  # of each head in a padded call; with 12 heads some 0.4 GiB in float32


@dataclass(frozen=True)
class Sentences:
    """Where sentences are among T tokens.

    Attributes:
        bounds: (B + 1,) int32, where each one's tokens begin; and where the last one's end, which may be before T.
        tokens: T.
        longest: L, no sentence has more tokens.
    """

    bounds: Tensor
    tokens: int
    longest: int

    @property
    def firsts(self) -> Tensor:
        """Numbers of the first tokens, (B,); one without tokens has a number too."""
        return self.bounds[:-1]

    @once
    def each(self) -> Tensor:
        """Number of each token, (T,) int32."""
        return torch.arange(self.tokens, dtype=torch.int32, device=self.bounds.device)

    @once
    def whose(self) -> Tensor:
        """Which sentence each token is of, (T,) int32; behind the last one's end anyone's."""
        ends = self.bounds[1:]
        return torch.searchsorted(ends, self.each, right=True, out_int32=True).clamp_(max=len(ends) - 1)

    @once
    def positions(self) -> Tensor:
        """Position of each token in its sentence, (T,) int32; behind the last one's end any that there is."""
        return (self.each - self.firsts.index_select(0, self.whose)).clamp_(max=self.longest - 1)

    @once
    def there(self) -> Tensor:
        """Which places of the padded sentences are of a token, (B, L)."""
        return torch.arange(self.longest, device=self.bounds.device) < self.bounds.diff()[:, None]

    @once
    def padded(self) -> Tensor:
        """Number of the token at each place of the padded sentences, (B * L,) int32; in others the sentence's first.

        So what pads is a finite number.
        """
        at = torch.arange(self.longest, dtype=torch.int32, device=self.bounds.device)
        return (self.firsts[:, None] + at * self.there).flatten()

    @once
    def places(self) -> Tensor:
        """Where each token is among the padded ones, (T,) int32."""
        return self.whose * self.longest + self.positions

    @once
    def hides_padding(self) -> Tensor:
        """Added to scores, it hides the keys that are of no token: (B, 1, 1, L) float32."""
        shown = torch.zeros(self.there.shape, dtype=torch.float32, device=self.bounds.device)
        return shown.masked_fill(~self.there, -torch.inf)[:, None, None]


class Attention(ABC):
    """One kind of it. Queries, keys and values are (T, heads * D), sentence after sentence.

    Attributes:
        least_longest: there is nothing to gain where L is less.
    """

    least_longest: int

    @abstractmethod
    def most_samples(self, longest: int) -> int:
        """With so many tokens in the longest, so many sentences are a call's most."""

    @abstractmethod
    def all(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        """What all tokens read, (T, heads * D)."""

    @abstractmethod
    def first(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        """What the first tokens read, (B, heads * D), whose queries alone these are, (B, heads * D)."""

    def first_alone(self, layer: Layer) -> bool:
        """Whether `first` is for this layer."""
        return True


class Varlen(Attention):
    """PyTorch's own kernel for sentences of all lengths: in bfloat16, for scores of contents alone."""

    least_longest = 128  # it does as much for fewer tokens

    def most_samples(self, longest: int) -> int:
        return PACK_TOKENS  # as many as there can be in a pack

    def all(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        bounds, longest = sentences.bounds, sentences.longest
        window = {} if layer.window is None else {"window_size": (layer.window, layer.window)}
        return self._attend(layer, queries, keys, values, bounds, bounds, longest, longest, **window)

    def first(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        bounds = sentences.bounds
        each = torch.arange(len(bounds), dtype=torch.int32, device=bounds.device)
        return self._attend(layer, queries, keys, values, each, bounds, 1, sentences.longest)

    def first_alone(self, layer: Layer) -> bool:
        return layer.window is None  # the kernel takes queries for the last tokens, and the window lies around them

    @staticmethod
    def _attend(layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, *bounds: Any, **window: Any) -> Tensor:
        split = (states.view(len(states), layer.num_heads, -1) for states in (queries, keys, values))
        return varlen_attn(*split, *bounds, **window).reshape(len(queries), -1)


class Padded(Attention):
    """The layer's own attention, for any scores in any precision. Only there are sentences padded."""

    least_longest = 16

    def most_samples(self, longest: int) -> int:
        return MOST_SCORES // longest**2

    def all(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        query, key, value = (self._padded(layer, each, sentences) for each in (queries, keys, values))
        context = layer.attention(query, key, value, range(sentences.longest), sentences.hides_padding)
        return context.transpose(1, 2).reshape(-1, values.shape[1]).index_select(0, sentences.places)

    def first(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, sentences: Sentences) -> Tensor:
        query = queries.view(len(queries), layer.num_heads, 1, -1)
        key, value = (self._padded(layer, each, sentences) for each in (keys, values))
        return layer.attention(query, key, value, range(1), sentences.hides_padding).reshape(len(queries), -1)

    @staticmethod
    def _padded(layer: Layer, states: Tensor, sentences: Sentences) -> Tensor:
        """(B, heads, L, D) of states (T, heads * D)."""
        rows = states.index_select(0, sentences.padded)
        return rows.view(len(sentences.firsts), sentences.longest, layer.num_heads, -1).transpose(1, 2)


def attention_for(device: torch.device, precision: str, layers: Sequence[Layer], width: int) -> Attention | None:
    """The kind for these layers of `width` H; None where the device is no GPU of Nvidia's or AMD's."""
    if device.type != "cuda":
        return None
    plain = all(type(layer).attention is Layer.attention for layer in layers)
    known = all(width // layer.num_heads in KERNEL_WIDTHS for layer in layers)
    is_for_kernel = plain and known and precision == "bf16" and multiplies("bf16", device)
    return Varlen() if is_for_kernel else Padded()


def all_tokens(attention: Attention, layer: Layer, hidden: Tensor, sentences: Sentences) -> Tensor:
    """The layer's output (T, H) for states `hidden` (T, H)."""
    projections = layer.projections(hidden, _positions(layer, sentences))
    return layer.output(attention.all(layer, *projections, sentences), hidden)


def first_tokens(attention: Attention, layer: Layer, hidden: Tensor, sentences: Sentences) -> Tensor:
    """The layer's output (B, H) for the sentences' first tokens alone."""
    if not attention.first_alone(layer):
        return all_tokens(attention, layer, hidden, sentences).index_select(0, sentences.firsts)
    before = hidden.index_select(0, sentences.firsts)
    queries = layer.queries(before, torch.zeros_like(sentences.firsts) if layer.reads_positions else _UNREAD)
    keyed = layer.keys_values(hidden, _positions(layer, sentences))
    return layer.output(attention.first(layer, queries, *keyed, sentences), before)


def _positions(layer: Layer, sentences: Sentences) -> Positions:
    return sentences.positions if layer.reads_positions else _UNREAD
