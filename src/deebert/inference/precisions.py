"""What a deployed model multiplies in: a class per precision, which takes over the linear maps of the layers.

Each holds its weight once, in the order that its products read it in. The linear map that it was made of is not needed
any more. It reads float32, or what another map of the layer has given.
"""

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear as product

from deebert.base.devices import resolve_precision
from deebert.base.errors import UserError
from deebert.base.files import read_json

log = logging.getLogger(__name__)

# Whole numbers from -64 to 64 for weights, from 1 to 255 for states. Processors without VNNI add two products of 8 bits
# in 16 bits, and 255 * 64 * 2 still fits. So the product is exact, and the same on every processor.
WEIGHT_STEPS, STATE_STEPS = 64, 127
STATE_ZERO = 128  # what stands for 0 among the states
_engine_lock = threading.Lock()


class Fp32Linear:
    """A linear map in float32. On a CPU its weight is in oneDNN's order, as PyTorch would put it anew for each call.

    Attributes:
        rounding: what rounds states, which `__call__` then takes; None = states are not rounded to whole numbers.
    """

    rounding: ClassVar[type["Rounding"] | None] = None

    def __init__(self, linear: nn.Linear) -> None:
        self._set(linear.weight.detach(), None if linear.bias is None else linear.bias.detach())

    def _set(self, weight: Tensor, bias: Tensor | None) -> None:
        self.bias = bias
        self._is_packed = _is_packable(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._is_packed else weight

    @classmethod
    def joined(cls, maps: Sequence[Self]) -> Self:
        """The map that gives what all of them give, side by side. Where weights are in their usual order, it holds
        those of all, and theirs become parts of its own.
        """
        one, weights = cls.__new__(cls), [each.weight() for each in maps]
        biases = [each.bias for each in maps if each.bias is not None]  # all maps have one, or none has
        one._set(torch.cat(weights), torch.cat(biases) if biases else None)
        if not one._is_packed:
            for each, part in zip(maps, one._weight.split([*map(len, weights)]), strict=True):
                each._weight = part
        return one

    def __call__(self, states: Tensor) -> Tensor:
        states = states.to(self._weight.dtype)
        if self._is_packed:
            return torch.ops.mkldnn._linear_pointwise(states, self._weight, self.bias, "none", [], "")
        return product(states, self._weight, self.bias)

    def weight(self) -> Tensor:
        """The weight (out, in) bit for bit, in its usual order."""
        return self._weight.to_dense() if self._is_packed else self._weight

    def __getstate__(self) -> tuple[Tensor, Tensor | None]:
        return self.weight().clone(), self.bias  # a part of a joined weight would bring the whole

    def __setstate__(self, state: tuple[Tensor, Tensor | None]) -> None:
        self._set(*state)


class Bf16Linear(Fp32Linear):
    """A linear map whose product is of bfloat16 numbers; so is what it gives."""

    def _set(self, weight: Tensor, bias: Tensor | None) -> None:
        super()._set(weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16))


class Rounding:
    """Rounds states to whole numbers, with a scale for each token, so that no token depends on another.

    A first token's state varies less between sentences, in early layers, than 8 bits of its largest feature resolve. So
    it is read in 15 bits, as two times 8: what the first 8 leave over is one more row of the product.

    What was rounded last is kept: maps of the same states, such as query, key and value, round them once. So this is
    for one call of a layer.

    Args:
        finer: (F,) int64, the rows of the states that are read in 15 bits; None = none is.
    """

    def __init__(self, finer: Tensor | None = None) -> None:
        self.finer = finer if finer is not None and len(finer) else None
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """The states in steps from -127 to 127, what was left over last, (T + F, in); and each token's step, (T, 1)."""
        if self._last is None or self._last[0] is not states:
            self._last = states, *self._rounded(states)
        return self._last[1:]

    def _rounded(self, states: Tensor) -> tuple[Tensor, Tensor]:
        scale = _largest(states) / STATE_STEPS
        if self.finer is None:
            return states / scale, scale  # which the product rounds
        count = len(states)
        read = states.new_empty(count + len(self.finer), states.shape[1])
        torch.div(states, scale, out=read[:count])
        exact = read.index_select(0, self.finer)
        rounded = exact.round()
        read.index_copy_(0, self.finer, rounded)
        torch.sub(exact, rounded, out=read[count:]).mul_(STATE_STEPS)  # what is left over: from -64 to 64
        return read, scale

    def joined(self, steps: Tensor, count: int) -> Tensor:
        """Products (T, out) of `count` tokens, of those of all rows (T + F, out)."""
        if self.finer is None:
            return steps
        return steps[:count].index_add_(0, self.finer, steps[count:], alpha=1 / STATE_STEPS)


class Int8Linear:
    """A linear map whose product is of whole numbers, with a scale for each output and one for each token.

    The product itself is exact (see `WEIGHT_STEPS`).
    """

    rounding: ClassVar[type[Rounding]] = Rounding

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight.detach()
        scale = _largest(weight) / WEIGHT_STEPS
        whole = (weight / scale).round_().clamp_(-WEIGHT_STEPS, WEIGHT_STEPS).to(torch.int8)
        self._set(whole, scale[:, 0], 0.0 if linear.bias is None else linear.bias.detach())

    def _set(self, whole: Tensor, scale: Tensor, bias: Tensor | float) -> None:
        self.bias = torch.as_tensor(bias, device=whole.device)
        zeros = torch.zeros(len(whole), dtype=torch.int64, device=whole.device)
        with _fbgemm():
            quantized = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)

    def __call__(self, states: Tensor, rounding: Rounding | None = None) -> Tensor:
        """The map of states (T, in): (T, out). None = all are rounded alike, to 8 bits."""
        rounding = rounding or Rounding()
        read, scale = rounding(states)
        steps = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(read, 1.0, STATE_ZERO, self._packed)
        steps = rounding.joined(steps, len(states))
        return torch.addcmul(self.bias, steps, scale, out=steps)

    def __getstate__(self) -> tuple[Tensor, Tensor, Tensor]:
        weight, _ = torch.ops.quantized.linear_unpack(self._packed)
        return weight.int_repr(), weight.q_per_channel_scales().float(), self.bias

    def __setstate__(self, state: tuple[Tensor, Tensor, Tensor]) -> None:
        self._set(*state)


PRECISIONS: dict[str, Any] = {"fp32": Fp32Linear, "bf16": Bf16Linear, "int8": Int8Linear}
RECORD = "ramps.json"  # the file beside a model's weights that says how its ramps were made, and for which precision


def recorded(folder: Path) -> str:
    """The precision that a model's ramps were made for, and so its thresholds; fp32 where nothing is recorded.

    Raises:
        UserError: the record is damaged.
    """
    file = folder / RECORD
    record = read_json(file) if file.is_file() else {}
    if not isinstance(record, dict):
        raise UserError(f"{file}: damaged: expected keys and values")
    precision = record.get("precision", "fp32")
    if precision not in PRECISIONS:
        raise UserError(f"{file}: precision: {precision!r} is not allowed; expected one of {', '.join(PRECISIONS)}")
    return precision


def resolve(precision: str, device: torch.device) -> str:
    """The precision to compute in on `device`. `auto` is bf16 where it multiplies that itself, else fp32.

    It is never int8, which rounds most of all; whoever wants it says so.

    Raises:
        UserError: int8 where it cannot be multiplied.
    """
    if precision == "auto":
        return resolve_precision(precision, device)
    if precision == "int8" and not multiplies(precision, device):
        raise UserError("precision: int8 needs a CPU with AVX2, and no GPU; here expected fp32, bf16 or auto")
    if precision == "bf16" and not multiplies(precision, device):
        log.warning("precision: this machine does not multiply bf16 itself; fp32 is faster here")
    return precision


def multiplies(precision: str, device: torch.device) -> bool:
    """Whether `device` multiplies in `precision` itself, and need not go round by float32."""
    if precision == "fp32":
        return True
    if precision == "int8":
        return device.type == "cpu" and "fbgemm" in torch.backends.quantized.supported_engines
    return resolve_precision("auto", device) == "bf16"


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return weight.dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _largest(rows: Tensor) -> Tensor:
    """The largest absolute value of each row, (rows, 1); of a row of zeros something above 0."""
    # Not by vector_norm: along rows it took 15 times as long.
    return torch.maximum(rows.amax(dim=1, keepdim=True), rows.amin(dim=1, keepdim=True).neg_()).clamp_(min=1e-30)


@contextlib.contextmanager
def _fbgemm() -> Iterator[None]:
    """A block in which weights are packed for FBGEMM, the fastest of PyTorch's libraries here.

    Which library packs is a setting of the process, and so only one thread may be here.
    """
    with _engine_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            yield
        finally:
            torch.backends.quantized.engine = before
