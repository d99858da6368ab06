"""Rows and metrics of the sweep, against plain loops over random logits."""

import math
import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.files import read_json, write_json
from deebert.logits import SplitLogits
from deebert.params import read_params
from deebert.sweep import (
    best_within,
    depth_rows,
    drop_key,
    entropy_rows,
    exit_rows,
    layer_metrics,
    layer_rows,
    sweep_metrics,
    sweep_rows,
    threshold_grid,
)

ROOT = Path(__file__).parents[1]
N, LAYERS = 40, 4
few = settings(max_examples=25, deadline=None, derandomize=True)


def heads(seed: int, labels: int = 2, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, 4, labels) of heads that know the label the better the deeper they are, and the labels (n,)."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, labels, n)
    logits = rng.standard_normal((n, LAYERS, labels))
    logits[np.arange(n), :, wanted] += np.linspace(0, 1.5, LAYERS)
    return logits.astype(np.float32), wanted


def naive_entropy(logits: np.ndarray) -> float:
    p = np.exp(logits.astype(np.float64) - logits.max())
    p /= p.sum()
    return -sum(float(x) * math.log(x) for x in p)


def naive_exit(sample: np.ndarray, threshold: float) -> int:
    """Exit layer 1..L of one sample's (L, C) logits."""
    for layer, head in enumerate(sample[:-1], start=1):
        if naive_entropy(head) < threshold:
            return layer
    return len(sample)


def naive_f1(labels: list[int], predictions: list[int]) -> float:
    hits = sum(a == b == 1 for a, b in zip(labels, predictions, strict=True))
    return 2 * hits / (labels.count(1) + predictions.count(1)) if hits else 0.0


def naive_accuracy(labels: list[int], predictions: list[int]) -> float:
    return sum(a == b for a, b in zip(labels, predictions, strict=True)) / len(labels)


@few
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0, 1.5), st.sampled_from(["accuracy", "f1"]))
def test_a_row_is_what_a_plain_loop_finds(seed: int, classes: int, threshold: float, metric: str) -> None:
    """Score, accuracy, saving and mean exit layer of a threshold agree with going through the samples one by one."""
    logits, labels = heads(seed, classes)
    (row,) = sweep_rows("validation", logits, labels, [threshold], metric)
    layers = [naive_exit(sample, threshold) for sample in logits]
    predictions = [int(sample[layer - 1].argmax()) for sample, layer in zip(logits, layers, strict=True)]
    score = {"f1": naive_f1, "accuracy": naive_accuracy}[metric](labels.tolist(), predictions)
    assert row == {
        "split": "validation",
        "criterion": "entropy",
        "threshold": threshold,
        "score": pytest.approx(score),
        "accuracy": pytest.approx(naive_accuracy(labels.tolist(), predictions)),
        "layers_saved_frac": pytest.approx(1 - sum(layers) / (LAYERS * N)),
        "mean_exit_layer": pytest.approx(sum(layers) / N),
        "n": N,
    }


@few
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_the_curve_begins_at_full_depth_and_ends_at_layer_1(seed: int, classes: int) -> None:
    """Threshold 0 has the last layer's score and saves nothing, the grid's last the first's; saving never falls."""
    logits, labels = heads(seed, classes)
    by_layer = [row["score"] for row in layer_rows("validation", logits, labels, ["accuracy"])]
    curve = sweep_rows("validation", logits, labels, [0.0, *threshold_grid(classes, 20)], "accuracy")
    assert (curve[0]["score"], curve[0]["layers_saved_frac"]) == (by_layer[-1], 0.0)
    assert (curve[-1]["score"], curve[-1]["layers_saved_frac"]) == (by_layer[0], 1 - 1 / LAYERS)
    savings = [row["layers_saved_frac"] for row in curve]
    assert savings == sorted(savings)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("points", [0, 1, 2, 50, 200, 999])
def test_the_grid(classes: int, points: int) -> None:
    """About as many thresholds as asked for, of 4 digits, from just above 0 to just above ln C, always alike."""
    grid = threshold_grid(classes, points)
    assert 0.8 * min(points, 200) <= len(grid) <= points and grid == sorted(set(grid)) == threshold_grid(
        classes, points
    )
    assert all(0 < threshold <= math.log(classes) + 1e-4 and threshold == round(threshold, 4) for threshold in grid)
    if points > 1:
        assert grid[-1] > math.log(classes) and grid[0] < 1e-3


def test_layer_rows_come_metric_by_metric() -> None:
    """One row per metric and layer 1..L, the main metric first, with the score of that head alone."""
    logits, labels = heads(3)
    rows = layer_rows("validation", logits, labels, ["f1", "accuracy"])
    assert [(row["metric"], row["layer"]) for row in rows] == [(m, i) for m in ("f1", "accuracy") for i in (1, 2, 3, 4)]
    for row in rows:
        predictions = logits[:, row["layer"] - 1].argmax(axis=1).tolist()
        naive = {"f1": naive_f1, "accuracy": naive_accuracy}[row["metric"]]
        assert row["score"] == pytest.approx(naive(labels.tolist(), predictions))
        assert row["split"] == "validation"


@few
@given(st.integers(0, 10_000), st.lists(st.floats(0, 1.5), min_size=1, max_size=4, unique=True))
def test_everybody_leaves_once(seed: int, thresholds: list[float]) -> None:
    """At each threshold the exits of layers 1..L are those of a plain loop and sum to n."""
    logits, _ = heads(seed)
    rows = exit_rows("validation", logits, thresholds)
    for threshold in thresholds:
        mine = {row["layer"]: row["exits"] for row in rows if row["threshold"] == threshold}
        layers = [naive_exit(sample, threshold) for sample in logits]
        assert mine == {layer: layers.count(layer) for layer in range(1, LAYERS + 1)}
    assert len(rows) == LAYERS * len(thresholds)


def test_entropies_by_right_and_wrong_and_by_difficulty() -> None:
    """Each layer's groups are complete: right and wrong make up all samples, so do the grades; quantiles rise."""
    logits, labels = heads(5)
    difficulty = np.arange(N) % 3
    rows = entropy_rows("validation", logits, labels, difficulty)
    for layer in range(1, LAYERS + 1):
        groups = {row["group"]: row for row in rows if row["layer"] == layer}
        right = logits[:, layer - 1].argmax(axis=1) == labels
        assert groups["correct"]["n"] == right.sum() and groups["wrong"]["n"] == (~right).sum()
        assert sum(groups[f"difficulty {grade}"]["n"] for grade in range(3)) == N
        expected = np.median([naive_entropy(head) for head in logits[right, layer - 1]])
        assert groups["correct"]["q50"] == pytest.approx(expected, abs=1e-5)
        for row in groups.values():
            quantiles = [row[name] for name in ("q05", "q25", "q50", "q75", "q95")]
            assert quantiles == sorted(quantiles) and quantiles[0] >= 0 and quantiles[-1] <= math.log(2) + 1e-5


def test_a_group_without_samples_has_no_row() -> None:
    """Heads that are always right have no row of wrong answers, and data without grades none of difficulty."""
    logits = np.zeros((5, LAYERS, 2), dtype=np.float32)
    logits[:, :, 1] = 9
    rows = entropy_rows("validation", logits, np.ones(5, dtype=np.int64), None)
    assert {row["group"] for row in rows} == {"correct"}
    assert depth_rows("validation", logits, None, [0.1]) == []


def test_depth_by_difficulty() -> None:
    """The mean exit layer of each grade is that of its own samples."""
    logits, _ = heads(6)
    difficulty = np.arange(N) % 3
    rows = depth_rows("validation", logits, difficulty, [0.2, 0.6])
    for row in rows:
        members = [naive_exit(sample, row["threshold"]) for sample in logits[difficulty == row["difficulty"]]]
        assert (row["mean_exit_layer"], row["n"]) == (pytest.approx(np.mean(members)), len(members))
    assert [(row["threshold"], row["difficulty"]) for row in rows] == [(t, g) for t in (0.2, 0.6) for g in range(3)]


def curve(*points: tuple[float, float, float]) -> list[dict[str, Any]]:
    return [
        {"threshold": threshold, "score": score, "layers_saved_frac": saved, "n": 100}
        for threshold, score, saved in points
    ]


CURVE = curve((0.0, 0.9, 0.0), (0.1, 0.9, 0.1), (0.2, 0.88, 0.3), (0.3, 0.895, 0.4), (0.4, 0.86, 0.6), (0.5, 0.5, 0.8))


@pytest.mark.parametrize(
    ("drop_points", "threshold"),
    [(0, 0.1), (0.5, 0.3), (1, 0.3), (2, 0.3), (4, 0.4), (39.9, 0.4), (40, 0.5), (99, 0.5)],
)
def test_best_within_picks_the_most_saved(drop_points: float, threshold: float) -> None:
    """Of the rows that lose at most so many points of 100, also beyond a dip, the one that saves most."""
    assert best_within(CURVE, drop_points)["threshold"] == threshold


def test_best_within_prefers_the_lowest_threshold() -> None:
    """Among rows that save the same, the lowest threshold is named; a gain in score is no loss."""
    rows = curve((0.0, 0.8, 0.0), (0.1, 0.9, 0.5), (0.2, 0.9, 0.5))
    assert best_within(rows, 0)["threshold"] == 0.1


@few
@given(st.integers(0, 10_000))
def test_more_to_lose_saves_no_less(seed: int) -> None:
    """The best saving does not fall as the drop allowed grows, and keeps its word about the score."""
    logits, labels = heads(seed)
    rows = sweep_rows("validation", logits, labels, [0.0, *threshold_grid(2, 40)], "accuracy")
    picked = [best_within(rows, drop) for drop in (0, 0.5, 1, 3, 10)]
    savings = [row["layers_saved_frac"] for row in picked]
    assert savings == sorted(savings)
    for drop, row in zip((0, 0.5, 1, 3, 10), picked, strict=True):
        assert row["score"] >= rows[0]["score"] - drop / 100 - 1e-6


def leaves(content: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{below}", leaf) for below, leaf in leaves(value))
        else:
            yield key, value


def check_metrics(content: dict[str, Any]) -> None:
    """What `dvc metrics diff` can show well: task by name and 8 to 12 figures, rounded, under names free of dots."""
    flat = dict(leaves(content))
    figures = {key: value for key, value in flat.items() if key != "task"}
    assert isinstance(flat["task"], str) and 8 <= len(figures) <= 12
    for value in figures.values():
        assert type(value) in (int, float) and math.isfinite(value) and round(value, 4) == value
    assert not any("." in key for level in (content, *content.values()) if isinstance(level, dict) for key in level)


@pytest.mark.parametrize("metrics", [["accuracy"], ["f1", "accuracy"]])
def test_layer_metrics(metrics: list[str]) -> None:
    """The figures are those of the main metric on the split asked for; the keys are the same for any task."""
    logits, labels = heads(1)
    rows = layer_rows("validation_matched", logits, labels, metrics)
    other_logits, other_labels = heads(2)
    content = layer_metrics(
        "MNLI", rows + layer_rows("other", other_logits, other_labels, metrics), "validation_matched", N
    )
    check_metrics(content)
    scores = [row["score"] for row in rows if row["metric"] == metrics[0]]
    assert content["full_score"] == round(scores[-1], 4)
    assert content["full_accuracy"] == round(float((logits[:, -1].argmax(axis=1) == labels).mean()), 4)
    assert [content[f"ramp_{name}_score"] for name in ("first", "middle", "last")] == [round(s, 4) for s in scores[:3]]
    assert content["ramp_best_score"] == round(max(scores[:3]), 4)
    assert scores[content["ramp_best_layer"] - 1] == max(scores[:3])
    assert (content["num_layers"], content["n"]) == (LAYERS, N)
    assert list(content) == list(
        layer_metrics("RTE", layer_rows("v", other_logits, other_labels, ["accuracy"]), "v", 1)
    )


def test_sweep_metrics() -> None:
    """Per target the saving and the threshold of the best row; keys depend on the targets alone."""
    logits, labels = heads(1)
    rows = sweep_rows("validation", logits, labels, [0.0, *threshold_grid(2, 40)], "accuracy")
    content = sweep_metrics("toy", rows, (0.0, 0.5, 1.0, 3.0))
    check_metrics(content)
    assert list(content["layers_saved_at"]) == list(content["threshold_at"]) == [
        "drop_0_0", "drop_0_5", "drop_1_0", "drop_3_0",
    ]  # fmt: skip
    best = best_within(rows, 1.0)
    assert content["layers_saved_at"]["drop_1_0"] == round(best["layers_saved_frac"], 4)
    assert content["threshold_at"]["drop_1_0"] == round(best["threshold"], 4)
    assert (content["full_score"], content["n"]) == (round(rows[0]["score"], 4), N)


def test_saved_logits_come_back(tmp_path: Path) -> None:
    """Every array is read back as it was saved; a grade of difficulty that is not there stays away."""
    logits, labels = heads(1)
    for difficulty in (None, np.arange(N)):
        saved = SplitLogits(logits, labels, np.arange(N), np.full(N, 7), difficulty)
        saved.save(tmp_path / "it.safetensors")
        loaded = SplitLogits.load(tmp_path / "it.safetensors")
        for name, array in vars(saved).items():
            np.testing.assert_array_equal(getattr(loaded, name), array)


def test_two_validation_splits_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MNLI has them: rows of both splits, each from its own logits, and metrics of the first alone."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    sizes = {"validation_matched": 30, "validation_mismatched": 20}
    (tmp_path / "logits").mkdir()
    about = {"task": "MNLI", "metric": "accuracy", "splits": list(sizes)}
    write_json(tmp_path / "logits" / "about.json", about)
    drawn = {split: heads(seed=n, labels=3, n=n) for split, n in sizes.items()}
    for split, (logits, labels) in drawn.items():
        numbers = np.arange(len(labels))
        SplitLogits(logits, labels, numbers, numbers).save(tmp_path / "logits" / f"{split}.safetensors")

    main = runpy.run_path(str(ROOT / "stages" / "entropy_sweep.py"))["main"]
    main(Path("logits"), Path("sweep"), Path("metrics.json"))

    rows, exits = read_json(Path("sweep/sweep.json")), read_json(Path("sweep/exits.json"))
    for split, (logits, labels) in drawn.items():
        mine = [row for row in rows if row["split"] == split]
        assert mine == sweep_rows(split, logits, labels, [row["threshold"] for row in mine], "accuracy")
        thresholds = [row["threshold"] for row in mine]
        assert thresholds[0] == 0.0 and thresholds == sorted(set(thresholds)) and thresholds[-1] > math.log(3)
        shown = read_params(Path("params.yaml")).entropy_sweep.thresholds
        assert {row["threshold"] for row in exits if row["split"] == split} == set(shown) <= set(thresholds)
    content = read_json(Path("metrics.json"))
    check_metrics(content)
    matched = [row for row in rows if row["split"] == "validation_matched"]
    assert content == sweep_metrics("MNLI", matched, read_params(Path("params.yaml")).entropy_sweep.targets)


@few
@given(st.lists(st.floats(0, 100), min_size=2, max_size=6, unique=True))
def test_drop_keys_differ_and_have_no_dots(targets: list[float]) -> None:
    """Different targets get different names, none of which DVC takes for nesting; 1 and 1.0 are the same target."""
    keys = [drop_key(target) for target in targets]
    assert len(set(keys)) == len(keys) and not any("." in key for key in keys)
    assert drop_key(1) == drop_key(1.0) == "drop_1_0"
