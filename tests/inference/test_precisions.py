"""Precisions: what a linear map becomes of, and that it is exact where it says so."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deebert.base.errors import UserError
from deebert.encoders.interface import Linear
from deebert.inference import precisions
from deebert.inference.engine import Engine
from deebert.inference.precisions import (
    PRECISIONS,
    STATE_STEPS,
    WEIGHT_STEPS,
    Fp32Linear,
    Int8Linear,
    Rounding,
    resolve,
)
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from tests import tiny

CPU = torch.device("cpu")
each_precision = pytest.mark.parametrize("precision", PRECISIONS)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


def linear(inputs: int = 48, outputs: int = 40, bias: bool = True, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs, bias=bias)


def int8(plain: nn.Linear) -> Linear:
    return Int8Linear(plain)


def finer_int8(plain: nn.Linear) -> Linear:
    """As first tokens are multiplied."""
    mapped = Int8Linear(plain)
    return lambda states: mapped(states, Rounding(torch.arange(len(states))))


each_int8 = pytest.mark.parametrize("kind", [int8, finer_int8])


def states(tokens: int, inputs: int = 48, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(tokens, inputs)


@each_precision
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [0, 1, 3, 200])
def test_near_the_plain_product(precision: str, bias: bool, tokens: int) -> None:
    """Each precision gives the map's product, off by no more than its rounding; of no tokens, none."""
    plain = linear(bias=bias)
    found = PRECISIONS[precision](plain)(states(tokens)).float()
    assert found.shape == (tokens, 40)
    bound = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}[precision]
    torch.testing.assert_close(found, plain(states(tokens)), atol=bound, rtol=0)


def test_the_plain_product_where_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without oneDNN the map is as it was, bit for bit."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = linear()
    found = PRECISIONS["fp32"](plain)
    assert torch.equal(found(states(9)), plain(states(9))) and torch.equal(found.weight(), plain.weight)


@each_precision
def test_pickled(precision: str) -> None:
    """A map that went through pickle gives the same, bit for bit."""
    mapped = PRECISIONS[precision](linear())
    assert torch.equal(pickle.loads(pickle.dumps(mapped))(states(7)), mapped(states(7)))


def test_a_part_of_a_joined_map_is_pickled_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight lies in the memory of the whole, which would come along for each part."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    parts = [PRECISIONS["fp32"](linear(256, 128, seed=seed)) for seed in range(3)]
    alone = len(pickle.dumps(parts[0]))
    Fp32Linear.joined(parts)
    assert len(pickle.dumps(parts[0])) < 1.1 * alone


@each_precision
def test_what_the_program_has_made_the_default_device_does_not_matter(precision: str) -> None:
    """A map is where its weight is, when it is made and when it comes out of a pickle."""
    plain = linear()
    expected = PRECISIONS[precision](plain)
    with torch.device("meta"):
        mapped = PRECISIONS[precision](plain)
        received = pickle.loads(pickle.dumps(mapped))
    for found in (mapped, received):
        assert torch.equal(found(states(7)), expected(states(7)))


@each_int8
@pytest.mark.parametrize("weight", [WEIGHT_STEPS, -WEIGHT_STEPS])
@pytest.mark.parametrize("state", [STATE_STEPS, -STATE_STEPS])
def test_int8_never_overflows(weight: int, state: int, kind: Callable[[nn.Linear], Linear]) -> None:
    """The largest whole numbers of all, in a row as long as bert-large's, are summed without loss."""
    inputs = 4096
    plain = nn.Linear(inputs, 32, bias=False)
    plain.weight.fill_(weight)
    found = kind(plain)(torch.full((20, inputs), float(state)))
    assert torch.equal(found, torch.full((20, 32), float(weight * state * inputs)))


@pytest.mark.parametrize("tokens", [1, 2, 17, 64])
def test_int8_is_the_product_of_whole_numbers(tokens: int) -> None:
    """What it gives is the exact sum of int8 times int8, times the scales of the output and of the token."""
    plain, read = linear(768, 96), states(tokens, 768)
    read[0, 0], plain.weight[0, :2] = 50.0, torch.tensor([3.0, -3.0])  # outliers
    weight_scale = plain.weight.abs().amax(dim=1, keepdim=True) / WEIGHT_STEPS
    state_scale = read.abs().amax(dim=1, keepdim=True) / STATE_STEPS
    whole = (read / state_scale).round().long() @ (plain.weight / weight_scale).round().long().T
    expected = whole.double() * state_scale.double() * weight_scale.double().T + plain.bias.double()
    torch.testing.assert_close(Int8Linear(plain)(read).double(), expected, atol=1e-5, rtol=1e-5)


def test_first_tokens_are_read_in_15_bits() -> None:
    """What they are rounded by is less than a hundredth of what others are; the weight is the same rounded one."""
    plain, read = linear(768, 96), states(40, 768)
    read[:, 0] = 50.0  # an outlier, which makes a token's scale coarse
    scale = plain.weight.abs().amax(dim=1, keepdim=True) / WEIGHT_STEPS
    rounded = (plain.weight / scale).round().double() * scale.double()
    expected = read.double() @ rounded.T + plain.bias.double()
    coarse, fine = ((mapped(read) - expected).abs().amax() for mapped in (int8(plain), finer_int8(plain)))
    assert 0 < fine < coarse / 100


def test_only_the_chosen_tokens_are_finer() -> None:
    """Each token gets the bits that it gets where all are finer, or none is."""
    mapped, read, chosen = Int8Linear(linear(768, 96)), states(5, 768), torch.tensor([4, 1])
    found, all_finer, none = (mapped(read, Rounding(rows)) for rows in (chosen, torch.arange(5), chosen[:0]))
    plain = mapped(read)
    assert torch.equal(found[chosen], all_finer[chosen])
    assert torch.equal(found[[0, 2, 3]], plain[[0, 2, 3]]) and not torch.equal(all_finer, plain)
    assert torch.equal(none, plain)


def test_maps_of_the_same_states_round_them_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """They give what each gives alone, and so does a map of other states in between."""
    rounded: list[Tensor] = []
    real = Rounding._rounded
    monkeypatch.setattr(Rounding, "_rounded", lambda self, read: (rounded.append(read), real(self, read))[1])
    maps, rounding = [Int8Linear(linear(seed=seed)) for seed in range(3)], Rounding(torch.tensor([0, 3]))
    once, other = states(5), states(5, seed=2)
    found = [each(read, rounding) for each, read in zip((*maps, maps[0]), (once, once, other, once), strict=True)]
    assert [read is once for read in rounded] == [True, False, True]
    for each, read, given in zip((*maps, maps[0]), (once, once, other, once), found, strict=True):
        assert torch.equal(each(read, Rounding(torch.tensor([0, 3]))), given)


@each_int8
def test_int8_keeps_tokens_apart(kind: Callable[[nn.Linear], Linear]) -> None:
    """A token's product is the same bit for bit alone and beside tokens a thousand times as large."""
    mapped, read = kind(linear(768, 96)), states(40, 768)
    read[::2] *= 1000
    alone = torch.cat([mapped(read[i : i + 1]) for i in range(len(read))])
    assert torch.equal(mapped(read), alone)


@each_int8
def test_int8_of_zeros_and_of_no_number(kind: Callable[[nn.Linear], Linear]) -> None:
    """A token of zeros, or an output without weights, gives the bias; what is no number stays none."""
    plain = linear()
    plain.weight[3] = 0
    read = states(3)
    read[1], read[2, 5] = 0, torch.nan
    found = kind(plain)(read)
    assert torch.equal(found[1], plain.bias) and torch.equal(found[0, 3], plain.bias[3])
    assert found[2].isnan().all() and not found[:2].isnan().any()


def test_packing_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever library for whole numbers was chosen is the choice after a map was made, too."""
    others = [name for name in torch.backends.quantized.supported_engines if name not in ("none", "fbgemm")]
    monkeypatch.setattr(torch.backends.quantized, "engine", others[0])
    Int8Linear(linear())
    assert torch.backends.quantized.engine == others[0]


@each_precision
@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_weights_are_held_once(family: str, precision: str) -> None:
    """No weight of a layer's linear map stays in the model, which fails without; in fp32 all come back bit for bit."""
    backbone = tiny.model(family, layers=3, width=16, labels=2)
    model = DeeBert(backbone, PoolerRamps(2, 16, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = Engine(model, precision, CPU)
    gone = {name for name, parameter in model.named_parameters() if not parameter.numel()}
    maps = [name for name, tensor in before.items() if ".layer" in name and tensor.ndim == 2]
    assert gone == {name for name in maps if "norm" not in name.lower()} and len(gone) >= 12
    assert all(parameter.numel() for parameter in model.ramps.parameters())
    with pytest.raises(RuntimeError, match=r"matrix|size|shape"), torch.inference_mode():
        backbone(torch.tensor([[1, 2, 3]]))
    if precision == "fp32":
        after = engine.state_dict()
        assert list(after) == list(before)
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_resolved(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """auto is bf16 or fp32 by what the machine multiplies itself; int8 where it cannot is an error of one line."""
    monkeypatch.setattr(torch.backends.quantized.__class__, "supported_engines", ["fbgemm"])
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert [resolve(each, CPU) for each in ("fp32", "bf16", "int8", "auto")] == ["fp32", "bf16", "int8", "bf16"]
    monkeypatch.setattr(torch.backends.quantized.__class__, "supported_engines", ["qnnpack"])
    assert resolve("auto", CPU) == "bf16" and not caplog.records
    with pytest.raises(UserError, match=r"precision: int8 needs a CPU with AVX2.*expected fp32, bf16 or auto"):
        resolve("int8", CPU)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert resolve("auto", CPU) == "fp32"
    assert resolve("bf16", CPU) == "bf16" and "does not multiply bf16" in caplog.text


def test_a_gpu_has_no_int8() -> None:
    """The product of whole numbers is for CPUs."""
    assert not precisions.multiplies("int8", torch.device("cuda"))


def test_largest() -> None:
    """The largest absolute value of a row, whichever its sign."""
    rows = torch.tensor([[1.0, -3.0], [2.0, -1.0]])
    np.testing.assert_array_equal(precisions._largest(rows).numpy(), [[3.0], [2.0]])
