"""DeBERTa-v2 and -v3: scores also of a query with the distance to a key, and of a key with the distance to a query.

Source: He et al., "DeBERTa", ICLR 2021, section 3.1; "DeBERTaV3", ICLR 2023, arXiv 2111.09543.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from deebert.encoders.interface import Family, plain_attention, total
from deebert.encoders.transformer import TransformerLayer

# Kinds of scores, content to position and position to content, and what projects the embeddings of positions for them.
PROJECTIONS = {"c2p": "key_proj", "p2c": "query_proj"}


class RelativeScores:
    """What one layer adds to its scores for the distance between query and key; the last two terms of equation 4.

    Args:
        projections: of the embeddings, for each kind of score that the layer has.
        embeddings: of each distance from 1 - max_length to max_length - 1 between query and key: (distances, H).
        scale: of the scores.
    """

    def __init__(self, projections: dict[str, nn.Linear], embeddings: Tensor, num_heads: int, scale: float) -> None:
        with torch.no_grad():  # tables are (heads, distances, D)
            self._tables = {
                kind: (projection(embeddings) * scale).view(len(embeddings), num_heads, -1).transpose(0, 1).contiguous()
                for kind, projection in projections.items()
            }
        self._middle = len(embeddings) // 2

    def __call__(self, query: Tensor, key: Tensor, positions: range) -> Tensor:
        """Scores (n, heads, Q, T), of queries at these positions and keys at 0..T-1."""
        least = positions.start - (key.shape[2] - 1)
        occurring = slice(self._middle + least, self._middle + positions.stop)
        tables = {kind: table[:, occurring].to(key.dtype) for kind, table in self._tables.items()}
        at = torch.arange(positions.start, positions.stop, device=key.device)[:, None]
        column = at - torch.arange(key.shape[2], device=key.device) - least  # (Q, T): each distance in these tables
        scores = key.new_zeros(*query.shape[:3], key.shape[2])
        if "c2p" in tables:
            scores += _products(query, tables["c2p"]).gather(-1, column.expand_as(scores))
        if "p2c" in tables and len(positions) == 1:  # each key has one distance then: all their products are too many
            scores += (key * tables["p2c"].flip(1)).sum(dim=-1)[:, :, None]
        elif "p2c" in tables:
            scores += _products(key, tables["p2c"]).gather(-1, column.T.expand_as(scores.mT)).mT
        return scores


def _products(states: Tensor, table: Tensor) -> Tensor:
    """Of all states (n, heads, T, D) with all rows of the heads' tables (heads, rows, D): (n, heads, T, rows)."""
    return torch.einsum("nhtd,hrd->nhtr", states, table)


class DebertaV2Layer(TransformerLayer):
    """The original layer with disentangled attention.

    Attributes:
        relative: None where the layer has scores of contents alone.
        scale: of the scores, beside that of all attention, for there are more of them to add.
    """

    relative: RelativeScores | None = None
    scale: float

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, positions: range, bias: Tensor | None = None
    ) -> Tensor:
        if self.relative is not None:
            bias = total(self.relative(query, key, positions), bias)
        return plain_attention(query * self.scale, key, value, bias)


class DebertaV2(Family):
    """`DebertaV2ForSequenceClassification`: a pooler, then a linear classifier."""

    def ignored_settings(self, config: Any) -> dict[str, tuple[Any, Any]]:
        ignored = super().ignored_settings(config)
        expected = {"z_steps": 0, "conv_kernel_size": 0, "pooler_hidden_size": config.hidden_size}
        for key, allowed in expected.items():
            if (value := getattr(config, key, allowed)) != allowed:
                ignored[key] = value, allowed
        if not set(config.pos_att_type or ()) <= set(PROJECTIONS):
            ignored["pos_att_type"] = "|".join(config.pos_att_type), f"one or both of {', '.join(PROJECTIONS)}"
        return ignored

    def layers(self, model: Any) -> list[DebertaV2Layer]:
        embeddings = _of_distances(model.deberta.encoder, model.config.max_position_embeddings)
        return [_layer(layer, embeddings) for layer in model.deberta.encoder.layer]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(model.dropout(model.pooler(first_token[:, None])))


@torch.no_grad()
def _of_distances(encoder: Any, max_length: int) -> Tensor | None:
    """Embeddings of the distances from 1 - max_length to max_length - 1, which transformers puts into buckets."""
    table = encoder.get_rel_embedding()
    if table is None:
        return None
    distances = torch.arange(1 - max_length, max_length, device=table.device)
    if encoder.position_buckets > 0:
        distances = make_log_bucket_position(distances, encoder.position_buckets, encoder.max_relative_positions)
    return table[(distances.long() + len(table) // 2).clamp(0, len(table) - 1)]


def _layer(layer: Any, embeddings: Tensor | None) -> DebertaV2Layer:
    attention = layer.attention.self
    made = DebertaV2Layer(
        attention.num_attention_heads,
        query=attention.query_proj,
        key=attention.key_proj,
        value=attention.value_proj,
        attention_out=layer.attention.output.dense,
        attention_norm=layer.attention.output.LayerNorm,
        up=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense,
        output_norm=layer.output.LayerNorm,
    )
    prefix = "" if attention.share_att_key else "pos_"
    kinds = [kind for kind in PROJECTIONS if kind in attention.pos_att_type]
    made.scale = (1 + len(kinds)) ** -0.5
    if embeddings is not None:
        projections = {kind: getattr(attention, prefix + PROJECTIONS[kind]) for kind in kinds}
        scale = made.scale * attention.attention_head_size**-0.5
        made.relative = RelativeScores(projections, embeddings, attention.num_attention_heads, scale)
    return made


FAMILY = DebertaV2()
