"""What a deployed model multiplies in: a precision says what becomes of each linear map of a layer.

It may change a map's weights in place. The map then reads float32 or what another map of the layer has given.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from deebert.encoders.interface import Linear


def fp32(linear: nn.Linear) -> Linear:
    """The map as it was loaded."""
    return linear


class Bf16Linear(nn.Module):
    """A linear map whose product is of bfloat16 numbers; so is what it gives."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear.to(torch.bfloat16)

    def forward(self, states: Tensor) -> Tensor:
        return self.linear(states.to(torch.bfloat16))


PRECISIONS: dict[str, Callable[[nn.Linear], Linear]] = {"fp32": fp32, "bf16": Bf16Linear}
