"""MPNet: relative positions, with one table of biases for all layers. Source: Song et al., NeurIPS 2020."""

from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from deebert.encoders.families.roberta import positions_after_padding_id
from deebert.encoders.interface import Family, plain_attention, total
from deebert.encoders.transformer import TransformerLayer

BUCKETS = 32  # transformers' forward computes with so many, whatever config.json says


class RelativeBias:
    """What MPNet adds to a score for the distance between query and key, for all layers alike.

    Args:
        encoder: transformers' `MPNetEncoder`, whose buckets of distances these are.
        max_length: no sentence has more tokens.
    """

    def __init__(self, encoder: Any, max_length: int) -> None:
        table = encoder.relative_attention_bias.weight
        distances = torch.arange(1 - max_length, max_length, device=table.device)
        with torch.no_grad():
            buckets = encoder.relative_position_bucket(distances)
            self._of_distance = table[buckets].T.contiguous()  # (heads, 2 * max_length - 1), from the least distance
        self._middle = max_length - 1

    def __call__(self, queries: range, keys: int) -> Tensor:
        """Biases (heads, Q, T) for queries at these positions and keys at 0..T-1."""
        least, most = self._middle - queries.start + 1 - len(queries), self._middle - queries.start
        return self._of_distance.unfold(1, keys, 1)[:, least : most + 1].flip(1)


class MPNetLayer(TransformerLayer):
    """The original layer with a bias on its scores."""

    bias: RelativeBias

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, positions: range, bias: Tensor | None = None
    ) -> Tensor:
        return plain_attention(query, key, value, total(self.bias(positions, key.shape[2]), bias))


class MPNet(Family):
    """`MPNetForSequenceClassification`: its head has a dense layer of its own; there are no token types."""

    token_types: ClassVar[bool] = False

    def ignored_settings(self, config: Any) -> dict[str, tuple[Any, Any]]:
        ignored = super().ignored_settings(config)
        if config.relative_attention_num_buckets != BUCKETS:
            ignored["relative_attention_num_buckets"] = config.relative_attention_num_buckets, BUCKETS
        return ignored

    def layers(self, model: Any) -> list[MPNetLayer]:
        bias = RelativeBias(model.mpnet.encoder, model.config.max_position_embeddings)
        layers = []
        for layer in model.mpnet.encoder.layer:
            layers.append(
                MPNetLayer(
                    model.config.num_attention_heads,
                    query=layer.attention.attn.q,
                    key=layer.attention.attn.k,
                    value=layer.attention.attn.v,
                    attention_out=layer.attention.attn.o,
                    attention_norm=layer.attention.LayerNorm,
                    up=layer.intermediate.dense,
                    activation=layer.intermediate.intermediate_act_fn,
                    down=layer.output.dense,
                    output_norm=layer.output.LayerNorm,
                )
            )
            layers[-1].bias = bias
        return layers

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(first_token[:, None])

    def position_ids(self, model: Any, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return positions_after_padding_id(model.mpnet.embeddings.padding_idx, ids, lengths)


FAMILY = MPNet()
