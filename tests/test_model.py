"""Every head reads what Hugging Face's forward computes, and ramps change nothing of it."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deebert.base.errors import UserError
from deebert.model import WEIGHTS, DeeBert, fingerprint, save
from deebert.ramps import KINDS, RAMPS, PoolerRamps, Ramps, kind_of, load_ramps, save_ramps
from tests import tiny

LAYERS, WIDTH, LABELS = 4, 16, 3
ATTENTIONS = ("eager", "sdpa")
lengths_of_a_batch = st.lists(st.integers(1, 20), min_size=1, max_size=4)
few = settings(max_examples=12, deadline=None, derandomize=True)

_made: dict[tuple[str, str], DeeBert] = {}


def deebert(family: str, attention: str = "sdpa") -> DeeBert:
    """A random model with random ramps, made once; no test changes it."""
    if (family, attention) not in _made:
        backbone = tiny.model(family, attention=attention, layers=LAYERS, width=WIDTH, labels=LABELS)
        assert backbone.config._attn_implementation == attention
        _made[family, attention] = DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS)).eval()
    return _made[family, attention]


def ramp_by_hand(ramps: Ramps, layer: int, first_token: Tensor) -> Tensor:
    """The paper's ramp out of two `nn.Linear` layers."""
    dense, out = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, LABELS)
    dense.weight, dense.bias = (torch.nn.Parameter(p[layer - 1]) for p in (ramps.dense_weight, ramps.dense_bias))
    out.weight, out.bias = (torch.nn.Parameter(p[layer - 1]) for p in (ramps.out_weight, ramps.out_bias))
    return out(torch.tanh(dense(first_token)))


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
@few
@given(lengths=lengths_of_a_batch, seed=st.integers(0, 1000))
def test_every_head_reads_what_hugging_face_computes(
    family: str, attention: str, lengths: list[int], seed: int
) -> None:
    """The last head gives Hugging Face's own logits, each ramp those of its own hidden state after that layer."""
    model, inputs = deebert(family, attention), tiny.inputs(family, lengths, seed)
    with torch.inference_mode():
        theirs = model.backbone(**inputs, output_hidden_states=True)
        ours = model(**inputs)
        assert ours.shape == (len(lengths), LAYERS, LABELS) and ours.dtype == torch.float32
        torch.testing.assert_close(ours[:, -1], theirs.logits, atol=1e-5, rtol=0)
        for layer in range(1, LAYERS):
            expected = ramp_by_hand(model.ramps, layer, theirs.hidden_states[layer][:, 0])
            torch.testing.assert_close(ours[:, layer - 1], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_masks_with_holes(family: str) -> None:
    """Any mask that shows the first token gives Hugging Face's logits, padding inside a sentence included."""
    model, inputs = deebert(family), tiny.inputs(family, [12] * 8, seed=3)
    holes = torch.rand(8, 12, generator=torch.Generator().manual_seed(4)) < 0.5
    holes[:, 0] = False
    inputs["attention_mask"] = (~holes).long()
    inputs["input_ids"][holes & (inputs["input_ids"] % 2 == 0)] = 1
    with torch.inference_mode():
        theirs = model.backbone(**inputs).logits
        torch.testing.assert_close(model(**inputs)[:, -1], theirs, atol=1e-5, rtol=0)
    assert theirs.std(dim=0).max() > 0.1, "the random model says the same to everything, so parity would say nothing"


@pytest.mark.parametrize("family", tiny.FAMILIES)
@few
@given(lengths=lengths_of_a_batch, more=st.integers(1, 15), seed=st.integers(0, 1000))
def test_padding_changes_nothing(family: str, lengths: list[int], more: int, seed: int) -> None:
    """A sample's logits are the same alone, in a batch and padded further."""
    model, inputs = deebert(family), tiny.inputs(family, [*lengths, max(lengths) + more], seed)
    with torch.inference_mode():
        batched = model(**inputs)
        for row, length in enumerate(lengths):
            alone = model(**{name: tensor[row : row + 1, :length] for name, tensor in inputs.items()})
            torch.testing.assert_close(alone[0], batched[row], atol=1e-5, rtol=0)


@few
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_all_ramps_at_once_are_each_ramp_alone(num_ramps: int, batch: int, seed: int) -> None:
    """The batched product of all ramps gives what `ramp` gives layer by layer."""
    torch.manual_seed(seed)
    ramps, states = PoolerRamps(num_ramps, WIDTH, LABELS).eval(), torch.randn(num_ramps, batch, WIDTH)
    for tensor in ramps.parameters():
        torch.nn.init.normal_(tensor)
    together = ramps(states, dropout=0.5)  # of no effect in eval mode
    assert together.shape == (num_ramps, batch, LABELS) and len(ramps) == num_ramps
    for i in range(num_ramps):
        torch.testing.assert_close(ramps.ramp(i + 1, states[i]), together[i], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_tells_the_kind_of_ramps(kind: str, tmp_path: Path) -> None:
    """Ramps of each kind come back as what they were, to the bit; a linear one is one map of its states."""
    ramps, states = KINDS[kind](3, WIDTH, LABELS).eval(), torch.randn(3, 5, WIDTH)
    save_ramps(ramps, tmp_path)
    loaded = load_ramps(tmp_path, 3, WIDTH, LABELS)
    assert type(loaded) is KINDS[kind] and kind_of(loaded) == kind and not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(states), ramps(states))
        for layer in (1, 2, 3):
            torch.testing.assert_close(loaded.ramp(layer, states[layer - 1]), ramps(states)[layer - 1])
    save_file(load_file(tmp_path / RAMPS), tmp_path / RAMPS)  # as earlier versions did, without a word of the kind
    assert type(load_ramps(tmp_path, 3, WIDTH, LABELS)) is KINDS[kind]
    save_file(load_file(tmp_path / RAMPS), tmp_path / RAMPS, metadata={"kind": "later"})
    with pytest.raises(UserError, match=f"ramps of the kind 'later' are not known here; expected {', '.join(KINDS)}"):
        load_ramps(tmp_path, 3, WIDTH, LABELS)
    if kind == "linear":
        by_hand = states[1] @ ramps.out_weight[1].mT + ramps.out_bias[1]
        torch.testing.assert_close(loaded.ramp(2, states[1]), by_hand)


@pytest.mark.parametrize("kind", KINDS)
def test_ramps_with_a_tensor_missing_or_too_much(kind: str, tmp_path: Path) -> None:
    """A file that holds half of one kind, or more than it, is one line."""
    tensors = {name: tensor.detach() for name, tensor in KINDS[kind](3, WIDTH, LABELS).state_dict().items()}
    for spoilt in (dict(list(tensors.items())[1:]), tensors | {"weight": torch.zeros(1)}, {}):
        save_file(spoilt, tmp_path / RAMPS)
        with pytest.raises(UserError, match=r"ramps.safetensors: cannot be loaded"):
            load_ramps(tmp_path, 3, WIDTH, LABELS)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_saved_model_comes_back(family: str, tmp_path: Path) -> None:
    """Saved and loaded again, a model gives identical logits; its weights file is the backbone's byte for byte."""
    model, inputs = deebert(family), tiny.inputs(family, [7, 4, 9])
    backbone, out = tmp_path / "backbone", tmp_path / "deebert"
    model.backbone.save_pretrained(backbone)
    tiny.tokenizer().save_pretrained(backbone)
    out.mkdir()
    save(backbone, model.ramps, out)
    assert {file.name for file in out.iterdir()} == {file.name for file in backbone.iterdir()} | {RAMPS}
    assert (out / WEIGHTS).read_bytes() == (backbone / WEIGHTS).read_bytes()

    loaded, tokenizer = DeeBert.load(out)
    assert not loaded.training and not loaded.backbone.training
    with torch.inference_mode():
        assert torch.equal(loaded(**inputs), model(**inputs))
        theirs = AutoModelForSequenceClassification.from_pretrained(out).eval()
        torch.testing.assert_close(theirs(**inputs).logits, model(**inputs)[:, -1], atol=1e-5, rtol=0)
    assert tokenizer("w1 w2")["input_ids"] == AutoTokenizer.from_pretrained(out)("w1 w2")["input_ids"] == [0, 5, 6, 2]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """The ramps' file depends on the ramps alone, and holds them as they are."""
    ramps = deebert("bert").ramps
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / "empty").mkdir(exist_ok=True)
        save(tmp_path / "empty", ramps, tmp_path / name)
    assert (tmp_path / "one" / RAMPS).read_bytes() == (tmp_path / "two" / RAMPS).read_bytes()
    saved = load_file(tmp_path / "one" / RAMPS)
    assert saved.keys() == ramps.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in ramps.state_dict().items())


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_fingerprint_is_of_every_weight(family: str, tmp_path: Path) -> None:
    """Saved and loaded it stays; the least change of any weight shows."""
    model = deebert(family)
    tiny.write_model(tmp_path / "backbone", family, layers=LAYERS, width=WIDTH, labels=LABELS)
    (tmp_path / "whole").mkdir()
    save(tmp_path / "backbone", model.ramps, tmp_path / "whole")
    loaded = DeeBert.load(tmp_path / "whole")[0]
    expected = fingerprint(model.state_dict())
    assert fingerprint(loaded.state_dict()) == expected and len(expected) == 12
    seen = {expected}
    with torch.no_grad():
        for weight in loaded.parameters():
            first = weight.view(-1)[:1]
            first.copy_(torch.nextafter(first, first + 1))
            seen.add(fingerprint(loaded.state_dict()))
    assert len(seen) == 1 + len(list(loaded.parameters()))
