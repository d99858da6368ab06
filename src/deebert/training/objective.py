"""The interface between the loop and what it minimises, and how an objective is found by its name."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers import PreTrainedModel

from deebert.training import objectives
from deebert.training.objective_names import check


@dataclass(frozen=True)
class Trained:
    """Parameters that a training changes, with `learning_rate_factor` times the recipe's learning rate."""

    parameters: Sequence[nn.Parameter]
    learning_rate_factor: float = 1.0


class Objective(nn.Module):
    """What a fine-tuning step minimises.

    A module of `deebert.training.objectives` holds one, a class that is made from the model, as `OBJECTIVE`. Modules of
    its own, such as ramps, are its attributes. They are trained, checkpointed and shared by several processes like the
    model; the loop seeds torch before it makes the objective.

    Attributes:
        class_weights: (C,) float32, the weight of a sample by its label; the loop sets them. None = all weigh 1.
        reads_first_token_alone: True where the loss of a sample depends on the last layer's first token alone. The rest
            of that layer is then not computed.
    """

    class_weights: Tensor | None
    reads_first_token_alone = False

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

    def backward(self, loss: Callable[..., Tensor]) -> Tensor:
        """Add the gradients of one step to `.grad`; returns the value that is told as the step's loss.

        By default that is one pass forward and one backward. An objective that needs more calls `loss` more than once,
        each time followed by `.backward()`.

        Args:
            loss: runs `self.loss` on the step's batch, in the training's precision, scaled to the mean over the whole
                batch. Keyword arguments reach `self.loss`.
        """
        value = loss()
        value.backward()
        return value.detach()


def find(name: str) -> type[Objective]:
    """The objective of this name; no other one is imported.

    Raises:
        UserError: there is none.
    """
    check(name)
    return importlib.import_module(f"{objectives.__name__}.{name}").OBJECTIVE
