"""What makes a step on a CPU cheap leaves answers, gradients and the odds of dropout as they are."""

import math

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from deebert.training.cpu_step import ATTENTION, LeanDropout, dropout
from deebert.training.first_token import first_token_only, place_to_cut
from tests import tiny

LENGTHS = (7, 3, 12, 1)
NO_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0},
}


def logits_and_gradients(family: str, model: PreTrainedModel) -> list[Tensor]:
    """Of a step on a padded batch, in training mode."""
    logits = model.train()(**tiny.inputs(family, LENGTHS)).logits
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    return [logits.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_step_without_dropout_is_hugging_faces(family: str) -> None:
    """Lean attention, and a last layer for the first token alone, give the plain forward's logits and gradients."""
    plain = tiny.model(family, attention="eager", **NO_DROPOUT[family])
    lean = tiny.model(family, attention="eager", **NO_DROPOUT[family])
    lean.set_attn_implementation(ATTENTION)
    expected = logits_and_gradients(family, plain)
    with first_token_only(place_to_cut(lean)), LeanDropout():
        found = logits_and_gradients(family, lean)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", [family for family in tiny.EVERY_FAMILY if family not in tiny.OWN_ATTENTION])
def test_in_bf16_lean_attention_is_as_good(family: str) -> None:
    """On sentences padded far beyond a window of local attention, answers are those of float32 up to rounding."""
    model, inputs = tiny.model(family, layers=4), tiny.inputs(family, [30, 25, 4])
    with torch.inference_mode():
        expected = model(**inputs).logits
        model.set_attn_implementation(ATTENTION)
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-5, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**inputs).logits.float()
    assert (found - expected).abs().max() < 0.2 * expected.std()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_last_layer_is_whole_again_afterwards(family: str) -> None:
    """After the block, the model computes the states of all tokens."""
    model, inputs = tiny.model(family), tiny.inputs(family, LENGTHS)
    with first_token_only(place_to_cut(model)):
        assert model.base_model(**inputs)[0].shape[:2] == (len(LENGTHS), 1)
    assert model.base_model(**inputs)[0].shape[:2] == inputs["input_ids"].shape


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_keeps_the_odds_and_the_mean(p: float, dtype: torch.dtype) -> None:
    """A share p becomes zero, the others, and their gradients, 1 / (1 - p) times what they were."""
    torch.manual_seed(0)
    ones = torch.ones(300, 1001, dtype=dtype, requires_grad=True)
    dropped = dropout(ones, p)
    dropped.sum().backward()
    frac = (dropped == 0).float().mean().item()
    assert abs(frac - p) < 5 * math.sqrt(p * (1 - p) / ones.numel())
    stayed = dropped[dropped != 0].float()
    assert torch.all((stayed * (1 - p) - 1).abs() < (1e-3 if dtype == torch.float32 else 4e-3))
    assert torch.equal(ones.grad, dropped)


def test_dropout_falls_everywhere_alike() -> None:
    """No place is dropped oftener than others, and neighbours fall independently."""
    torch.manual_seed(0)
    dropped = torch.stack([dropout(torch.ones(16), 0.25) == 0 for _ in range(20_000)]).double()
    error = math.sqrt(0.25 * 0.75 / 20_000)
    assert torch.all((dropped.mean(dim=0) - 0.25).abs() < 5 * error)
    correlation = torch.corrcoef(dropped.T) - torch.eye(16)
    assert correlation.abs().max() < 5 / math.sqrt(20_000)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_dropout_goes_by_the_seed(family: str) -> None:
    """Equal seeds give equal steps, others do not."""

    def step(seed: int) -> Tensor:
        model = tiny.model(family)
        model.set_attn_implementation(ATTENTION)
        torch.manual_seed(seed)
        with LeanDropout():
            return model.train()(**tiny.inputs(family, LENGTHS)).logits

    assert torch.equal(step(1), step(1))
    assert not torch.equal(step(1), step(2))


def test_dropout_does_nothing_where_there_is_none() -> None:
    """In eval mode, and at a probability of 0, the input comes back; at 1 only zeros do."""
    x = torch.randn(5, 3)
    with LeanDropout():
        assert nn.Dropout(0.5).eval()(x) is x
        assert nn.functional.dropout(x, 0.0) is x
        assert torch.equal(nn.functional.dropout(x, 1.0), torch.zeros(5, 3))
