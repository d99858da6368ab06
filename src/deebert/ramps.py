"""The off-ramps: small classifiers on the first token's state, one after every layer but the last.

A kind of ramp is a class here, and a way to train it in `training/`. Shapes: B samples, H width, L layers, C classes.
"""

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from deebert.base.errors import UserError, one_line

RAMPS = "ramps.safetensors"  # the file beside a model's own
KIND = "kind"  # in the file's metadata


class Ramps(nn.Module):
    """The L-1 off-ramps, stored as one tensor per kind so that all of them train in one batched product.

    Row i of each tensor belongs to the ramp after layer i+1.

    Attributes:
        out_weight: (L-1, C, H), of the last linear map.
        out_bias: (L-1, C).
    """

    def __init__(self, num_ramps: int, hidden_size: int, num_labels: int) -> None:
        super().__init__()
        fp32 = {"dtype": torch.float32}  # whatever the program has made PyTorch's default
        self.out_weight = nn.Parameter(torch.empty(num_ramps, num_labels, hidden_size, **fp32))
        self.out_bias = nn.Parameter(torch.zeros(num_ramps, num_labels, **fp32))

    def __len__(self) -> int:
        return len(self.out_weight)

    def only(self, layer: int) -> Self:
        """A copy of the ramp after `layer` (1..L-1) alone."""
        _, num_labels, hidden_size = self.out_weight.shape
        one = type(self)(1, hidden_size, num_labels)
        one.load_state_dict({name: tensor[layer - 1 : layer] for name, tensor in self.state_dict().items()})
        return one.eval()

    @abstractmethod
    def forward(self, states: Tensor) -> Tensor:
        """Logits (L-1, B, C) of all ramps from first-token states (L-1, B, H), one slice per ramp."""

    @abstractmethod
    def ramp(self, layer: int, states: Tensor) -> Tensor:
        """Logits (B, C) of the ramp after `layer` (1..L-1) from its first-token states (B, H)."""

    @abstractmethod
    def first_map(self) -> tuple[nn.Parameter, nn.Parameter]:
        """Weight (L-1, out, H) and bias (L-1, out) of the linear map that reads the states."""


class PoolerRamps(Ramps):
    """The paper's: dense, tanh, linear. Source: Xin et al., section 3.1."""

    def __init__(self, num_ramps: int, hidden_size: int, num_labels: int) -> None:
        super().__init__(num_ramps, hidden_size, num_labels)
        fp32 = {"dtype": torch.float32}
        self.dense_weight = nn.Parameter(torch.empty(num_ramps, hidden_size, hidden_size, **fp32))  # (L-1, out, in)
        self.dense_bias = nn.Parameter(torch.zeros(num_ramps, hidden_size, **fp32))
        bound = hidden_size**-0.5  # as nn.Linear starts
        nn.init.uniform_(self.dense_weight, -bound, bound)
        nn.init.uniform_(self.out_weight, -bound, bound)

    def forward(self, states: Tensor, dropout: float = 0.0) -> Tensor:
        pooled = torch.baddbmm(self.dense_bias[:, None], states, self.dense_weight.mT).tanh()
        pooled = nn.functional.dropout(pooled, dropout, training=self.training)
        return torch.baddbmm(self.out_bias[:, None], pooled, self.out_weight.mT)

    def ramp(self, layer: int, states: Tensor) -> Tensor:
        i = layer - 1
        pooled = nn.functional.linear(states, self.dense_weight[i], self.dense_bias[i]).tanh()
        return nn.functional.linear(pooled, self.out_weight[i], self.out_bias[i])

    def first_map(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.dense_weight, self.dense_bias


class LinearRamps(Ramps):
    """One linear map, which reads next to nothing: C rows of weights, where a pooler has H more."""

    def __init__(self, num_ramps: int, hidden_size: int, num_labels: int) -> None:
        super().__init__(num_ramps, hidden_size, num_labels)
        nn.init.uniform_(self.out_weight, -(hidden_size**-0.5), hidden_size**-0.5)

    def forward(self, states: Tensor) -> Tensor:
        return torch.baddbmm(self.out_bias[:, None], states, self.out_weight.mT)

    def ramp(self, layer: int, states: Tensor) -> Tensor:
        return nn.functional.linear(states, self.out_weight[layer - 1], self.out_bias[layer - 1])

    def first_map(self) -> tuple[nn.Parameter, nn.Parameter]:
        return self.out_weight, self.out_bias


KINDS: dict[str, type[Ramps]] = {"pooler": PoolerRamps, "linear": LinearRamps}


def kind_of(ramps: Ramps) -> str:
    """The name of their kind, as `train_ramps.ramp` has it."""
    return next(name for name, kind in KINDS.items() if isinstance(ramps, kind))


def save_ramps(ramps: Ramps, folder: Path) -> None:
    """Write `ramps.safetensors` into `folder`, which exists."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in ramps.state_dict().items()}
    save_file(tensors, folder / RAMPS, metadata={KIND: kind_of(ramps)})


def load_ramps(folder: Path, num_ramps: int, hidden_size: int, num_labels: int) -> Ramps:
    """Read back what `save_ramps` wrote, in eval mode.

    Raises:
        UserError: the file is missing or damaged, or it belongs to a model of another shape or a later version.
    """
    file = folder / RAMPS
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no dict)
            kind = (opened.metadata() or {}).get(KIND) or _kind_by_names(tensors)
        if kind not in KINDS:
            raise UserError(f"{file}: ramps of the kind {kind!r} are not known here; expected {', '.join(KINDS)}")
        ramps = KINDS[kind](num_ramps, hidden_size, num_labels)
        ramps.load_state_dict(tensors)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be loaded: {one_line(error)}; `dvc repro` makes it") from None
    return ramps.eval()


def _kind_by_names(tensors: Iterable[str]) -> str:
    """The kind of a file that does not say it, as that of a checkpoint of the paper's own code."""
    return "pooler" if any(name.startswith("dense") for name in tensors) else "linear"


def check_has_ramps(folder: Path) -> None:
    """UserError where a folder is there and holds a model without ramps."""
    if (folder / "config.json").is_file() and not has_ramps(folder):
        raise UserError(
            f"{folder}: a model without ramps ({RAMPS} is missing); `dvc repro` makes one in models/deebert"
        )


def has_ramps(folder: Path) -> bool:
    """Whether a model's folder holds ramps already. A backbone's does if it was taken over with its own."""
    return (folder / RAMPS).is_file()
