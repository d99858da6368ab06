"""The backbone with its own head, as if there were no early exit: the first stage of DeeBERT's training.

Xin et al., ACL 2020, section 3.2.
"""

from collections.abc import Mapping

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from deebert.training.objective import Objective


class FullDepth(Objective):
    """The cross-entropy of the head after the last layer."""

    reads_first_token_alone = True

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits = model(**inputs).logits.float()
        return cross_entropy(logits, labels, weight=self.class_weights, reduction="sum")


OBJECTIVE = FullDepth
