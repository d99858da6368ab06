"""Baselines of the trade-off curve, against plain loops and against every way to deal out the exits."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.baselines import PERMUTATIONS, fixed_layer_curve, oracle_curves, random_exit_rows
from deebert.analysis.curves import ScoredCurve, entropy_curve, other_curves
from deebert.analysis.layers import layer_rows
from deebert.base.rows import Row
from deebert.data.scores import METRICS
from deebert.exits.criteria import Entropy
from deebert.exits.grids import threshold_grid
from tests.heads import RAMP_COST, entropy_rows_of, heads, scored_classes

LAYERS = 4
few = settings(max_examples=30, deadline=None, derandomize=True)
metrics = st.sampled_from(["accuracy", "f1", "macro_f1"])


def answers_of(logits: np.ndarray) -> np.ndarray:
    return logits.argmax(axis=2)


def random_rows(
    logits: np.ndarray, labels: np.ndarray, thresholds: list[float], metric: str, seed: int = 0
) -> list[Row]:
    scored = ScoredCurve("validation", entropy_curve(logits, thresholds), labels, metric, seed)
    return random_exit_rows(scored, answers_of(logits), RAMP_COST)


def oracle_rows(logits: np.ndarray, labels: np.ndarray, metric: str) -> dict[str, Row]:
    curves = oracle_curves(answers_of(logits), labels)
    return {curve.criterion: row for curve in curves for row in curve.rows("validation", labels, metric, RAMP_COST)}


@few
@given(st.integers(0, 10_000), scored_classes)
def test_a_fixed_layer_scores_as_its_head(seed: int, scored: tuple[int, str]) -> None:
    """Leaving always at layer k has that head's score and saves 1 - k/L."""
    classes, metric = scored
    logits, labels = heads(seed, classes)
    rows = fixed_layer_curve(answers_of(logits)).rows("validation", labels, metric, RAMP_COST)
    assert [row["threshold"] for row in rows] == [row["mean_exit_layer"] for row in rows] == [4, 3, 2, 1]
    assert [row["score"] for row in rows][::-1] == [row["score"] for row in layer_rows("v", logits, labels, [metric])]
    assert [row["layers_saved_frac"] for row in rows] == [0.0, 0.25, 0.5, 0.75]
    assert [row["compute_saved_frac"] for row in rows] == pytest.approx([0.0, 0.225, 0.475, 0.725])  # one ramp each


@pytest.mark.parametrize("seed", range(5))
def test_random_exits_have_the_mean_accuracy_of_all_deals(seed: int) -> None:
    """Accuracy is the mean over all permutations of entropy's exit layers, counted out for 6 samples."""
    logits, labels = heads(seed, 3, n=6)
    right = logits.argmax(axis=2) == labels[:, None]
    thresholds = [0.3, 0.6, 0.9]
    rows = random_rows(logits, labels, thresholds, "accuracy")
    for row, threshold in zip(rows, thresholds, strict=True):
        layers = Entropy(threshold).exit_layers(torch.from_numpy(logits)).tolist()
        deals = [np.mean(right[np.arange(6), np.array(deal) - 1]) for deal in permutations(layers)]
        assert row["accuracy"] == row["score"] == pytest.approx(np.mean(deals))


@few
@given(st.integers(0, 10_000), st.integers(0, 5), st.sampled_from([(2, "f1"), (2, "macro_f1"), (3, "macro_f1")]))
def test_random_f1_is_the_mean_of_seeded_deals(seed: int, deal_seed: int, scored: tuple[int, str]) -> None:
    """F1 is that of dealing the exit layers to permuted samples one by one, averaged over the seed's permutations."""
    classes, metric = scored
    logits, labels = heads(seed, classes)
    (row,) = random_rows(logits, labels, [0.5], metric, deal_seed)
    layers = np.sort(Entropy(0.5).exit_layers(torch.from_numpy(logits)).numpy())
    rng = np.random.default_rng(deal_seed)
    scores = []
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(labels))
        scores.append(METRICS[metric](labels[order], logits[order, layers - 1].argmax(axis=1)))
    assert row["score"] == pytest.approx(np.mean(scores))


@few
@given(st.integers(0, 10_000), metrics)
def test_random_exits_are_as_deep_as_entropys(seed: int, metric: str) -> None:
    """Each row has the threshold, depth and saving of entropy's; at the curve's two ends also its score."""
    logits, labels = heads(seed)
    thresholds = [0.0, *threshold_grid(2, 10)]
    rows = random_rows(logits, labels, thresholds, metric)
    curve = entropy_rows_of(logits, labels, thresholds, metric)
    for row, expected in zip(rows, curve, strict=True):
        assert list(row) == list(expected)
        for column in ("split", "threshold", "mean_exit_layer", "n"):
            assert row[column] == pytest.approx(expected[column])
        assert row["layers_saved_frac"] == pytest.approx(expected["layers_saved_frac"], abs=1e-12)
        exits = Entropy(row["threshold"]).exit_layers(torch.from_numpy(logits)).numpy()
        ramps = (exits < LAYERS).mean()  # each who leaves early is put to one
        assert row["compute_saved_frac"] == pytest.approx(row["layers_saved_frac"] - RAMP_COST * ramps / LAYERS)
    for end in (0, -1):
        assert rows[end]["score"] == pytest.approx(curve[end]["score"])
        assert rows[end]["accuracy"] == pytest.approx(curve[end]["accuracy"])


def test_random_exits_know_nothing() -> None:
    """Where entropy tells the samples apart whose early heads are right, its curve lies above random exits."""
    rng = np.random.default_rng(0)
    easy = rng.random(200) < 0.5
    logits = np.zeros((200, LAYERS, 2), dtype=np.float32)
    logits[:, :, 0] = np.where(easy[:, None] | (np.arange(LAYERS) == LAYERS - 1), 4.0, -0.1)
    labels = np.zeros(200, dtype=np.int64)
    (chance,) = random_rows(logits, labels, [0.3], "accuracy")
    (knowing,) = entropy_rows_of(logits, labels, [0.3], "accuracy")
    share = easy.mean()
    assert knowing["accuracy"] == 1.0
    assert chance["accuracy"] == pytest.approx(share * share + (1 - share))  # who leaves at layer 1 is right if easy


@few
@given(st.integers(0, 10_000), scored_classes)
def test_the_oracles_are_plain_loops(seed: int, scored: tuple[int, str]) -> None:
    """Each leaves at the first layer that says what it waits for, at L where none does."""
    classes, metric = scored
    logits, labels = heads(seed, classes, n=15)
    rows = oracle_rows(logits, labels, metric)
    for name, wanted in (("oracle", labels), ("oracle_full_depth", logits[:, -1].argmax(axis=1))):
        layers, predictions = [], []
        for sample, answer in zip(logits.argmax(axis=2).tolist(), wanted.tolist(), strict=True):
            layers.append(sample.index(answer) + 1 if answer in sample else LAYERS)
            predictions.append(sample[layers[-1] - 1])
        row = rows[name]
        assert row["threshold"] is None and row["score"] == METRICS[metric](labels, np.array(predictions))
        assert row["mean_exit_layer"] == pytest.approx(np.mean(layers))
        assert row["layers_saved_frac"] == pytest.approx(1 - np.mean(layers) / LAYERS)


@few
@given(st.integers(0, 10_000), st.integers(2, 3))
def test_nothing_beats_the_oracles(seed: int, classes: int) -> None:
    """No criterion or baseline is more accurate than the oracle, nor saves more than it where as accurate."""
    logits, labels = heads(seed, classes, n=20)
    thresholds = [0.0, *threshold_grid(classes, 10)]
    oracle, full_depth = oracle_rows(logits, labels, "accuracy").values()
    scored = ScoredCurve("validation", entropy_curve(logits, thresholds), labels, "accuracy", 0)
    curves = [scored.curve, fixed_layer_curve(answers_of(logits)), *other_curves(scored, logits, 10)]
    rows = [row for curve in curves for row in curve.rows("validation", labels, "accuracy", RAMP_COST)]
    assert full_depth["score"] == rows[0]["score"]
    for row in rows + random_rows(logits, labels, thresholds, "accuracy"):
        assert row["accuracy"] <= oracle["accuracy"] + 1e-12
        if row["accuracy"] >= oracle["accuracy"] - 1e-12:
            assert row["layers_saved_frac"] <= oracle["layers_saved_frac"] + 1e-12
