"""Thresholds fitted ramp by ramp, against one threshold for all ramps."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.curves import curve_of
from deebert.analysis.layer_thresholds import DROPS_POINTS, fit_layer_thresholds
from deebert.exits.grids import threshold_grid
from deebert.exits.rule import entropy
from tests.heads import RAMP_COST, SCORED, best_within, entropy_rows_of, heads


@pytest.mark.parametrize(("classes", "metric"), SCORED)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 6))
def test_fitted_thresholds_keep_the_floor_and_beat_one_for_all(
    classes: int, metric: str, seed: int, n: int, layers: int
) -> None:
    """On the fitted samples: no score below its floor, no saving below the best single threshold's, more for more."""
    logits, labels = heads(seed, classes, n=n, layers=layers)
    grid = [0.0, *threshold_grid(classes, 30)]
    single = entropy_rows_of(logits, labels, grid, metric)
    fitted = fit_layer_thresholds(logits, labels, metric, grid)
    assert fitted == fit_layer_thresholds(logits, labels, metric, grid)
    rows = curve_of(fitted, logits).rows("validation", labels, metric, RAMP_COST)
    assert [row["threshold"] for row in rows] == list(DROPS_POINTS)
    for row, thresholds in zip(rows, fitted, strict=True):
        assert row["score"] >= single[0]["score"] - row["threshold"] / 100 - 1e-9
        assert row["layers_saved_frac"] >= best_within(single, row["threshold"])["layers_saved_frac"] - 1e-12
        assert len(thresholds.thresholds_nats) == layers - 1 and set(thresholds.thresholds_nats) <= set(grid)
    savings = [row["layers_saved_frac"] for row in rows]
    assert all(a <= b + 1e-12 for a, b in pairwise(savings))
    assert savings[-1] == pytest.approx(1 - 1 / layers)  # a drop of 100 points lets everybody go at layer 1


def test_fitting_finds_the_ramp_that_deceives() -> None:
    """Where ramp 1 is surest and wrong and ramp 2 sure and right, only thresholds of their own can save anything."""
    labels = np.zeros(20, dtype=np.int64)
    logits = np.zeros((20, 4, 2), dtype=np.float32)
    logits[:, 0, 1] = 5.0
    logits[:, 1:, 0] = 3.0
    (fitted,) = fit_layer_thresholds(logits, labels, "accuracy", threshold_grid(2, 50), [0.0])
    single = entropy_rows_of(logits, labels, [0.0, *threshold_grid(2, 50)], "accuracy")
    assert best_within(single, 0.0)["layers_saved_frac"] == 0.0
    assert fitted.exit_layers(torch.from_numpy(logits)).tolist() == [2] * 20


def test_fitting_compares_as_the_rule_does() -> None:
    """A threshold that equals the entropies lets nobody go, so fitting has no use for it."""
    logits, labels = np.zeros((5, 3, 2), dtype=np.float32), np.zeros(5, dtype=np.int64)
    equal = float(entropy(torch.zeros(2)))
    (fitted,) = fit_layer_thresholds(logits, labels, "accuracy", [equal], [0.0])
    assert fitted.thresholds_nats == (0.0, 0.0)


def test_fitting_with_nan() -> None:
    """A sample of NaN stays to L by any fitted thresholds, and spoils no other."""
    logits, labels = heads(3, n=30)
    logits[4] = math.nan
    fitted = fit_layer_thresholds(logits, labels, "accuracy", threshold_grid(2, 30))
    layers = fitted[-1].exit_layers(torch.from_numpy(logits))
    assert layers[4] == 4 and (np.delete(layers.numpy(), 4) == 1).all()
