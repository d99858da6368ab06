"""All heads in every step, each ramp taught by the last head as well as by the labels.

Geng et al., "RomeBERT: Robust Training of Multi-Exit BERT", 2021, arXiv 2101.09755.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedModel

from deebert.training.objective import AllHeads

TEMPERATURE = 3.0
LABELS_SHARE = 0.1  # of a ramp's loss; the rest is the last head's


class Distilled(AllHeads):
    """The last head's cross-entropy, plus for each ramp 0.1 CE + 0.9 T^2 KL(last head || ramp) at temperature T."""

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits = self.logits(model, inputs)
        *ramps, last = self.cross_entropies(logits, labels)
        return last + LABELS_SHARE * sum(ramps) + (1.0 - LABELS_SHARE) * self.from_last(logits, labels)

    def from_last(self, logits: Tensor, labels: Tensor) -> Tensor:
        """T^2 times the sum over ramps and samples of the divergence of the ramp's answer from the last head's."""
        soft = (logits / TEMPERATURE).log_softmax(dim=-1)
        teacher = soft[-1].detach().expand_as(soft[:-1])
        each = kl_div(soft[:-1], teacher, reduction="none", log_target=True).sum(dim=(0, 2))  # (B,)
        weights = torch.ones_like(each) if self.class_weights is None else self.class_weights[labels]
        return TEMPERATURE**2 * (each * weights).sum()


OBJECTIVE = Distilled
