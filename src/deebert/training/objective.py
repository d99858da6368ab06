"""The interface between the loop and what it minimises, what objectives share, and how one is found by its name.

Shapes: B samples, T tokens, H width, L layers, C classes. Ramps 1..L-1 and the model's own head make L heads.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from deebert.training import objectives
from deebert.training.objective_names import check

RAMP_RATE = 1e-3  # peak learning rate of ramps that are trained together with the backbone; they start from nothing


@dataclass(frozen=True)
class Trained:
    """Parameters that a training changes; `learning_rate` is the peak of their own, None = the recipe's."""

    parameters: Sequence[nn.Parameter]
    learning_rate: float | None = None


class Objective(nn.Module):
    """What a fine-tuning step minimises.

    A module of `deebert.training.objectives` holds one, a class that is made from the model, as `OBJECTIVE`. Modules of
    its own, such as ramps, are its attributes. They are trained, checkpointed and shared by several processes like the
    model; the loop seeds torch before it makes the objective. With several processes, each parameter that is trained
    must have a part in every loss, be it 0 times its sum.

    Attributes:
        class_weights: (C,) float32, the weight of a sample by its label; the loop sets them. None = all weigh 1.
        reads_first_token_alone: True where the loss of a sample depends on the last layer's first token alone. The rest
            of that layer is then not computed.
        step: the number of the step of the whole fine-tuning, from 0; the loop sets it, after a restart as before it.
    """

    class_weights: Tensor | None
    reads_first_token_alone = False
    step = 0

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.register_buffer("class_weights", None, persistent=False)

    def trained(self, model: PreTrainedModel) -> list[Trained]:
        """The parameters that are trained, each in one group; by default all of the model's and of its own."""
        return [Trained([*model.parameters(), *self.parameters()])]

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The sum of the losses of B samples, a scalar in float32.

        Args:
            inputs: what `model` takes, each (B, T).
            labels: (B,) in 0..C-1.
        """
        raise NotImplementedError


class FullDepth(Objective):
    """The cross-entropy of the head after the last layer."""

    reads_first_token_alone = True

    def loss(self, model: PreTrainedModel, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        logits = model(**inputs).logits.float()
        return cross_entropy(logits, labels, weight=self.class_weights, reduction="sum")


class AllHeads(FullDepth):
    """What objectives share that train ramps together with the backbone, so that early layers learn to hold the answer.

    These ramps serve the training alone: afterwards `train_ramps` fits others to the frozen backbone. They have the
    paper's shape, but read states that are normalised, each by itself. That sets their size, and leaves what part of
    them differs from sample to sample, which in early layers of a pretrained backbone is very little.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__(model)
        width, num_labels = model.config.hidden_size, model.config.num_labels
        self.ramps = nn.ModuleList(_ramp(width, num_labels) for _ in range(model.config.num_hidden_layers - 1))

    def trained(self, model: PreTrainedModel) -> list[Trained]:
        return [Trained([*model.parameters()]), Trained([*self.ramps.parameters()], RAMP_RATE)]

    def logits(self, model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits (L, B, C) of all heads in float32, in the order of the layers."""
        answer = model(**inputs, output_hidden_states=True)
        states = answer.hidden_states[1:-1]  # what the embeddings give comes first
        early = [ramp(state[:, 0]) for ramp, state in zip(self.ramps, states, strict=True)]
        return torch.stack([each.float() for each in (*early, answer.logits)])

    def cross_entropies(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of each head the sum over samples, (L,), from logits (L, B, C) and labels (B,)."""
        return torch.stack([cross_entropy(each, labels, self.class_weights, reduction="sum") for each in logits])

    def resting(self) -> Tensor:
        """0, with a gradient of 0 for each ramp: part of a loss in which they have no other part."""
        return 0.0 * sum(weight.sum() for weight in self.ramps.parameters())


def _ramp(width: int, num_labels: int) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, num_labels)
    )


def find(name: str) -> type[Objective]:
    """The objective of this name; no other one is imported.

    Raises:
        UserError: there is none.
    """
    check(name)
    return importlib.import_module(f"{objectives.__name__}.{name}").OBJECTIVE
