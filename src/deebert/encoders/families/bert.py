"""BERT. Source: Devlin et al., NAACL 2019."""

from typing import Any

from torch import Tensor

from deebert.encoders.interface import Family
from deebert.encoders.transformer import TransformerLayer


class Bert(Family):
    """`BertForSequenceClassification`: a pooler, then a linear classifier."""

    def layers(self, model: Any) -> list[TransformerLayer]:
        return [bert_layer(layer, model.config.num_attention_heads) for layer in model.bert.encoder.layer]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(model.dropout(model.bert.pooler(first_token[:, None])))


def bert_layer(layer: Any, num_heads: int) -> TransformerLayer:
    """The layer of BERT's code in transformers, which several families have copied."""
    return TransformerLayer(
        num_heads,
        query=layer.attention.self.query,
        key=layer.attention.self.key,
        value=layer.attention.self.value,
        attention_out=layer.attention.output.dense,
        attention_norm=layer.attention.output.LayerNorm,
        up=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense,
        output_norm=layer.output.LayerNorm,
    )


FAMILY = Bert()
