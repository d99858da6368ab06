"""The original Transformer's layer: separate projections, norms last. BERT and its descendants share it.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.1.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from deebert.encoders.interface import Layer, Positions


class TransformerLayer(Layer):
    """Attention and a feed-forward network, each added to what it read and then normalised."""

    projection_names: ClassVar = ("query", "key", "value")
    linear_names: ClassVar = (*projection_names, "attention_out", "up", "down")

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

    def queries(self, hidden: Tensor, positions: Positions) -> Tensor:
        return self.query(hidden)

    def keys_values(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        return self.key(hidden), self.value(hidden)

    def projections(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        if self.joined is None:
            return super().projections(hidden, positions)
        return self.joined(hidden).chunk(3, dim=1)

    def output(self, context: Tensor, before: Tensor) -> Tensor:
        attended = self.attention_norm(self.attention_out(context) + before)
        return self.output_norm(self.down(self.activation(self.up(attended))) + attended)
