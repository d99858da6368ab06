"""The original Transformer's layer: separate projections, norms last. BERT and its descendants share it.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from torch import Tensor, nn

from deebert.encoders.interface import Layer, Linear


class TransformerLayer(Layer):
    """Attention and a feed-forward network, each added to what it read and then normalised.

    Attributes:
        joined: what gives queries, keys and values side by side, where one product is faster than three; or None.
    """

    joined: Linear | None = None
    plain_maps: ClassVar = True
    linear_names: ClassVar = ("query", "key", "value", "attention_out", "up", "down")

    def __init__(
        self,
        num_heads: int,
        *,
        query: nn.Linear,
        key: nn.Linear,
        value: nn.Linear,
        attention_out: nn.Linear,
        attention_norm: nn.LayerNorm,
        up: nn.Linear,
        activation: Callable[[Tensor], Tensor],
        down: nn.Linear,
        output_norm: nn.LayerNorm,
    ) -> None:
        self.num_heads = num_heads
        self.query, self.key, self.value = query, key, value
        self.attention_out, self.attention_norm = attention_out, attention_norm
        self.up, self.activation, self.down, self.output_norm = up, activation, down, output_norm

    def queries(self, hidden: Tensor, positions: np.ndarray) -> Tensor:
        return self.query(hidden)

    def keys_values(self, hidden: Tensor, positions: np.ndarray) -> tuple[Tensor, Tensor]:
        return self.key(hidden), self.value(hidden)

    def projections(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, (T, heads * D) each, of tokens with states `hidden` (T, H)."""
        if self.joined is None:
            return self.query(hidden), self.key(hidden), self.value(hidden)
        return self.joined(hidden).chunk(3, dim=1)

    def output(self, context: Tensor, before: Tensor) -> Tensor:
        attended = self.attention_norm(self.attention_out(context) + before)
        return self.output_norm(self.down(self.activation(self.up(attended))) + attended)
