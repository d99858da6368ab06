"""Made-up heads, and what plain code says of their exits: the yardstick for the tables of a sweep."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import strategies as st

from deebert.analysis.curves import entropy_curve
from deebert.base.rows import Row

RAMP_COST = 0.1  # layers
SCORED = [(2, "accuracy"), (2, "f1"), (2, "macro_f1"), (3, "accuracy"), (3, "macro_f1"), (4, "macro_f1")]
scored_classes = st.sampled_from(SCORED)  # numbers of classes, each with a metric for them


def heads(seed: int, labels: int = 2, n: int = 40, layers: int = 4, best: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, layers, labels) of heads that know the label the better the deeper they are, and the labels (n,)."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, labels, n)
    logits = rng.standard_normal((n, layers, labels))
    logits[np.arange(n), :, wanted] += np.linspace(0, best, layers)
    return logits.astype(np.float32), wanted


def entropy_rows_of(logits: np.ndarray, labels: np.ndarray, thresholds: list[float], metric: str) -> list[Row]:
    """The entropy curve's rows."""
    return entropy_curve(logits, thresholds).rows("validation", labels, metric, RAMP_COST)


def best_within(rows: list[dict[str, Any]], drop_points: float) -> dict[str, Any]:
    """Of one curve's rows, the one that saves most while losing at most `drop_points` (of 100): the first of equals."""
    full = next(row for row in rows if row["threshold"] == 0.0)
    floor = full["score"] - drop_points / 100 - 1e-9  # two equal scores may differ in their last bit
    return max((row for row in rows if row["score"] >= floor), key=lambda row: row["layers_saved_frac"])


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


def naive_macro_f1(labels: list[int], predictions: list[int]) -> float:
    classes = {*labels, *predictions}
    return sum(
        naive_f1([int(a == label) for a in labels], [int(a == label) for a in predictions]) for label in classes
    ) / len(classes)


def naive_accuracy(labels: list[int], predictions: list[int]) -> float:
    return sum(a == b for a, b in zip(labels, predictions, strict=True)) / len(labels)


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
