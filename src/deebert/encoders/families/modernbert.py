"""ModernBERT: norms first, rotary positions, gated feed-forward, attention local in most layers.

Source: Warner et al., 2024, arXiv 2412.13663.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from deebert.encoders.interface import Family, Layer, Positions

# Of these, frequencies do not depend on the length of the sentence, and so one table does for all.
ROTARY_TYPES = ("default", "linear", "yarn", "llama3")


class Rotary:
    """Rotates queries and keys by their position, by tables for all layers of one kind of attention.

    Source: Su et al., "RoFormer", 2021, arXiv 2104.09864.
    """

    def __init__(self, model: Any, attention_type: str) -> None:
        states = model.embeddings.tok_embeddings.weight[:1, None]
        positions = torch.arange(model.config.max_position_embeddings, device=states.device)[None]
        cos, sin = model.rotary_emb(states, positions, attention_type)
        self._cos, self._sin = cos[0, :, None].float(), sin[0, :, None].float()  # (positions, 1, D)

    def __call__(self, states: Tensor, positions: Positions, num_heads: int) -> Tensor:
        """States (T, heads * D) of tokens at `positions` (T,), rotated in float32."""
        at = torch.as_tensor(positions, device=states.device)
        heads = states.view(len(states), num_heads, states.shape[1] // num_heads).float()
        low, high = heads.chunk(2, dim=-1)
        rotated = heads * self._cos[at] + torch.cat((-high, low), dim=-1) * self._sin[at]
        return rotated.to(states.dtype).view_as(states)


class ModernBertLayer(Layer):
    """One `ModernBertEncoderLayer`. Its one projection is cut into two, for queries and for keys with values."""

    reads_positions: ClassVar = True
    projection_names: ClassVar = ("query", "key_value")
    linear_names: ClassVar = (*projection_names, "attention_out", "up", "down")

    def __init__(self, layer: Any, rotary: Rotary) -> None:
        config = layer.config
        self.num_heads = config.num_attention_heads
        self.rotary = rotary
        self.window = config.sliding_window if layer.attention_type == "sliding_attention" else None
        self.attention_norm, self.feed_forward_norm = layer.attn_norm, layer.mlp_norm
        self.query = _rows(layer.attn.Wqkv, slice(0, config.hidden_size))
        self.key_value = _rows(layer.attn.Wqkv, slice(config.hidden_size, None))
        self.attention_out = layer.attn.Wo
        self.up, self.activation, self.down = layer.mlp.Wi, layer.mlp.act, layer.mlp.Wo

    def queries(self, hidden: Tensor, positions: Positions) -> Tensor:
        return self.rotary(self.query(self.attention_norm(hidden)), positions, self.num_heads)

    def keys_values(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        key, value = self.key_value(self.attention_norm(hidden)).chunk(2, dim=-1)
        return self.rotary(key.contiguous(), positions, self.num_heads), value.contiguous()

    def projections(self, hidden: Tensor, positions: Positions) -> tuple[Tensor, ...]:
        if self.joined is None:
            return super().projections(hidden, positions)
        query, key, value = self.joined(self.attention_norm(hidden)).chunk(3, dim=1)
        return *(self.rotary(each, positions, self.num_heads) for each in (query, key)), value

    def output(self, context: Tensor, before: Tensor) -> Tensor:
        attended = before + self.attention_out(context)
        value, gate = self.up(self.feed_forward_norm(attended)).chunk(2, dim=-1)
        return attended + self.down(self.activation(value) * gate)


def _rows(linear: nn.Linear, rows: slice) -> nn.Linear:
    """A linear map with some of the outputs of `linear`, whose memory it shares."""
    weight = linear.weight[rows]
    part = nn.Linear(linear.in_features, len(weight), bias=linear.bias is not None, device="meta")
    part.weight = nn.Parameter(weight, requires_grad=False)
    if linear.bias is not None:
        part.bias = nn.Parameter(linear.bias[rows], requires_grad=False)
    return part


class ModernBert(Family):
    """`ModernBertForSequenceClassification` with `classifier_pooling` cls; there are no token types."""

    token_types: ClassVar[bool] = False

    def ignored_settings(self, config: Any) -> dict[str, tuple[Any, Any]]:
        ignored = super().ignored_settings(config)
        for kind in set(config.layer_types):
            rotary_type = config.rope_parameters[kind].get("rope_type", "default")
            if rotary_type not in ROTARY_TYPES:
                ignored["rope_type"] = rotary_type, f"one of {', '.join(ROTARY_TYPES)}"
        return ignored

    def layers(self, model: Any) -> list[ModernBertLayer]:
        rotary = {kind: Rotary(model.model, kind) for kind in set(model.config.layer_types)}
        return [ModernBertLayer(layer, rotary[layer.attention_type]) for layer in model.model.layers]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(model.drop(model.head(model.model.final_norm(first_token))))

    def inputs(
        self, model: Any, ids: np.ndarray, types: np.ndarray | None, lengths: np.ndarray
    ) -> dict[str, np.ndarray]:
        return {"input_ids": ids}  # its embeddings look up no positions

    def embed(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        return model.model.embeddings(input_ids=inputs["input_ids"][None])[0]


FAMILY = ModernBert()
