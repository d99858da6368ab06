"""DistilBERT: BERT's layer under other names, without token types. Source: Sanh et al., 2019, arXiv 1910.01108."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from deebert.encoders.interface import Family
from deebert.encoders.transformer import TransformerLayer


class DistilBert(Family):
    """`DistilBertForSequenceClassification`: a dense layer with ReLU, then a linear classifier."""

    token_types: ClassVar[bool] = False

    def layers(self, model: Any) -> list[TransformerLayer]:
        return [
            TransformerLayer(
                model.config.num_attention_heads,
                query=layer.attention.q_lin,
                key=layer.attention.k_lin,
                value=layer.attention.v_lin,
                attention_out=layer.attention.out_lin,
                attention_norm=layer.sa_layer_norm,
                up=layer.ffn.lin1,
                activation=layer.ffn.activation,
                down=layer.ffn.lin2,
                output_norm=layer.output_layer_norm,
            )
            for layer in model.distilbert.transformer.layer
        ]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(model.dropout(torch.relu(model.pre_classifier(first_token))))


FAMILY = DistilBert()
