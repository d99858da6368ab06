"""Thresholds ramp by ramp: what a criterion with L-1 numbers to choose finds, and what it keeps of that on new samples.

Shapes: N samples, L layers, C classes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deebert.data.scores import score_of, score_terms
from deebert.exits.criteria import LayerThresholds
from deebert.exits.rule import entropy, layers_saved_frac

DROPS_POINTS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)
PRICES = tuple(float(price) for price in np.geomspace(0.002, 5.0, 40))  # score that saving every layer would be worth


@dataclass(frozen=True)
class _Outcome:
    """What thresholds, given as (L-1,) positions `levels` in a rising list of K, lead to on the fitted samples."""

    leaves_from: np.ndarray  # (N, L-1), the lowest level at which each ramp lets the sample go; K: none
    adds: np.ndarray  # (N, L, T + 1), what leaving at a layer adds to the sums of the score's T terms and of layers
    num_levels: int

    def value(self, totals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Score and saving of (..., T + 1) totals of `adds`."""
        n, num_layers, _ = self.adds.shape
        return score_of(np.moveaxis(totals[..., :-1], -1, 0)), layers_saved_frac(totals[..., -1] / n, num_layers)

    def of(self, levels: np.ndarray) -> tuple[float, float]:
        leaves = np.column_stack([self.leaves_from <= levels, np.ones(len(self.adds), dtype=bool)])
        score, saved = self.value(self.adds[np.arange(len(self.adds)), leaves.argmax(axis=1)].sum(axis=0))
        return float(score), float(saved)

    def ascend(self, start: tuple[int, ...], worth: Callable) -> dict[tuple[int, ...], tuple[float, float]]:
        """Raise `worth(score, saved)` one ramp at a time until none can: every state passed, the best one last.

        For a ramp, all its levels are tried at once: who is still there is counted by the level that lets it go.
        """
        n, num_layers, num_sums = self.adds.shape
        levels, moved = np.array(start), True
        passed = {start: self.of(levels)}
        while moved:
            moved = False
            staying = [self.adds[:, -1]]  # what each sample adds if it stays at ramp L-1, L-2, .. 1
            for i in range(num_layers - 2, 0, -1):
                goes = (self.leaves_from[:, i] <= levels[i])[:, None]
                staying.append(np.where(goes, self.adds[:, i], staying[-1]))
            here, left = np.arange(n), np.zeros(num_sums)
            for i, stays in zip(range(num_layers - 1), reversed(staying), strict=False):
                change = self.adds[here, i] - stays[here]
                counted = [np.bincount(self.leaves_from[here, i], c, self.num_levels + 1)[:-1] for c in change.T]
                score, saved = self.value(left + stays[here].sum(axis=0) + np.cumsum(counted, axis=1).T)  # (K,)
                worths = worth(score, saved)
                best = int(worths.argmax())
                if worths[best] > worths[levels[i]] + 1e-12:
                    levels[i], moved = best, True
                    passed[tuple(levels.tolist())] = float(score[best]), float(saved[best])
                goes = self.leaves_from[here, i] <= levels[i]
                left = left + self.adds[here[goes], i].sum(axis=0)
                here = here[~goes]
        return passed


def levels_that_let_go(logits: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """The lowest position among K rising `thresholds` (nats) at which each ramp lets a sample go, (N, L-1); K: none."""
    entropies = entropy(torch.from_numpy(logits))[:, :-1].contiguous()
    # In float32, as the rule compares; right: a threshold equal to the entropy lets nobody go.
    return torch.searchsorted(torch.tensor(thresholds), entropies, right=True).numpy()


def fit_layer_thresholds(
    logits: np.ndarray,
    labels: np.ndarray,
    main_metric: str,
    thresholds: Iterable[float],
    drops_points: Sequence[float] = DROPS_POINTS,
) -> list[LayerThresholds]:
    """For each allowed drop of score, thresholds ramp by ramp that save as much as the search finds.

    Coordinate ascent over the given `thresholds` (nats), in two rounds. The first round maximises score + price ×
    saving, for rising prices. Each price starts from the better of two: the answer of the last price, and the best
    single threshold for all ramps. The second round maximises the saving alone, for each drop, under a floor of the
    score. It starts from the state that saves most above this floor, among all states seen so far; every single
    threshold is one of them. So on these samples it saves at least what the best single threshold of the list does; on
    others, where L-1 fitted numbers pay for their freedom, it need not. Deterministic.

    Args:
        logits: (N, L, C), with (N,) labels: the samples to fit.
        main_metric: name in `scores.METRICS`.
        drops_points: percentage points, against the score of full depth on these samples.
    """
    levels_nats = sorted({0.0, *thresholds})
    terms = score_terms(labels[:, None], logits.argmax(axis=2), main_metric)  # (T, N, L)
    depth = np.broadcast_to(np.arange(1.0, logits.shape[1] + 1), terms.shape[1:])
    outcome = _Outcome(levels_that_let_go(logits, levels_nats), np.stack([*terms, depth], axis=2), len(levels_nats))

    ramps = logits.shape[1] - 1
    singles = {(level,) * ramps: outcome.of(np.full(ramps, level)) for level in range(len(levels_nats))}
    passed = dict(singles)
    full_depth = last = (0,) * ramps

    def climb(starts: Iterable[tuple[int, ...]], worth: Callable) -> tuple[int, ...]:
        walk = outcome.ascend(max(starts, key=lambda levels: worth(*passed[levels])), worth)
        passed.update(walk)
        return list(walk)[-1]

    for price in PRICES:
        last = climb((last, *singles), lambda score, saved, price=price: score + price * saved)
    fitted = []
    for drop in drops_points:
        floor = passed[full_depth][0] - drop / 100 - 1e-9  # two equal scores may differ in their last bit
        best = climb(passed, lambda score, saved, floor=floor: np.where(score >= floor, saved, -1.0))
        fitted.append(LayerThresholds(tuple(levels_nats[level] for level in best), drop))
    return fitted
