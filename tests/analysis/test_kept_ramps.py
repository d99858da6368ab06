"""Which ramps to keep: against plain loops, and in worlds where it is known which ramp is worth nothing."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis import kept_ramps
from deebert.analysis.curves import ScoredCurve, entropy_curve
from deebert.analysis.folds import stratified_folds
from deebert.analysis.kept_ramps import kept_rows
from deebert.base.rows import Row
from deebert.data.scores import METRICS
from deebert.exits.criteria import LayerThresholds
from deebert.exits.grids import threshold_grid
from tests.heads import heads, scored_classes

few = settings(max_examples=15, deadline=None, derandomize=True)
DROPS = (0.0, 1.0, 5.0)


def kept(logits: np.ndarray, labels: np.ndarray, cost: float, metric: str = "accuracy", points: int = 20) -> list[Row]:
    curve = entropy_curve(logits, [0.0, *threshold_grid(logits.shape[2], points)])
    return kept_rows(ScoredCurve("validation", curve, labels, metric, 5), logits, DROPS, cost)


def by_hand(logits: np.ndarray, thresholds: list[float], cost: float) -> tuple[np.ndarray, float, float]:
    """Answers, layers saved and compute saved: sample by sample, ramp by ramp."""
    criterion = LayerThresholds(tuple(thresholds), 0.0)
    num_layers, answers, layers, ramps = logits.shape[1], [], 0, 0
    for sample, layer in zip(logits, criterion.exit_layers(torch.from_numpy(logits)).tolist(), strict=True):
        answers.append(sample[layer - 1].argmax())
        layers += layer
        ramps += sum(limit > 0 for limit in thresholds[:layer])
    whole = num_layers * len(logits)
    return np.array(answers), 1 - layers / whole, 1 - (layers + cost * ramps) / whole


@few
@given(st.integers(0, 10_000), scored_classes, st.sampled_from([0.0, 0.1, 0.5]))
def test_the_figures_are_what_a_plain_loop_finds(seed: int, scored: tuple[int, str], cost: float) -> None:
    """Layers and compute saved are those of the thresholds told; the drop is kept; all ramps at once are no better."""
    classes, metric = scored
    logits, labels = heads(seed, classes, best=3.0)
    full = METRICS[metric](labels, logits[:, -1].argmax(axis=1))
    curve = entropy_curve(logits, [0.0, *threshold_grid(classes, 20)])
    for drop, row in zip(DROPS, kept(logits, labels, cost, metric), strict=True):
        answers, layers, compute = by_hand(logits, row["kept_thresholds"], cost)
        assert row["kept_layers_saved_frac"] == pytest.approx(layers, abs=1e-12)
        assert row["kept_compute_saved_frac"] == pytest.approx(compute, abs=1e-12)
        assert METRICS[metric](labels, answers) >= full - drop / 100 - 1e-9
        for all_ramps in curve.rows("validation", labels, metric, cost):
            if all_ramps["score"] >= full - drop / 100 - 1e-9:
                assert compute >= all_ramps["compute_saved_frac"] - 1e-12


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_no_sample_is_judged_by_a_choice_that_it_was_in(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold leaves by the thresholds that the whole procedure finds on all others; the score is of all together."""
    monkeypatch.setattr(kept_ramps, "DIVISIONS", 2)
    logits, labels = heads(3, n=60, best=2.5)
    rng, scores, saved = np.random.default_rng(5), [], []
    for _ in range(2):
        fold, answers, compute = stratified_folds(labels, kept_ramps.FOLDS, rng), np.empty(60), 0.0
        for judged in (fold == k for k in range(kept_ramps.FOLDS)):
            chosen = kept(logits[~judged], labels[~judged], 0.2, metric)[1]["kept_thresholds"]
            answers[judged], _, share = by_hand(logits[judged], chosen, 0.2)
            compute += share * judged.sum() / 60
        scores.append(METRICS[metric](labels, answers.astype(int)))
        saved.append(compute)
    row = kept(logits, labels, 0.2, metric)[1]
    full = METRICS[metric](labels, logits[:, -1].argmax(axis=1))
    assert row["kept_score"] == pytest.approx(np.mean(scores))
    assert row["kept_drop_points"] == pytest.approx(100 * (full - np.mean(scores)))
    assert row["kept_cross_fitted_compute_saved_frac"] == pytest.approx(np.mean(saved))


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_all_ramps_are_judged_as_those_kept_are(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold leaves by the threshold that is recommended on all others: the highest within the drop."""
    monkeypatch.setattr(kept_ramps, "DIVISIONS", 2)
    logits, labels = heads(3, n=60, best=2.5)
    thresholds = [0.0, *threshold_grid(2, 20)]
    rng, saved = np.random.default_rng(5), []
    for _ in range(2):
        fold = stratified_folds(labels, kept_ramps.FOLDS, rng)
        for judged in (fold == k for k in range(kept_ramps.FOLDS)):
            others = entropy_curve(logits[~judged], thresholds).rows("validation", labels[~judged], metric, 0.2)
            allowed = [row for row in others if row["score"] >= others[0]["score"] - 0.01 - 1e-9]
            best = max(row["threshold"] for row in allowed)
            saved.append(by_hand(logits[judged], [best] * 3, 0.2)[2] * judged.sum() / 60)
    row = kept(logits, labels, 0.2, metric)[1]
    assert row["cross_fitted_compute_saved_frac"] == pytest.approx(sum(saved) / 2)


def with_a_noisy_ramp(ramp: int) -> tuple[np.ndarray, np.ndarray]:
    """Heads of 5 layers that know the label, but for one ramp that is as sure as the others and guesses."""
    logits, labels = heads(1, n=400, layers=5, best=8.0)
    logits[np.arange(400), :, labels] += 1.0
    logits[:, ramp - 1] = 6 * np.random.default_rng(2).standard_normal((400, 2))
    return logits, labels


@pytest.mark.parametrize("ramp", [1, 2, 3])
def test_a_ramp_that_guesses_is_dropped(ramp: int) -> None:
    """It goes though ramps cost nothing, for the answers that it spoils; much more is saved without it than with it."""
    logits, labels = with_a_noisy_ramp(ramp)
    _, row, _ = kept(logits, labels, cost=0.0)
    thresholds = row["kept_thresholds"]
    assert thresholds[ramp - 1] == 0 and sum(limit > 0 for limit in thresholds) >= 1
    curve = entropy_curve(logits, [0.0, *threshold_grid(2, 20)]).rows("validation", labels, "accuracy", 0.0)
    with_it = max(each["layers_saved_frac"] for each in curve if each["score"] >= curve[0]["score"] - 0.01 - 1e-9)
    assert row["kept_layers_saved_frac"] > with_it + 0.1
    assert row["kept_drop_points"] < 1.5 and row["kept_cross_fitted_compute_saved_frac"] > with_it


def test_the_more_a_ramp_costs_the_fewer_are_kept() -> None:
    """Dear ramps go one after the other, and at last all of them; then nothing is saved and nothing lost."""
    logits, labels = heads(4, n=600, layers=6, best=5.0)
    numbers = [
        sum(limit > 0 for limit in kept(logits, labels, cost)[2]["kept_thresholds"]) for cost in (0.0, 0.1, 0.5, 5.0)
    ]
    assert numbers[0] > numbers[2] and numbers == sorted(numbers, reverse=True)
    assert numbers[-1] == 0
    row = kept(logits, labels, 5.0)[2]
    assert row["kept_compute_saved_frac"] == row["kept_layers_saved_frac"] == row["kept_drop_points"] == 0
    assert row["cross_fitted_compute_saved_frac"] < 0  # the threshold that is recommended of all ramps costs more


@pytest.mark.parametrize(("n", "layers"), [(1, 3), (2, 2), (7, 4)])
def test_few_samples_and_layers(n: int, layers: int) -> None:
    """Fewer samples than folds and a single ramp are no trouble: plain numbers, the same again."""
    logits, labels = heads(6, n=n, layers=layers)
    rows = kept(logits, labels, 0.1)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows == kept(logits, labels, 0.1)
    assert all(len(row["kept_thresholds"]) == layers - 1 for row in rows)


def test_of_thresholds_that_save_the_same_the_lowest_is_told() -> None:
    """Nobody's entropy lies between 0.1 and 0.5 nats: of the thresholds there it is the lowest."""
    sure, unsure = [6.0, 0.0], [0.1, 0.0]
    logits = np.float32([[sure, sure, sure]] * 20 + [[unsure, unsure, sure]] * 20)
    curve = entropy_curve(logits, [0.0, 0.1, 0.2, 0.3, 0.5])
    rows = kept_rows(ScoredCurve("validation", curve, np.zeros(40, int), "accuracy", 1), logits, [0.0], 0.1)
    assert max(rows[0]["kept_thresholds"]) == 0.1


@pytest.mark.parametrize(
    ("most", "metric", "divisions"), [(180, "accuracy", 3), (180, "macro_f1", 1), (1, "accuracy", 1)]
)
def test_of_many_samples_there_are_few_divisions(
    most: int, metric: str, divisions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as stay within what is judged at most, terms of the score counted; but one at least."""
    monkeypatch.setattr(kept_ramps, "MAX_JUDGED", most)
    logits, labels = heads(3, n=60)
    assert {row["kept_divisions"] for row in kept(logits, labels, 0.1, metric)} == {divisions}
