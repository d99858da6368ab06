"""RoBERTa: BERT's layers, another head and another count of positions. Source: Liu et al., 2019, arXiv 1907.11692."""

from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from deebert.encoders.families.bert import bert_layer
from deebert.encoders.interface import Family
from deebert.encoders.transformer import TransformerLayer


class Roberta(Family):
    """`RobertaForSequenceClassification`: its head has a dense layer of its own in place of a pooler."""

    def layers(self, model: Any) -> list[TransformerLayer]:
        return [bert_layer(layer, model.config.num_attention_heads) for layer in model.roberta.encoder.layer]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(first_token[:, None])

    def ignored_settings(self, config: PreTrainedConfig) -> dict[str, tuple[Any, Any]]:
        ignored, padding = super().ignored_settings(config), config.pad_token_id
        if padding is None or padding < 0:
            ignored["pad_token_id"] = (padding, "a number, 0 or more, as positions follow it")
        return ignored

    def position_ids(self, model: Any, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return positions_after_padding_id(model.config.pad_token_id, ids, lengths)


def positions_after_padding_id(padding_id: int, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Positions (T,) counted from `padding_id` + 1. A text may hold the padding token, which has no position."""
    starts = np.cumsum(lengths) - lengths
    counted = ids != padding_id
    count = np.cumsum(counted)
    return padding_id + counted * (count - np.repeat(count[starts] - counted[starts], lengths))


FAMILY = Roberta()
