"""ELECTRA: BERT's layers over embeddings that may be narrower than they are. Source: Clark et al., ICLR 2020."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.functional import linear

from deebert.encoders.families.bert import bert_layer
from deebert.encoders.interface import Family
from deebert.encoders.transformer import TransformerLayer


class Electra(Family):
    """`ElectraForSequenceClassification`, on the discriminator: its head has a dense layer of its own."""

    def layers(self, model: Any) -> list[TransformerLayer]:
        return [bert_layer(layer, model.config.num_attention_heads) for layer in model.electra.encoder.layer]

    def head(self, model: Any, first_token: Tensor) -> Tensor:
        return model.classifier(first_token[:, None])

    def embed(self, model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
        narrow = super().embed(model, inputs)
        widen = getattr(model.electra, "embeddings_project", None)
        if widen is None:
            return narrow
        # In float64 the sum rounds to one float32, whatever the number of tokens. int8 would make more of a last bit.
        return linear(narrow.double(), widen.weight.double(), widen.bias.double()).float()


FAMILY = Electra()
