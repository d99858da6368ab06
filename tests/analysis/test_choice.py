"""Choosing a setting and judging it: against plain loops, and against worlds whose scores are known."""

import dataclasses
import json
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis import choice
from deebert.analysis.choice import Resampled, _sums, _terms, band_rows, choice_rows
from deebert.analysis.curves import Curve, ScoredCurve
from deebert.analysis.folds import stratified_folds
from deebert.data.scores import METRICS, score_terms
from tests.heads import best_within

few = settings(max_examples=25, deadline=None, derandomize=True)
LAYERS = 6
TARGETS = [0, 0.5, 1, 3]
ENDS = [f"{name}_{end}" for name in ("layers_saved", "score", "drop") for end in ("low", "high")]

Grid = tuple[Curve, np.ndarray]  # and labels


def draw_grid(rng: np.random.Generator, n: int, num_settings: int = 12, worst: float = 0.15) -> Grid:
    """A grid like a real one: the later the setting, the earlier samples leave and the more often the answer flips.

    Full depth is wrong for one sample in ten. Setting k flips the answers of a share `worst` * (k / last) ** 2: the
    same samples and more from setting to setting.
    """
    boldness = np.linspace(0, 1, num_settings)[:, None]  # (K, 1)
    labels = rng.integers(0, 2, n)
    full = np.where(rng.random(n) < 0.1, 1 - labels, labels)
    predictions = np.where(rng.random(n) < worst * boldness**2, 1 - full, full)
    layers = LAYERS - (rng.random(n) * LAYERS * boldness).astype(int)
    return Curve("entropy", tuple(np.linspace(0, 0.7, num_settings).tolist()), layers, predictions, LAYERS), labels


def true_score(num_settings: int = 12, worst: float = 0.15) -> np.ndarray:
    """Accuracy (K,) of `draw_grid`'s settings on endless samples: a flip mends one answer in ten, spoils the others."""
    return 0.9 - 0.8 * worst * np.linspace(0, 1, num_settings) ** 2


def sweep_like(grid: Grid, metric: str, members: np.ndarray | slice = slice(None)) -> list[dict]:
    """The rows that `best_within` reads, from some of the samples."""
    curve, labels = grid
    return [
        {
            "threshold": threshold,
            "score": METRICS[metric](labels[members], curve.predictions[k, members]),
            "layers_saved_frac": 1 - curve.exit_layers[k, members].mean() / LAYERS,
        }
        for k, threshold in enumerate(curve.settings)
    ]


@few
@given(st.integers(0, 10_000), st.integers(2, 60), st.sampled_from(sorted(METRICS)))
def test_the_threshold_is_best_within_of_all_samples(seed: int, n: int, metric: str) -> None:
    """Threshold, saving and in-sample drop are those of the sweep's own choice, for every metric there is."""
    grid = draw_grid(np.random.default_rng(seed), n)
    rows = sweep_like(grid, metric)
    for row in choice_rows(Resampled(ScoredCurve("validation", *grid, metric, 1)), TARGETS):
        best = best_within(rows, row["target_drop_points"])
        assert row["threshold"] == best["threshold"] and row["n"] == n
        assert row["layers_saved_frac"] == pytest.approx(best["layers_saved_frac"])
        assert row["in_sample_drop_points"] == pytest.approx(100 * (rows[0]["score"] - best["score"]), abs=1e-9)


@pytest.mark.slow
@few
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(sorted(METRICS)))
def test_cross_fitted_figures_are_what_a_plain_loop_finds(seed: int, n: int, metric: str) -> None:
    """Each fold is judged by the setting that `best_within` chooses on the rest; the folds' answers make one score."""
    grid = draw_grid(np.random.default_rng(seed), n)
    curve, labels = grid
    rng, full = np.random.default_rng(5), METRICS[metric](labels, curve.predictions[0])
    scores, saved = {target: [] for target in TARGETS}, {target: [] for target in TARGETS}
    for _ in range(choice.DIVISIONS):
        fold_of = stratified_folds(labels, choice.FOLDS, rng)
        answers, exits = np.full((len(TARGETS), n), -1), np.zeros((len(TARGETS), n))
        for fold in np.unique(fold_of):
            judged = fold_of == fold
            rest = None if judged.all() else sweep_like(grid, metric, ~judged)  # None: nothing to choose on
            for k, target in enumerate(TARGETS):
                point = curve.settings.index(best_within(rest, target)["threshold"]) if rest else 0
                answers[k, judged] = curve.predictions[point, judged]
                exits[k, judged] = curve.exit_layers[point, judged]
        for k, target in enumerate(TARGETS):
            scores[target].append(METRICS[metric](labels, answers[k]))
            saved[target].append(1 - exits[k].mean() / LAYERS)
    for row in choice_rows(Resampled(ScoredCurve("validation", *grid, metric, 5)), TARGETS):
        target = row["target_drop_points"]
        assert row["score"] == pytest.approx(np.mean(scores[target]))
        assert row["drop_points"] == pytest.approx(100 * (full - np.mean(scores[target])), abs=1e-9)
        assert row["cross_fitted_layers_saved_frac"] == pytest.approx(np.mean(saved[target]))


def test_cross_fitting_does_not_flatter() -> None:
    """Over 60 validation sets the cross-fitted drop is right in the mean where the in-sample drop is far too small."""
    rng, truth = np.random.default_rng(0), true_score()
    cross, inside, true = [], [], []
    for seed in range(60):
        grid = draw_grid(rng, 300)  # half a point is one sample of them, and one of the nine tenths too
        (row,) = choice_rows(Resampled(ScoredCurve("validation", *grid, "accuracy", seed)), [0.5])
        cross.append(row["drop_points"])
        inside.append(row["in_sample_drop_points"])
        true.append(100 * (truth[0] - truth[grid[0].settings.index(row["threshold"])]))
    error = 3 * np.std(np.subtract(cross, true)) / 60**0.5
    assert abs(np.mean(cross) - np.mean(true)) < error
    assert np.mean(inside) < np.mean(true) - error


@pytest.mark.slow
def test_intervals_hold_what_they_are_about() -> None:
    """Over 150 validation sets the deployed threshold's true score and drop are mostly inside (at 95 % nominal)."""
    rng, truth = np.random.default_rng(1), true_score()
    inside = {"score": [], "drop": []}
    for seed in range(150):
        grid = draw_grid(rng, 400)
        (row,) = choice_rows(Resampled(ScoredCurve("validation", *grid, "accuracy", seed)), [3])
        score = truth[grid[0].settings.index(row["threshold"])]
        inside["score"].append(row["score_low"] <= score <= row["score_high"])
        inside["drop"].append(row["drop_low"] <= 100 * (truth[0] - score) <= row["drop_high"])
    assert 0.85 <= np.mean(inside["score"]) <= 0.995
    assert 0.85 <= np.mean(inside["drop"]) <= 0.995


def test_intervals_of_many_classes_are_not_too_low() -> None:
    """Macro-F1 is lower, the fewer samples a class has: on the samples, and once more on each that is drawn of them.

    So the intervals' middles are at what is true, above what was seen.
    """
    rng, classes, inside, middles, seen = np.random.default_rng(3), 77, [], [], []
    for seed in range(40):
        labels = rng.integers(classes, size=400)
        wrong = (labels + rng.integers(1, classes, size=400)) % classes
        answers = np.where(rng.random(400) < 0.85, labels, wrong)[None]
        curve = Curve("entropy", (0.0,), np.full((1, 400), LAYERS), answers, LAYERS)
        (row,) = band_rows(Resampled(ScoredCurve("validation", curve, labels, "macro_f1", seed)))
        inside.append(row["score_low"] <= 0.85 <= row["score_high"])
        middles.append((row["score_low"] + row["score_high"]) / 2)
        seen.append(row["score"])
    assert np.mean(inside) >= 0.85  # of percentiles alone, 0.6
    assert abs(np.mean(middles) - 0.85) < 0.01 < 0.85 - np.mean(seen)


@pytest.mark.parametrize("rows_of", ["choice", "curve"])
def test_intervals_shrink_with_the_square_root_of_n(rows_of: str) -> None:
    """Sixteen times the samples: a quarter of the width."""
    widths = []
    for n in (500, 8000):
        grid = draw_grid(np.random.default_rng(2), n)
        if rows_of == "choice":
            (row,) = choice_rows(Resampled(ScoredCurve("validation", *grid, "accuracy", 0)), [3])
        else:
            row = band_rows(Resampled(ScoredCurve("validation", *grid, "accuracy", 0)))[6]
        widths.append([row[f"{name}_high"] - row[f"{name}_low"] for name in ("layers_saved", "score", "drop")])
    assert np.divide(*widths) == pytest.approx(4, rel=0.35)


def test_intervals_are_of_95_percent() -> None:
    """With many samples and nothing to choose, the ends are 2 * 1.96 standard errors of the score apart."""
    curve, labels = draw_grid(np.random.default_rng(5), 2000, num_settings=1)
    scored = ScoredCurve("validation", curve, labels, "accuracy", 0)
    score = np.mean(curve.predictions[0] == labels)
    error = (score * (1 - score) / 2000) ** 0.5
    for row in choice_rows(Resampled(scored), [0]) + band_rows(Resampled(scored)):
        assert row["score_high"] - row["score_low"] == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_each_sample_is_judged_by_nine_tenths_of_the_others_20_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the documents say. Fewer would make a choice that is not the one deployed, or one of chance."""
    divided: list[int] = []

    def noted(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
        divided.append(folds)
        return stratified_folds(labels, folds, rng)

    monkeypatch.setattr(choice, "stratified_folds", noted)
    choice_rows(Resampled(ScoredCurve("validation", *draw_grid(np.random.default_rng(6), 40), "accuracy", 0)), TARGETS)
    assert divided == [10] * 20


@few
@given(st.integers(0, 10_000), st.sampled_from(sorted(METRICS)))
def test_a_curve_row_is_what_the_metrics_say(seed: int, metric: str) -> None:
    """Score, saving and drop of each setting are those of the whole split, and lie between their ends."""
    grid = draw_grid(np.random.default_rng(seed), 50)
    rows = sweep_like(grid, metric)
    for row, plain in zip(band_rows(Resampled(ScoredCurve("test", *grid, metric, 0))), rows, strict=True):
        assert (row["split"], row["threshold"], row["n"]) == ("test", plain["threshold"], 50)
        assert row["score"] == pytest.approx(plain["score"])
        assert row["layers_saved_frac"] == pytest.approx(plain["layers_saved_frac"])
        assert row["drop_points"] == pytest.approx(100 * (rows[0]["score"] - plain["score"]), abs=1e-9)
        values = (row["layers_saved_frac"], row["score"], row["drop_points"])
        for value, low, high in zip(values, ENDS[::2], ENDS[1::2], strict=True):
            assert row[low] - 1e-9 <= value <= row[high] + 1e-9


def test_intervals_are_paired() -> None:
    """Where exits answer as full depth does, the drop is 0 for certain though the score is not certain at all."""
    curve, labels = draw_grid(np.random.default_rng(3), 200)
    grid = dataclasses.replace(curve, predictions=np.repeat(curve.predictions[:1], 12, axis=0)), labels
    scored = ScoredCurve("validation", *grid, "accuracy", 0)
    for row in choice_rows(Resampled(scored), [0]) + band_rows(Resampled(scored)):
        assert row["drop_low"] == row["drop_points"] == row["drop_high"] == 0
        assert row["score_high"] - row["score_low"] > 0.02


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("metric", sorted(METRICS))
def test_few_samples_and_one_setting_are_no_trouble(n: int, metric: str) -> None:
    """Fewer samples than folds, one label only, only full depth: rows of plain numbers, nothing saved, nothing lost."""
    answers = np.zeros((1, n), dtype=int)
    grid = Curve("entropy", (0.0,), np.full((1, n), LAYERS), answers, LAYERS), np.zeros(n, dtype=int)
    scored = ScoredCurve("validation", *grid, metric, 0)
    rows = choice_rows(Resampled(scored), TARGETS) + band_rows(Resampled(scored))
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    for row in rows:
        assert (row["threshold"], row["layers_saved_frac"], row["drop_points"]) == (0.0, 0.0, 0.0)
        assert row["score"] == METRICS[metric](grid[1], answers[0])


def test_shares_stay_shares() -> None:
    """A model that is hardly ever wrong, or leaves at once or never, has no interval that reaches beyond 0 or 1."""
    curve, labels = draw_grid(np.random.default_rng(6), 100)
    predictions = np.tile(np.where(np.arange(100) < 2, 1 - labels, labels), (12, 1))
    grid = dataclasses.replace(curve, predictions=predictions), labels
    scored = ScoredCurve("validation", *grid, "accuracy", 0)
    for row in choice_rows(Resampled(scored), TARGETS) + band_rows(Resampled(scored)):
        assert all(0 <= row[key] <= 1 for key in ENDS if not key.startswith("drop"))


def test_the_seed_decides() -> None:
    """Equal seeds give equal rows to the last bit, another seed another division."""
    grid = draw_grid(np.random.default_rng(4), 150)

    def rows(seed: int) -> Sequence[dict]:
        scored = ScoredCurve("validation", *grid, "f1", seed)
        return choice_rows(Resampled(scored), TARGETS) + band_rows(Resampled(scored))

    assert rows(1) == rows(1) and rows(1) != rows(2)


@few
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(sorted(METRICS)))
def test_the_sums_are_those_of_all_terms(seed: int, n: int, metric: str) -> None:
    """However the samples are divided into parts, and whatever classes a part lacks."""
    rng = np.random.default_rng(seed)
    classes = 2 if metric == "f1" else 9
    predictions, labels = rng.integers(0, classes, (5, n)), rng.integers(0, classes, n)
    curve = Curve("entropy", (0.0,) * 5, rng.integers(1, LAYERS + 1, (5, n)), predictions, LAYERS)
    weights = rng.integers(0, 4, (n, 3)).astype(float)
    whole = np.concatenate([score_terms(labels, predictions, metric), curve.exit_layers[None]])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(choice, "SAMPLES_AT_ONCE", 7)
        sums = _sums(_terms(ScoredCurve("validation", curve, labels, metric, 0)), weights)
    assert np.array_equal(sums, whole @ weights)


def test_a_class_that_is_never_answered_has_its_terms() -> None:
    """The highest class has a few samples in one of the parts, and no setting ever answers it."""
    n = 2 * choice.SAMPLES_AT_ONCE
    labels = np.arange(n) % 2
    labels[:3] = 2
    answers = np.stack([np.arange(n) % 2, np.zeros(n, dtype=int)])
    curve = Curve("entropy", (0.0, 0.1), np.array([[4] * n, [1] * n]), answers, 4)
    rows = band_rows(Resampled(ScoredCurve("validation", curve, labels, "macro_f1", 0)))
    assert [row["score"] for row in rows] == pytest.approx([METRICS["macro_f1"](labels, each) for each in answers])


def test_many_classes_take_little_memory() -> None:
    """All that is done takes less than the terms of all samples alone would."""
    rng = np.random.default_rng(0)
    classes, num_settings, n = 40, 30, 3000
    labels = rng.integers(0, classes, n)
    predictions = np.where(rng.random((num_settings, n)) < 0.1, (labels + 1) % classes, labels)
    curve = Curve("entropy", tuple(range(num_settings)), np.full(predictions.shape, LAYERS), predictions, LAYERS)
    tracemalloc.start()
    resampled = Resampled(ScoredCurve("validation", curve, labels, "macro_f1", 0))
    choice_rows(resampled, TARGETS)
    band_rows(resampled)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < (2 * classes + 1) * num_settings * n * 8


def test_sums_of_any_size_are_exact() -> None:
    """Where all samples leave at one layer, so do all resamples: the interval has no width, however large its sums.

    The sums here are of 2^32 and differ by 1,000, which float32 cannot tell.
    """
    num_layers, n = 2**22, 1000
    layers = np.repeat([[num_layers], [num_layers - 1]], n, axis=1)
    answers = np.zeros((2, n), dtype=int)
    grid = Curve("entropy", (0.0, 0.1), layers, answers, num_layers), np.zeros(n, dtype=int)
    scored = ScoredCurve("validation", *grid, "accuracy", 0)
    rows = [*band_rows(Resampled(scored))[1:], *choice_rows(Resampled(scored), [0])]
    for row in rows:
        for key in ("layers_saved_frac", "layers_saved_low", "layers_saved_high"):
            assert row[key] == pytest.approx(1 / num_layers, rel=1e-6)
