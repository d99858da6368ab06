"""How good every head is by itself: score per layer, as rows and as the few figures of a pull request.

Shapes: N samples, L layers, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deebert.base.rows import Row
from deebert.data.scores import METRICS, score_terms

FAR_AHEAD = 0.05  # of score


def layer_rows(split: str, logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> list[Row]:
    """Score of every head on (N, L, C) logits: one row per metric (main metric first) and layer 1..L."""
    predictions = logits.argmax(axis=2)  # (N, L)
    return [
        {"split": split, "layer": i + 1, "metric": metric, "score": METRICS[metric](labels, predictions[:, i])}
        for metric in metrics
        for i in range(logits.shape[1])
    ]


def unlearned(logits: np.ndarray, labels: np.ndarray, metric: str) -> str | None:
    """Why full depth is no measure for what an exit loses, in words; None where it is one.

    Thresholds that lose nothing against it may be bad ones. Either it scores no more than the best of the answers would
    if everybody got it: then to lose nothing is to learn nothing. Or a ramp is ahead of it by far, which is by
    `FAR_AHEAD` and by three standard errors of the difference.
    """
    predictions = logits.argmax(axis=2)  # (N, L)
    scores = [METRICS[metric](labels, each) for each in predictions.T]
    same = max(METRICS[metric](labels, np.full_like(labels, label)) for label in range(logits.shape[2]))
    if scores[-1] <= same < 1:
        return f"full depth scores {100 * scores[-1]:.1f} %, one answer to all samples {100 * same:.1f} %"
    best = int(np.argmax(scores[:-1]))
    ahead = scores[best] - scores[-1]
    if ahead < FAR_AHEAD or ahead < 3 * _error_of_difference(predictions[:, [best, -1]], labels, metric):
        return None
    return f"the ramp after layer {best + 1} scores {100 * scores[best]:.1f} %, full depth {100 * scores[-1]:.1f} %"


def _error_of_difference(predictions: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """Standard error of how much the scores of two heads, (N, 2), differ: to first order each sample adds its part."""
    tops, bottoms = np.split(score_terms(labels[:, None], predictions, metric), 2)  # (T / 2, N, 2) each
    sums = bottoms.sum(axis=1, keepdims=True)
    ratios = tops.sum(axis=1, keepdims=True) / np.maximum(sums, 1)
    parts = ((tops - ratios * bottoms) / np.maximum(sums, 1)).sum(axis=0) / (sums > 0).sum(axis=0)  # (N, 2)
    return float((parts[:, 0] - parts[:, 1]).std() * len(labels) ** 0.5)


def layer_metrics(task: str, rows: Sequence[Row], split: str, n: int) -> dict[str, Any]:
    """The few figures about single layers that a pull request shows, from `layer_rows` of all splits."""
    of_split = [row for row in rows if row["split"] == split]
    at = {(row["metric"], row["layer"]): row["score"] for row in of_split}
    main_metric, num_layers = of_split[0]["metric"], max(row["layer"] for row in of_split)
    ramps = [at[main_metric, layer] for layer in range(1, num_layers)]
    return {
        "task": task,
        "n": n,
        "num_layers": num_layers,
        "full_score": round(at[main_metric, num_layers], 4),
        "full_accuracy": round(at["accuracy", num_layers], 4),
        "ramp_first_score": round(ramps[0], 4),
        "ramp_middle_score": round(at[main_metric, num_layers // 2], 4),
        "ramp_last_score": round(ramps[-1], 4),
        "ramp_best_score": round(max(ramps), 4),
        "ramp_best_layer": ramps.index(max(ramps)) + 1,
    }
