"""From every head's logits to rows: score per layer, the trade-off over thresholds, who leaves where.

Pure functions of arrays; nothing here runs a model. Shapes: N samples, L layers, C classes.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from deebert.exits import answers, entropy, exit_layers, layers_saved_frac
from deebert.scores import METRICS

Row = dict[str, Any]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def threshold_grid(num_labels: int, points: int) -> list[float]:
    """At most `points` thresholds in nats from near 0 to just above ln C, rising; they do not depend on the data.

    Entropies crowd together at 0, so the grid is even not in nats but in how far the top class leads: each point is the
    entropy of a softmax whose top logit is ahead of all the others by some lead, and the leads are evenly spaced. The
    points are rounded up to 4 digits, few enough to copy from a table without changing who leaves, and points that
    then coincide count once. Above ln C everybody leaves at layer 1: the curve's other end.
    """
    leads = torch.linspace(12.0, 0.0, points, dtype=torch.float64)  # a lead of 12 is an entropy of 8e-5 for C = 2
    top = torch.stack([leads, *[torch.zeros_like(leads)] * (num_labels - 1)], dim=1).log_softmax(dim=1)
    return sorted({math.ceil(value * 1e4) / 1e4 for value in (-(top.exp() * top).sum(dim=1)).tolist()})


def layer_rows(split: str, logits: np.ndarray, labels: np.ndarray, metrics: Sequence[str]) -> list[Row]:
    """Score of every head on (N, L, C) logits: one row per metric (main metric first) and layer 1..L."""
    predictions = logits.argmax(axis=2)  # (N, L)
    return [
        {"split": split, "layer": i + 1, "metric": metric, "score": METRICS[metric](labels, predictions[:, i])}
        for metric in metrics
        for i in range(logits.shape[1])
    ]


def sweep_rows(
    split: str, logits: np.ndarray, labels: np.ndarray, thresholds: Iterable[float], main_metric: str
) -> list[Row]:
    """The trade-off: what each threshold (nats) keeps of the score and saves of the layers; one row per threshold."""
    heads = torch.from_numpy(logits)
    entropies = entropy(heads)  # (N, L)
    rows = []
    for threshold in thresholds:
        layers = exit_layers(entropies, threshold)
        predictions = answers(heads, layers).numpy()
        rows.append(
            {
                "split": split,
                "criterion": "entropy",
                "threshold": threshold,
                "score": METRICS[main_metric](labels, predictions),
                "accuracy": METRICS["accuracy"](labels, predictions),
                "layers_saved_frac": layers_saved_frac(layers, heads.shape[1]),
                "mean_exit_layer": layers.double().mean().item(),
                "n": len(labels),
            }
        )
    return rows


def exit_rows(split: str, logits: np.ndarray, thresholds: Iterable[float]) -> list[Row]:
    """How many samples leave at each layer 1..L, for each threshold (nats)."""
    entropies = entropy(torch.from_numpy(logits))
    rows = []
    for threshold in thresholds:
        counts = torch.bincount(exit_layers(entropies, threshold), minlength=logits.shape[1] + 1)[1:]
        rows += [
            {"split": split, "threshold": threshold, "layer": i + 1, "exits": count}
            for i, count in enumerate(counts.tolist())
        ]
    return rows


def entropy_rows(split: str, logits: np.ndarray, labels: np.ndarray, difficulty: np.ndarray | None) -> list[Row]:
    """Quantiles of each head's entropy (nats), for its right and its wrong answers and for each grade of difficulty."""
    entropies = entropy(torch.from_numpy(logits)).numpy()  # (N, L)
    rows = []
    for i in range(logits.shape[1]):
        correct = logits[:, i].argmax(axis=1) == labels
        groups = {"correct": correct, "wrong": ~correct}
        if difficulty is not None:
            groups |= {f"difficulty {grade}": difficulty == grade for grade in np.unique(difficulty)}
        for group, members in groups.items():
            if not members.any():
                continue
            quantiles = np.quantile(entropies[members, i], QUANTILES)
            named = {f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
            rows.append({"split": split, "layer": i + 1, "group": group, **named, "n": int(members.sum())})
    return rows


def depth_rows(split: str, logits: np.ndarray, difficulty: np.ndarray | None, thresholds: Iterable[float]) -> list[Row]:
    """Mean exit layer of each grade of difficulty, for each threshold (nats); none where the data has no grades."""
    if difficulty is None:
        return []
    entropies = entropy(torch.from_numpy(logits))
    rows = []
    for threshold in thresholds:
        layers = exit_layers(entropies, threshold).numpy()
        for grade in np.unique(difficulty):
            members = layers[difficulty == grade]
            rows.append(
                {
                    "split": split,
                    "threshold": threshold,
                    "difficulty": int(grade),
                    "mean_exit_layer": float(members.mean()),
                    "n": len(members),
                }
            )
    return rows


def best_within(rows: Sequence[Row], drop_points: float) -> Row:
    """Of one split's sweep rows, the one that saves most while losing at most `drop_points` (of 100) of the score.

    Full depth is the row of threshold 0, which must be there. The choice and the score come from the same samples,
    so the drop to expect on new ones is larger.
    """
    full = next(row for row in rows if row["threshold"] == 0.0)
    floor = full["score"] - drop_points / 100 - 1e-9  # two equal scores may differ in their last bit
    return max((row for row in rows if row["score"] >= floor), key=lambda row: row["layers_saved_frac"])


def drop_key(drop_points: float) -> str:
    """Name of a target in the metrics, free of dots since DVC reads those as nesting: 0.5 -> `drop_0_5`."""
    return f"drop_{float(drop_points)}".replace(".", "_")


def layer_metrics(task: str, rows: Sequence[Row], split: str, n: int) -> dict[str, Any]:
    """The few figures about single layers that a pull request shows, from `layer_rows` of all splits."""
    of_split = [row for row in rows if row["split"] == split]
    scores = [row["score"] for row in of_split if row["metric"] == of_split[0]["metric"]]  # main metric, layer 1..L
    accuracies = [row["score"] for row in of_split if row["metric"] == "accuracy"]
    ramps = scores[:-1]
    return {
        "task": task,
        "n": n,
        "num_layers": len(scores),
        "full_score": round(scores[-1], 4),
        "full_accuracy": round(accuracies[-1], 4),
        "ramp_first_score": round(ramps[0], 4),
        "ramp_middle_score": round(scores[len(scores) // 2 - 1], 4),
        "ramp_last_score": round(ramps[-1], 4),
        "ramp_best_score": round(max(ramps), 4),
        "ramp_best_layer": ramps.index(max(ramps)) + 1,
    }


def sweep_metrics(task: str, rows: Sequence[Row], targets: Iterable[float]) -> dict[str, Any]:
    """Per target drop (points), the most layers saved and the threshold (nats) that does it; `rows` of one split."""
    best = {drop_key(target): best_within(rows, target) for target in targets}
    return {
        "task": task,
        "n": rows[0]["n"],
        "full_score": round(rows[0]["score"], 4),
        "layers_saved_at": {key: round(row["layers_saved_frac"], 4) for key, row in best.items()},
        "threshold_at": {key: row["threshold"] for key, row in best.items()},
    }
