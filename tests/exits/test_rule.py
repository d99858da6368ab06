"""Entropy and the exit rule, against a float64 reference and a plain loop."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deebert.exits.criteria import Entropy
from deebert.exits.rule import answers, compute_saved_frac, entropy, first_exit, layers_saved_frac

few = settings(max_examples=40, deadline=None, derandomize=True)
nats = st.floats(0, 1.5, width=32)
tables = st.integers(1, 5).flatmap(  # of entropies, (N, L)
    lambda layers: st.lists(st.lists(nats, min_size=layers, max_size=layers), min_size=1, max_size=6)
)


def reference_entropy(logits: Tensor) -> np.ndarray:
    """In float64, by exp and sum; 0 ln 0 = 0."""
    shifted = logits.double().numpy() - logits.double().numpy().max(axis=-1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(axis=-1)


def exit_layers(entropies: Tensor, threshold: float) -> Tensor:
    """The paper's rule on (N, L) entropies."""
    return Entropy(threshold).exit_layers_of(entropies)


def naive_exit_layer(entropies: list[float], threshold: float) -> int:
    for layer, value in enumerate(entropies[:-1], start=1):
        if value < threshold:
            return layer
    return len(entropies)


@few
@given(st.data(), st.integers(2, 6), st.sampled_from([0.1, 1.0, 30.0, 1e4]), st.sampled_from(["float32", "bfloat16"]))
def test_entropy_is_right_and_bounded(data: st.DataObject, classes: int, size: float, dtype: str) -> None:
    """Entropy agrees with a float64 reference and lies in [0, ln C], for logits up to 1e4 in size and for bf16."""
    rows = data.draw(st.lists(st.lists(st.floats(-1, 1), min_size=classes, max_size=classes), min_size=1, max_size=5))
    logits = (torch.tensor(rows, dtype=torch.float64) * size).to(getattr(torch, dtype))
    found = entropy(logits)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, reference_entropy(logits), atol=2e-6)
    assert (found >= 0).all() and (found <= math.log(classes) + 1e-6).all()


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("level", [-1e4, 0.0, 1e4])
def test_equal_logits_are_the_most_uncertain(classes: int, level: float) -> None:
    """Equal logits of any level have entropy ln C."""
    assert entropy(torch.full((2, classes), level)).tolist() == pytest.approx([math.log(classes)] * 2, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_surest_have_entropy_zero_and_leave(dtype: torch.dtype) -> None:
    """Logits of +-1e4 have entropy 0, never NaN, and their sample leaves at layer 1 by any threshold above 0."""
    found = entropy(torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=dtype))
    assert found.tolist() == [0.0, 0.0]
    assert exit_layers(found[:, None].expand(-1, 3), 1e-6).tolist() == [1, 1]


@few
@given(tables, nats)
def test_the_rule_is_the_naive_loop(table: list[list[float]], threshold: float) -> None:
    """A sample leaves at the first layer below L whose entropy is strictly below the threshold, else at L."""
    entropies = torch.tensor(table)
    before = entropies.clone()
    expected = [naive_exit_layer(row, threshold) for row in table]
    assert exit_layers(entropies, threshold).tolist() == expected
    assert torch.equal(entropies, before), "the caller's entropies were changed"
    # A tie with a threshold taken from the table itself stays.
    assert exit_layers(entropies, table[0][0]).tolist() == [naive_exit_layer(row, table[0][0]) for row in table]


@few
@given(tables)
def test_both_ends_of_the_thresholds(table: list[list[float]]) -> None:
    """At threshold 0 nobody leaves early, and above every entropy all leave at layer 1."""
    entropies = torch.tensor(table)
    assert (exit_layers(entropies, 0.0) == entropies.shape[1]).all()
    assert (exit_layers(entropies, 1.6) == 1).all()


def test_strictly_below() -> None:
    """An entropy equal to the threshold does not leave, one bit less does."""
    threshold = 0.25
    just_below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    assert exit_layers(torch.tensor([[threshold, 9.0, 9.0], [just_below, 9.0, 9.0]]), threshold).tolist() == [3, 1]


def test_the_last_head_asks_nothing() -> None:
    """Who reaches layer L leaves there whatever its entropy is, NaN in a ramp included."""
    entropies = torch.tensor([[0.9, 0.9, 0.9], [0.9, 0.9, 0.0], [math.nan, math.nan, math.nan]])
    assert exit_layers(entropies, 0.5).tolist() == [3, 3, 3]


@few
@given(tables, nats, nats)
def test_a_higher_threshold_never_leaves_later(table: list[list[float]], one: float, other: float) -> None:
    """Exit layers do not rise with the threshold, so the saving does not fall."""
    entropies = torch.tensor(table)
    early, late = (exit_layers(entropies, threshold) for threshold in (max(one, other), min(one, other)))
    assert (early <= late).all()
    assert layers_saved_frac(early.double().mean(), len(table[0])) >= layers_saved_frac(
        late.double().mean(), len(table[0])
    )


@few
@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(1, n), min_size=1, max_size=9))))
def test_saving_is_equation_2(case: tuple[int, list[int]]) -> None:
    """The saving is 1 - sum(i N_i) / (L N), with N_i samples leaving at layer i."""
    num_layers, layers = case
    cost = sum(i * layers.count(i) for i in range(1, num_layers + 1)) / (num_layers * len(layers))
    assert layers_saved_frac(float(np.mean(layers)), num_layers) == pytest.approx(1 - cost, abs=1e-12)


def test_answers_come_from_the_exit_layer() -> None:
    """A sample's answer is the label of the head at its exit layer, for one setting and for several at once."""
    predictions = np.array([[1, 0], [1, 0], [0, 1]])  # (N, L)
    assert answers(predictions, np.array([1, 2, 2])).tolist() == [1, 0, 1]
    assert answers(predictions, np.array([[1, 2, 2], [2, 1, 1]])).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_the_first_layer_that_lets_go() -> None:
    """The first of several counts, L where there is none, and the caller's table is left alone."""
    leaves = torch.tensor([[False, True, True], [False, False, False], [True, False, True]])
    before = leaves.clone()
    assert first_exit(leaves).tolist() == [2, 3, 1] and torch.equal(leaves, before)


def test_compute_saved_is_layers_saved_less_what_ramps_cost() -> None:
    """As a loop counts it, one sample at a time; free ramps cost nothing."""
    exits, ramps = [1, 3, 4, 4], [1, 2, 3, 3]
    spent = sum(layer + 0.25 * run for layer, run in zip(exits, ramps, strict=True))
    assert compute_saved_frac(np.mean(exits), np.mean(ramps), 0.25, 4) == pytest.approx(1 - spent / 16)
    assert compute_saved_frac(3.0, 2.5, 0.0, 4) == layers_saved_frac(3.0, 4) == 0.25
