"""How good every head is by itself: score per layer, as rows and as the few figures of a pull request.

Shapes: N samples, L layers, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deebert.base.rows import Row
from deebert.data.scores import METRICS

FAR_AHEAD = 0.05  # of accuracy


def layer_rows(split: str, logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> list[Row]:
    """Score of every head on (N, L, C) logits: one row per metric (main metric first) and layer 1..L."""
    predictions = logits.argmax(axis=2)  # (N, L)
    return [
        {"split": split, "layer": i + 1, "metric": metric, "score": METRICS[metric](labels, predictions[:, i])}
        for metric in metrics
        for i in range(logits.shape[1])
    ]


def ramp_ahead(logits: np.ndarray, labels: np.ndarray) -> tuple[int, float, float] | None:
    """The layer whose ramp is right most often, its accuracy (%), and full depth's; None unless it is ahead by far.

    By far is by `FAR_AHEAD` and by three standard errors of the difference. Then full depth is no measure for what an
    exit loses: thresholds that lose nothing against it may be bad ones.
    """
    right = logits.argmax(axis=2) == labels[:, None]  # (N, L)
    accuracies = right.mean(axis=0)
    best = int(accuracies[:-1].argmax())
    difference = right[:, best].astype(float) - right[:, -1]
    error = difference.std() / len(labels) ** 0.5
    if difference.mean() < FAR_AHEAD or difference.mean() < 3 * error:
        return None
    return best + 1, 100 * float(accuracies[best]), 100 * float(accuracies[-1])


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
