"""The last head and all heads in turn, so that early layers learn and the last one loses nothing.

Xin et al., "BERxiT: Early Exiting for BERT with Better Fine-Tuning and Extension to Regression", EACL 2021, section 4.
"""

from collections.abc import Mapping

from torch import Tensor
from transformers import PreTrainedModel

from deebert.training.objective import AllHeads


class Alternating(AllHeads):
    """Even steps: the cross-entropy of the last head. Odd steps: the sum of the cross-entropies of all heads."""

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        if self.step % 2:
            return self.cross_entropies(self.logits(model, inputs), labels).sum()
        return super().loss(model, inputs, labels) + self.resting()


OBJECTIVE = Alternating
