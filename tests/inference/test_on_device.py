"""The way of a GPU gives the answers of the other way. Its kernel of attention is a GPU's; a slow one stands in."""

import copy
import functools
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from deebert.encoders.registry import family_of
from deebert.exits.criteria import Entropy
from deebert.exits.rule import entropy
from deebert.exits.table import CRITERIA
from deebert.inference import at_once
from deebert.inference import engine as engine_module
from deebert.inference.engine import FULL_DEPTH, Engine
from tests import tiny
from tests.inference.test_engine import (
    LAYERS,
    TIE,
    assert_same,
    eighty,
    made,
    offline,
    sentences,
    some_settings,
)

AT_ONCE = ["bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert"]


def slow_attention(
    queries: Tensor, keys: Tensor, values: Tensor, of_queries: Tensor, of_keys: Tensor, most: int, longest: int
) -> Tensor:
    """What `varlen_attn` is documented to give, a sentence at a time."""
    assert of_queries.dtype == of_keys.dtype == torch.int32
    assert int(of_queries.diff().max()) <= most and int(of_keys.diff().max()) <= longest
    assert (int(of_queries[-1]), int(of_keys[-1])) == (len(queries), len(keys))
    contexts = []
    for asking, asked in zip(*(itertools.pairwise(each.tolist()) for each in (of_queries, of_keys)), strict=True):
        query, key, value = queries[slice(*asking)], keys[slice(*asked)], values[slice(*asked)]
        contexts.append(scaled_dot_product_attention(*(each.transpose(0, 1) for each in (query, key, value))))
    return torch.cat([each.transpose(0, 1) for each in contexts])


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "varlen_attn", slow_attention)


@functools.cache
def engine_of(family: str) -> Engine:
    """An engine that believes to be on a GPU."""
    model = copy.deepcopy(made(family)[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at_once, "runs_on", lambda device, precision, layers: True)
        return Engine(model)


def test_it_is_for_a_gpu_and_bf16_and_plain_attention() -> None:
    """Whoever has positions or biases in attention goes the other way, as do other precisions and processors."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for family in tiny.EVERY_FAMILY:
        backbone = tiny.model(family)
        layers = family_of(backbone).layers(backbone)
        assert at_once.runs_on(gpu, "bf16", layers) == (family in AT_ONCE), family
        assert not at_once.runs_on(gpu, "fp32", layers)
        assert not at_once.runs_on(cpu, "bf16", layers)


@pytest.mark.parametrize("name", [*CRITERIA])
def test_each_criterion_decides_as_on_saved_logits(name: str) -> None:
    """Criteria that remember included: samples leave where the rule on saved logits says, with the same answers."""
    engine = engine_of("bert")
    encoded, logits = eighty("bert")
    for criterion in some_settings(name, logits):
        assert_same(engine.answer(encoded, criterion), logits, criterion.exit_layers(logits))
    assert_same(engine.answer(encoded, FULL_DEPTH), logits, torch.full((len(logits),), LAYERS))
    np.testing.assert_allclose(engine.all_logits(encoded), logits.numpy(), atol=1e-4)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    threshold=st.floats(0, 1.2),
    window_tokens=st.integers(1, 120),
)
def test_any_lengths(lengths: list[int], threshold: float, window_tokens: int) -> None:
    """Sentences of one token included, in windows of any size."""
    encoded, criterion = sentences("bert", lengths), Entropy(threshold)
    logits = offline(made("bert")[0], encoded)
    clear = ~((entropy(logits)[:, :-1] - threshold).abs() < TIE).any(dim=1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "TOKENS_AT_ONCE", window_tokens)
        assert_same(engine_of("bert").answer(encoded, criterion), logits, criterion.exit_layers(logits), clear)
