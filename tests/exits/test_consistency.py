"""The fit of how likely full depth is to answer otherwise, against its definition and against a planted truth."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from deebert.base.errors import UserError
from deebert.exits.consistency import evidence, fit_consistency
from deebert.exits.criteria import Consistency
from tests.heads import heads


def told_at(logits: np.ndarray, ramp: int) -> np.ndarray:
    """What is told of a ramp, from 1: (N, 3), the first column 1."""
    array = torch.from_numpy(logits)
    before = array[:, ramp - 2] if ramp > 1 else array[:, 0, :0]
    return np.column_stack([np.ones(len(logits)), torch.stack(evidence(array[:, ramp - 1], before), dim=1).numpy()])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    classes=st.sampled_from([2, 3, 20]),
    n=st.integers(1, 60),
    layers=st.integers(2, 5),
    outspoken=st.sampled_from([0.01, 1.0, 5.0, 1000.0]),
)
def test_the_penalised_loss_is_least(seed: int, classes: int, n: int, layers: int, outspoken: float) -> None:
    """At the weights of every ramp the loss has no slope. It is convex, so that is its minimum, the same each time."""
    logits = heads(seed, classes, n=n, layers=layers)[0] * np.float32(outspoken)
    fitted = fit_consistency(logits)
    assert len(fitted) == layers - 1 and fitted == fit_consistency(logits)
    for ramp, weights in enumerate(fitted, start=1):
        told = told_at(logits, ramp)
        changed = logits[:, ramp - 1].argmax(axis=1) != logits[:, -1].argmax(axis=1)
        spread = told.std(axis=0)
        scale = np.where(spread > 1e-9, spread, 1.0)
        slope = (told / scale).T @ (expit(told @ weights) - changed) + weights * scale  # of half the sum of squares
        assert np.abs(slope).max() < 1e-6 * n * np.abs(told / scale).max()
    assert abs(fitted[0][2]) < 1e-9  # no ramp stands before the first


def test_a_planted_relation_is_found() -> None:
    """Where full depth changes answers with known chances, the weights come near those that made them."""
    rng = np.random.default_rng(0)
    planted = np.array([(-0.5, -1.0, 0.0), (0.3, -0.6, -0.4)])
    lead = rng.normal(0.0, 2.0, (20_000, 2))  # of class 1 over class 0, at both ramps
    answers = lead > 0
    sure, seconded = np.abs(lead[:, 1]), np.where(answers[:, 1], lead[:, 0], -lead[:, 0])
    found = []
    for ramp, told in enumerate(
        (np.column_stack([np.abs(lead[:, 0]), np.zeros(20_000)]), np.column_stack([sure, seconded]))
    ):
        changed = rng.random(20_000) < expit(planted[ramp, 0] + told @ planted[ramp, 1:])
        logits = np.zeros((20_000, 3, 2), dtype=np.float32)
        logits[:, :2, 1] = lead
        logits[:, 2, 1] = np.where(answers[:, ramp] != changed, 1.0, -1.0)
        found.append(fit_consistency(logits)[ramp])
    np.testing.assert_allclose(found, planted, atol=0.1)


@pytest.mark.parametrize("changes", [True, False])
def test_a_ramp_that_always_agrees_or_never_does_has_finite_weights(changes: bool) -> None:
    """Be it of one sureness or of many; and its samples are thought as likely to change as they were."""
    logits = np.abs(heads(3, n=50, layers=3)[0]) * np.float32([1.0, 0.0])
    logits[:, 1] = np.float32([60.0, 0.0])
    logits[:, 2] = np.float32([0.0, 1.0] if changes else [1.0, 0.0])
    for weights, ramp in zip(fit_consistency(logits), (1, 2), strict=True):
        assert np.isfinite(weights).all() and np.abs(weights).max() < 20
        assert (np.abs(expit(told_at(logits, ramp) @ weights) - changes) < 0.15).mean() > 0.8


def test_nan_has_no_part_in_the_fit() -> None:
    """A sample of NaN, at a ramp or at full depth, leaves the weights as they are without it."""
    logits, _ = heads(4, 3, n=40)
    spoilt = np.concatenate([logits, logits[:2]])
    spoilt[40], spoilt[41, -1, 0] = math.nan, math.nan
    assert fit_consistency(spoilt) == fit_consistency(logits)
    spoilt[:, 1, 2] = math.nan
    with pytest.raises(UserError, match="ramp 2 has nothing to be fitted on") as error:
        fit_consistency(spoilt)
    assert "\n" not in str(error.value)


def test_a_criterion_from_logits() -> None:
    """`Consistency.fitted` is the fit with a threshold; a bolder one lets nobody stay longer."""
    logits, _ = heads(5, 3, n=60)
    exits = []
    for threshold in (0.0, 0.3, 0.5, 0.7, 1.0):
        criterion = Consistency.fitted(logits, threshold)
        assert criterion == Consistency(fit_consistency(logits), threshold)
        exits.append(criterion.exit_layers(torch.from_numpy(logits)).numpy())
    assert (exits[0] == 4).all() and (exits[-1] == 1).all() and len({each.mean() for each in exits}) == 5
    assert (np.diff(exits, axis=0) <= 0).all()
