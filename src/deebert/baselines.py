"""What a trade-off curve must be held against: leaving without looking, and leaving with the labels in sight.

All rows have the columns of `sweep.sweep_rows`. Shapes: N samples, L layers, C classes.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from deebert.criteria import ScoreSums, curve_row
from deebert.exits import entropy, exit_layers
from deebert.sweep import Row

PERMUTATIONS = 50


def fixed_layer_rows(split: str, logits: np.ndarray, labels: np.ndarray, main_metric: str) -> list[Row]:
    """Everybody leaves at layer k, one row for each k of 1..L; `threshold` is k."""
    n, num_layers, _ = logits.shape
    return [
        curve_row(split, ("fixed_layer", layer), logits, labels, torch.full((n,), layer), main_metric)
        for layer in range(1, num_layers + 1)
    ]


def random_exit_rows(
    split: str, logits: np.ndarray, labels: np.ndarray, thresholds: Iterable[float], main_metric: str, seed: int = 0
) -> list[Row]:
    """Entropy's exits at each threshold (nats), dealt out at random: as many leave at each layer, but any samples.

    With the same exits layer by layer, and not just the same mean depth, the two curves differ in one thing: whether
    entropy knows who is ready. (The mean alone would leave a choice of layers, hence of scores.) The accuracy is the
    exact mean over all ways to deal: the sum over layers of the share that leaves there times the accuracy of its
    head. F1 is no mean over samples and has no such form; it is averaged over 50 permutations drawn with `seed`.
    """
    n, num_layers, _ = logits.shape
    thresholds = list(thresholds)
    entropies = entropy(torch.from_numpy(logits))
    exits = np.array([_exits(exit_layers(entropies, threshold), num_layers) for threshold in thresholds])  # (K, L)
    layer_accuracies = ScoreSums.of(logits, labels, "accuracy").hits.mean(axis=0)
    accuracies = exits / n @ layer_accuracies  # (K,)
    scores = accuracies if main_metric == "accuracy" else _mean_score(exits, logits, labels, main_metric, seed)
    mean_layers = exits / n @ np.arange(1, num_layers + 1)
    return [
        {
            "split": split,
            "criterion": "random_exit",
            "threshold": threshold,
            "score": float(score),
            "accuracy": float(accuracy),
            "layers_saved_frac": float(1 - mean_layer / num_layers),
            "mean_exit_layer": float(mean_layer),
            "n": n,
        }
        for threshold, score, accuracy, mean_layer in zip(thresholds, scores, accuracies, mean_layers, strict=True)
    ]


def _exits(layers: Tensor, num_layers: int) -> np.ndarray:
    """How many of (N,) exit layers are 1..L, (L,)."""
    return torch.bincount(layers, minlength=num_layers + 1)[1:].numpy()


def _mean_score(exits: np.ndarray, logits: np.ndarray, labels: np.ndarray, metric: str, seed: int) -> np.ndarray:
    """Mean score (K,) over permutations of the samples, for K rows of `exits` (K, L).

    In a permutation the first samples leave at layer 1, the next at layer 2, and so on: running sums along it serve all
    K rows.
    """
    sums = ScoreSums.of(logits, labels, metric)
    ends = exits.cumsum(axis=1)  # (K, L)
    at = np.arange(exits.shape[1])
    rng = np.random.default_rng(seed)
    total = np.zeros(len(exits))
    for _ in range(PERMUTATIONS):
        order = rng.permutation(len(labels))
        added = []
        for part in (sums.hits, sums.claims):
            upto = np.vstack([np.zeros(exits.shape[1]), part[order].cumsum(axis=0)])  # (N + 1, L)
            added.append((upto[ends, at] - upto[ends - exits, at]).sum(axis=1))
        total += sums.score(*added)
    return total / PERMUTATIONS


def oracle_rows(split: str, logits: np.ndarray, labels: np.ndarray, main_metric: str) -> list[Row]:
    """The two ends of what any criterion could do with these heads; `threshold` is null, there is nothing to set.

    `oracle` knows the label and leaves at the first layer whose answer is right, at L if none is. `oracle_full_depth`
    knows the backbone's answer and leaves at the first layer that gives it: the most that can be saved without
    changing one answer, so its score is that of full depth.
    """
    predictions = torch.from_numpy(logits).argmax(dim=2)  # (N, L)
    truth = torch.from_numpy(labels)
    wanted = {"oracle": truth, "oracle_full_depth": predictions[:, -1]}
    return [
        curve_row(split, (name, None), logits, labels, _first_match(predictions, answer), main_metric)
        for name, answer in wanted.items()
    ]


def _first_match(predictions: Tensor, wanted: Tensor) -> Tensor:
    """First layer 1..L whose answer in (N, L) is the wanted one of (N,), L where none is."""
    matches = predictions == wanted[:, None]
    matches[:, -1] = True
    return matches.int().argmax(dim=1) + 1


def baseline_rows(
    split: str, logits: np.ndarray, labels: np.ndarray, thresholds: Iterable[float], main_metric: str, seed: int = 0
) -> list[Row]:
    """All of the above; `thresholds` (nats) are those of the entropy curve that random exits are compared with."""
    return [
        *fixed_layer_rows(split, logits, labels, main_metric),
        *random_exit_rows(split, logits, labels, thresholds, main_metric, seed),
        *oracle_rows(split, logits, labels, main_metric),
    ]
