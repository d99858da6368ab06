"""The off-ramps: small classifiers on the first token's state, one after every layer but the last.

Shapes: B samples, H width, L layers, C classes.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deebert.base.errors import UserError, one_line

RAMPS = "ramps.safetensors"  # the file beside a model's own


class Ramps(nn.Module):
    """The L-1 off-ramps, stored as one tensor per kind so that all of them train in one batched product.

    A ramp is the paper's (Xin et al., section 3.1): dense, tanh, linear on the first token's state. Row i of each
    tensor belongs to the ramp after layer i+1.
    """

    def __init__(self, num_ramps: int, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        fp32 = {"dtype": torch.float32}  # whatever the program has made PyTorch's default
        self.dense_weight = nn.Parameter(torch.empty(num_ramps, hidden_size, hidden_size, **fp32))  # (L-1, out, in)
        self.dense_bias = nn.Parameter(torch.zeros(num_ramps, hidden_size, **fp32))
        self.out_weight = nn.Parameter(torch.empty(num_ramps, num_labels, hidden_size, **fp32))
        self.out_bias = nn.Parameter(torch.zeros(num_ramps, num_labels, **fp32))
        bound = hidden_size**-0.5  # as nn.Linear starts
        nn.init.uniform_(self.dense_weight, -bound, bound)
        nn.init.uniform_(self.out_weight, -bound, bound)

    def __len__(self) -> int:
        return len(self.dense_weight)

    def forward(self, states: Tensor, dropout: float = 0.0) -> Tensor:
        """Logits (L-1, B, C) of all ramps from first-token states (L-1, B, H), one slice per ramp."""
        pooled = torch.baddbmm(self.dense_bias[:, None], states, self.dense_weight.mT).tanh()
        pooled = nn.functional.dropout(pooled, dropout, training=self.training)
        return torch.baddbmm(self.out_bias[:, None], pooled, self.out_weight.mT)

    def ramp(self, layer: int, states: Tensor) -> Tensor:
        """Logits (B, C) of the ramp after `layer` (1..L-1) from its first-token states (B, H)."""
        i = layer - 1
        pooled = nn.functional.linear(states, self.dense_weight[i], self.dense_bias[i]).tanh()
        return nn.functional.linear(pooled, self.out_weight[i], self.out_bias[i])


def save_ramps(ramps: Ramps, folder: Path) -> None:
    """Write `ramps.safetensors` into `folder`, which exists."""
    save_file({name: tensor.detach().contiguous() for name, tensor in ramps.state_dict().items()}, folder / RAMPS)


def load_ramps(folder: Path, num_ramps: int, hidden_size: int, num_labels: int) -> Ramps:
    """Read back what `save_ramps` wrote, in eval mode.

    Raises:
        UserError: the file is missing or damaged, or it belongs to a model of another shape.
    """
    ramps = Ramps(num_ramps, hidden_size, num_labels)
    try:
        ramps.load_state_dict(load_file(folder / RAMPS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / RAMPS}: cannot be loaded: {one_line(error)}; `dvc repro` makes it") from None
    return ramps.eval()


def has_ramps(folder: Path) -> bool:
    """Whether a model's folder holds ramps already. A backbone's does if it was taken over with its own."""
    return (folder / RAMPS).is_file()
