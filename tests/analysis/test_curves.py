"""Trade-off curves, against plain loops over random logits."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.curves import ScoredCurve, cross_fitted_curve, entropy_curve, other_curves
from deebert.analysis.folds import stratified_halves
from deebert.analysis.layer_thresholds import DROPS_POINTS, fit_layer_thresholds
from deebert.analysis.layers import layer_rows
from deebert.exits.criteria import ConfidentStreak, Consistency, Criterion, Margin, MaxProbability, Patience
from deebert.exits.grids import chance_grid, threshold_grid
from tests.heads import (
    RAMP_COST,
    entropy_rows_of,
    heads,
    naive_accuracy,
    naive_exit,
    naive_f1,
    naive_macro_f1,
    scored_classes,
)

N, LAYERS = 40, 4
few = settings(max_examples=25, deadline=None, derandomize=True)


@few
@given(st.integers(0, 10_000), scored_classes, st.floats(0, 1.5))
def test_a_row_is_what_a_plain_loop_finds(seed: int, scored: tuple[int, str], threshold: float) -> None:
    """Score, accuracy, saving and mean exit layer of a threshold agree with going through the samples one by one."""
    classes, metric = scored
    logits, labels = heads(seed, classes)
    (row,) = entropy_curve(logits, [threshold]).rows("validation", labels, metric, RAMP_COST)
    layers = [naive_exit(sample, threshold) for sample in logits]
    predictions = [int(sample[layer - 1].argmax()) for sample, layer in zip(logits, layers, strict=True)]
    ramps = sum(min(layer, LAYERS - 1) for layer in layers) if threshold else 0  # at 0 none is run
    naive = {"f1": naive_f1, "macro_f1": naive_macro_f1, "accuracy": naive_accuracy}[metric]
    assert row == {
        "split": "validation",
        "criterion": "entropy",
        "threshold": threshold,
        "score": pytest.approx(naive(labels.tolist(), predictions)),
        "accuracy": pytest.approx(naive_accuracy(labels.tolist(), predictions)),
        "layers_saved_frac": pytest.approx(1 - sum(layers) / (LAYERS * N)),
        "compute_saved_frac": pytest.approx(1 - (sum(layers) + RAMP_COST * ramps) / (LAYERS * N)),
        "mean_exit_layer": pytest.approx(sum(layers) / N),
        "n": N,
    }


@few
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_curve_begins_at_full_depth_and_ends_at_layer_1(seed: int, classes: int) -> None:
    """Threshold 0 has the last layer's score and saves nothing, the grid's last the first's; saving never falls."""
    logits, labels = heads(seed, classes)
    by_layer = [row["score"] for row in layer_rows("validation", logits, labels, ["accuracy"])]
    curve = entropy_rows_of(logits, labels, [0.0, *threshold_grid(classes, 20)], "accuracy")
    assert (curve[0]["score"], curve[0]["layers_saved_frac"]) == (by_layer[-1], 0.0)
    assert (curve[-1]["score"], curve[-1]["layers_saved_frac"]) == (by_layer[0], 1 - 1 / LAYERS)
    savings = [row["layers_saved_frac"] for row in curve]
    assert savings == sorted(savings)


def fitted_thresholds(logits: np.ndarray, labels: np.ndarray) -> list[Criterion]:
    return fit_layer_thresholds(logits, labels, "accuracy", threshold_grid(2, 20))


def fitted_consistency(logits: np.ndarray, labels: np.ndarray) -> list[Criterion]:
    return [Consistency.fitted(logits, threshold) for threshold in chance_grid(20)]


@pytest.mark.parametrize("fit", [fitted_thresholds, fitted_consistency])
def test_no_sample_meets_settings_it_helped_to_fit(fit: Callable[..., list[Criterion]]) -> None:
    """Each half leaves by what was fitted to the other, setting by setting, and is put to the ramps that these read."""
    logits, labels = heads(7, n=31, best=2.5)
    curve = cross_fitted_curve(fit, logits, labels, resampling_seed=3)
    one, other = stratified_halves(labels, 3)
    for fitted_on, judged in ((one, other), (other, one)):
        criteria = fit(logits[fitted_on], labels[fitted_on])
        assert curve.settings == tuple(criterion.setting for criterion in criteria)
        for criterion, layers, run in zip(criteria, curve.exit_layers, curve.ramps_run, strict=True):
            assert criterion.exit_layers(torch.from_numpy(logits[judged])).tolist() == layers[judged].tolist()
            read = [criterion.reads(layer) for layer in range(1, LAYERS)]
            assert run[judged].tolist() == [sum(read[:layer]) for layer in layers[judged]]
    assert curve.criterion == criteria[0].name and curve.exit_layers.shape == (len(criteria), 31)
    for layers, answers in zip(curve.exit_layers, curve.predictions, strict=True):
        assert answers.tolist() == logits[np.arange(31), layers - 1].argmax(axis=1).tolist()


@pytest.mark.parametrize(("classes", "metric"), [(2, "f1"), (3, "accuracy"), (3, "macro_f1")])
def test_curves_of_all_other_criteria(classes: int, metric: str) -> None:
    """Every criterion but entropy has a curve over its own settings, whose exits and answers are that setting's."""
    logits, labels = heads(5, classes)
    thresholds = threshold_grid(classes, 20)
    others = other_curves(ScoredCurve("validation", entropy_curve(logits, thresholds), labels, metric, 3), logits, 20)
    curves = {curve.criterion: curve for curve in others}
    kinds = {
        "max_probability": MaxProbability,
        **({"margin": Margin} if classes > 2 else {}),
        "patience": lambda setting: Patience(int(setting)),
        "confident_streak_2": lambda setting: ConfidentStreak(2, setting),
        "confident_streak_3": lambda setting: ConfidentStreak(3, setting),
    }
    assert list(curves) == [*kinds, "layer_thresholds", "consistency"]
    for name, kind in kinds.items():
        for setting, layers, answers in zip(
            curves[name].settings, curves[name].exit_layers, curves[name].predictions, strict=True
        ):
            assert kind(setting).exit_layers(torch.from_numpy(logits)).tolist() == layers.tolist()
            assert answers.tolist() == logits[np.arange(N), layers - 1].argmax(axis=1).tolist()

    def fit(logits: np.ndarray, labels: np.ndarray) -> list[Criterion]:
        return fit_layer_thresholds(logits, labels, metric, thresholds)

    for name, by in (("layer_thresholds", fit), ("consistency", fitted_consistency)):
        expected = cross_fitted_curve(by, logits, labels, 3)
        assert np.array_equal(curves[name].exit_layers, expected.exit_layers)
        assert curves[name].settings == expected.settings
    assert curves["layer_thresholds"].settings == DROPS_POINTS
    by_chance = curves["consistency"]
    assert by_chance.settings == tuple(chance_grid(20))
    assert (by_chance.exit_layers[0] == LAYERS).all() and (by_chance.exit_layers[-1] == 1).all()


def test_one_sample_cannot_be_fitted_and_judged() -> None:
    """A single sample has curves of every criterion but the fitted ones."""
    logits, labels = heads(1, n=1)
    scored = ScoredCurve("validation", entropy_curve(logits, [0.1]), labels, "accuracy", 0)
    names = {curve.criterion for curve in other_curves(scored, logits, 5)}
    assert names == {"max_probability", "patience", "confident_streak_2", "confident_streak_3"}
