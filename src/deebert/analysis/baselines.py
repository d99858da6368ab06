"""What a trade-off curve is compared with: exits that do not look at the sample, and exits that know the label.

Shapes: K settings, N samples, L layers. `predictions` are each head's answers, (N, L).
"""

import numpy as np
import torch

from deebert.analysis.curves import Curve, ScoredCurve, curve_at
from deebert.base.rows import Row
from deebert.data.scores import score_of, score_terms
from deebert.exits.rule import compute_saved_frac, first_exit, layers_saved_frac

PERMUTATIONS = 50


def fixed_layer_curve(predictions: np.ndarray) -> Curve:
    """Everybody leaves at layer k, for each k from L, full depth, to 1; the setting is k."""
    n, num_layers = predictions.shape
    settings = list(range(num_layers, 0, -1))
    exit_layers = np.tile(np.array(settings)[:, None], n)
    return curve_at("fixed_layer", settings, exit_layers, predictions, (exit_layers < num_layers).astype(int))


def oracle_curves(predictions: np.ndarray, labels: np.ndarray) -> list[Curve]:
    """The two ends of what any criterion could do with these heads, of one setting each; there is nothing to set.

    `oracle` knows the label and leaves at the first layer whose answer is right, at L if none is. `oracle_full_depth`
    knows the backbone's answer and leaves at the first layer that gives it: the most that can be saved without
    changing one answer, so its score is that of full depth.
    """
    wanted = {"oracle": labels, "oracle_full_depth": predictions[:, -1]}
    curves = []
    for name, answer in wanted.items():
        exit_layers = first_exit(torch.from_numpy(predictions == answer[:, None])).numpy()
        curves.append(curve_at(name, [None], exit_layers[None], predictions))
    return curves


def random_exit_rows(entropy: ScoredCurve, predictions: np.ndarray, ramp_cost_layers: float) -> list[Row]:
    """Entropy's exits at each threshold (nats), dealt out at random: as many leave at each layer, but any samples.

    With the same exits layer by layer, and not just the same mean depth, the two curves differ in one thing: whether
    entropy knows who is ready. (The mean alone would leave a choice of layers, hence of scores.) The accuracy is the
    exact mean over all ways to deal: the sum over layers of the share that leaves there times the accuracy of its
    head. Other scores are no mean over samples and have no such form. They are averaged over 50 permutations.
    A ramp costs so many layers, and is run for those alone who leave there: nobody asks it who is ready.
    Columns are those of `Curve.rows`.
    """
    n, num_layers = predictions.shape
    curve = entropy.curve
    exits = np.stack([np.bincount(each, minlength=num_layers + 1)[1:] for each in curve.exit_layers])  # (K, L)
    accuracies = exits / n @ (predictions == entropy.labels[:, None]).mean(axis=0)  # (K,)
    scores = accuracies if entropy.metric == "accuracy" else _mean_score(exits, predictions, entropy)
    mean_layers = exits / n @ np.arange(1, num_layers + 1)
    return [
        {
            "split": entropy.split,
            "criterion": "random_exit",
            "threshold": threshold,
            "score": float(score),
            "accuracy": float(accuracy),
            "layers_saved_frac": float(layers_saved_frac(mean_layer, num_layers)),
            "compute_saved_frac": float(compute_saved_frac(mean_layer, early, ramp_cost_layers, num_layers)),
            "mean_exit_layer": float(mean_layer),
            "n": n,
        }
        for threshold, score, accuracy, mean_layer, early in zip(
            curve.settings, scores, accuracies, mean_layers, exits[:, :-1].sum(axis=1) / n, strict=True
        )
    ]


def _mean_score(exits: np.ndarray, predictions: np.ndarray, scored: ScoredCurve) -> np.ndarray:
    """Mean score (K,) over permutations of the samples, for K rows of `exits` (K, L).

    In a permutation the first samples leave at layer 1, the next at layer 2, and so on: running sums along it serve all
    K rows.
    """
    n, num_layers = predictions.shape
    terms = score_terms(scored.labels[:, None], predictions, scored.metric)  # (T, N, L)
    ends = exits.cumsum(axis=1)  # (K, L)
    at = np.arange(num_layers)
    rng = np.random.default_rng(scored.resampling_seed)
    total = np.zeros(len(exits))
    for _ in range(PERMUTATIONS):
        order = rng.permutation(n)
        sums = []
        for term in terms:
            upto = np.vstack([np.zeros(num_layers), term[order].cumsum(axis=0)])  # (N + 1, L)
            sums.append((upto[ends, at] - upto[ends - exits, at]).sum(axis=1))
        total += score_of(np.stack(sums))
    return total / PERMUTATIONS
