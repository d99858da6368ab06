"""Which ramps are worth what they cost: for each loss that is allowed, a threshold and the ramps that have it.

A ramp costs time for every sample that comes to it. It pays if enough of them leave there, and with the right answer: a
ramp that is sure of wrong ones keeps the threshold of all the others low. A ramp that is dropped has the threshold 0,
by which the live engine does not run it.

Shapes: N samples, L layers, C classes, K thresholds, T terms of a score, G drops that are allowed. All divisions of the
samples are judged side by side, so that each sample stands there M / N times; F counts the folds of all of them.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np

from deebert.analysis.choice import DIVISIONS, FOLDS
from deebert.analysis.curves import ScoredCurve
from deebert.analysis.folds import stratified_folds
from deebert.analysis.layer_thresholds import levels_that_let_go
from deebert.base.rows import Row
from deebert.data.scores import score_of, score_terms
from deebert.exits.rule import compute_saved_frac, layers_saved_frac

MAX_JUDGED = 20_000  # times T / 2: of many samples a few divisions tell as much

Ramps = tuple[int, ...]  # layers, rising


def kept_rows(
    scored: ScoredCurve, logits: np.ndarray, drops_points: Iterable[float], ramp_cost_layers: float
) -> list[Row]:
    """Per drop (points): the ramps to keep and their threshold, what they save, and what to expect of their score.

    Backward elimination: from all ramps on, the one is dropped without which most compute is saved within the drop,
    each time with the threshold that is then the best, until dropping any saves less. Deterministic. Cross-fitted
    figures are of samples that had no part: for each fold, all of this is done on the other folds.

    Args:
        scored: entropy's curve, whose thresholds are tried.
        logits: (N, L, C), of the same samples.
        ramp_cost_layers: of running a ramp for one sample, in layers.

    Returns:
        Rows with `kept_thresholds` (nats, of ramps 1..L-1, 0 where a ramp is dropped), `kept_layers_saved_frac` and
        `kept_compute_saved_frac`; and cross-fitted `kept_score`, `kept_drop_points` and
        `kept_cross_fitted_compute_saved_frac`, means of `kept_divisions` divisions into folds. What all ramps at one
        threshold, the highest within the drop, save on the same divisions is `cross_fitted_compute_saved_frac`.
    """
    exits = _Exits(scored, logits, ramp_cost_layers)
    return [_row(exits, _eliminate(exits, drop / 100), drop / 100) for drop in drops_points]


class _Exits:
    """What ramps and a threshold lead to, in each fold and in all the others."""

    def __init__(self, scored: ScoredCurve, logits: np.ndarray, ramp_cost_layers: float) -> None:
        self.thresholds, self.ramp_cost_layers = scored.curve.settings, ramp_cost_layers
        self.count, self.num_layers = logits.shape[:2]
        terms = score_terms(scored.labels[:, None], logits.argmax(axis=2), scored.metric)  # (T, N, L)
        self.divisions = int(np.clip(2 * MAX_JUDGED // (self.count * len(terms)), 1, DIVISIONS))
        rng = np.random.default_rng(scored.resampling_seed)
        folds = [stratified_folds(scored.labels, FOLDS, rng) + FOLDS * i for i in range(self.divisions)]
        self._fold = np.concatenate(folds)  # (M,)
        leaves_from = levels_that_let_go(logits, self.thresholds)
        full_depth = np.zeros((self.count, 1), dtype=np.int64)  # lets everybody go
        self._leaves_from = np.tile(np.hstack([leaves_from, full_depth]), (self.divisions, 1))  # (M, L)
        layers = np.broadcast_to(np.arange(1.0, self.num_layers + 1), terms.shape[1:])
        self._adds = np.tile(np.stack([*terms, layers]), (1, self.divisions, 1))  # (T + 1, M, L)
        self._best: dict[tuple[Ramps, float], tuple[np.ndarray, np.ndarray]] = {}

    @property
    def num_folds(self) -> int:
        return FOLDS * self.divisions

    @property
    def all_ramps(self) -> Ramps:
        return tuple(range(1, self.num_layers))

    @cached_property
    def sizes(self) -> np.ndarray:
        """Samples (F,) of each fold."""
        return np.bincount(self._fold, minlength=self.num_folds)

    def sums(self, ramps: Ramps) -> np.ndarray:
        """Sums (T + 2, K, F) over each fold's samples: the score's terms, exit layers, and ramps that were run."""
        never, folds = len(self.thresholds), self.num_folds
        changes = np.zeros((len(self._adds) + 1, (never + 1) * folds))  # from threshold to threshold
        before = np.full(len(self._fold), never)  # from this threshold on a sample has left before
        for run, layer in enumerate((*ramps, self.num_layers), start=1):
            here = self._leaves_from[:, layer - 1]
            leave = np.flatnonzero(here < before)
            starts, ends = (each[leave] * folds + self._fold[leave] for each in (here, before))
            added = [*self._adds[:, leave, layer - 1], np.full(len(leave), float(min(run, len(ramps))))]
            for change, each in zip(changes, added, strict=True):
                change += np.bincount(starts, each, len(change)) - np.bincount(ends, each, len(change))
            before = np.minimum(before, here)
        sums = changes.reshape(len(changes), never + 1, folds).cumsum(axis=1)[:, :never]
        sums[-1, 0] = 0  # at a threshold of 0 no ramp is run
        return sums

    def shares(self, sums: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Score, layers saved and compute saved, from sums (T + 2, ...) over so many samples."""
        exits, runs = sums[-2:] / np.maximum(sizes, 1)
        saved = layers_saved_frac(exits, self.num_layers)
        compute = compute_saved_frac(exits, runs, self.ramp_cost_layers, self.num_layers)
        return score_of(sums[:-2]), saved, compute

    def best(self, ramps: Ramps, drop: float) -> tuple[np.ndarray, np.ndarray]:
        """The most compute saved within the drop, and the position of its threshold: (F + 1,) each.

        It is that on all folds but f, for each f, and then on all of them. Of equals it is the lowest threshold.
        """
        if (ramps, drop) not in self._best:
            allowed, compute = self._within(ramps, drop)
            saved = np.where(allowed, compute, -np.inf)
            levels = saved.argmax(axis=0)
            self._best[ramps, drop] = saved[levels, np.arange(len(levels))], levels
        return self._best[ramps, drop]

    def boldest(self, drop: float) -> np.ndarray:
        """The position of the highest threshold of all ramps within the drop, as it is recommended: (F + 1,)."""
        allowed, _ = self._within(self.all_ramps, drop)
        return len(allowed) - 1 - allowed[::-1].argmax(axis=0)

    def _within(self, ramps: Ramps, drop: float) -> tuple[np.ndarray, np.ndarray]:
        """Which thresholds lose no more than the drop, and the compute that each saves: (K, F + 1) each.

        On all folds but f, for each f, and then on all of them.
        """
        sums = self.sums(ramps)
        whole = sums[..., :FOLDS].sum(axis=-1, keepdims=True)
        sums = np.concatenate([whole - sums, whole], axis=-1)  # (T + 2, K, F + 1)
        score, _, compute = self.shares(sums, np.append(self.count - self.sizes, self.count))
        return score >= score[0] - drop - 1e-9, compute  # two equal scores may differ in their last bit


def _eliminate(exits: _Exits, drop: float) -> list[Ramps]:
    """The ramps to keep, chosen on all folds but f, for each f, and on all of them; F + 1 of them."""
    kept = [exits.all_ramps] * (exits.num_folds + 1)
    undecided = set(range(len(kept)))
    while undecided:
        for i in sorted(undecided):
            ramps = kept[i]
            fewer = [tuple(each for each in ramps if each != layer) for layer in ramps]
            saved = [exits.best(each, drop)[0][i] for each in fewer]
            if saved and max(saved) > exits.best(ramps, drop)[0][i] + 1e-12:
                kept[i] = fewer[int(np.argmax(saved))]
            else:
                undecided.remove(i)
    return kept


def _cross_fitted(exits: _Exits, kept: Sequence[Ramps], levels: Sequence[int]) -> tuple[float, float]:
    """Score and compute saved where each fold leaves by the ramps kept for it, at the threshold chosen on the others.

    Means over the divisions. `kept` and `levels`, the positions of the thresholds, are of F folds or more.
    """
    judged = {ramps: exits.sums(ramps) for ramps in set(kept)}
    folds = np.stack([judged[kept[f]][:, levels[f], f] for f in range(exits.num_folds)], axis=-1)  # (T + 2, F)
    score, _, compute = exits.shares(folds.reshape(len(folds), exits.divisions, FOLDS).sum(axis=2), exits.count)
    return float(score.mean()), float(compute.mean())


def _row(exits: _Exits, kept: Sequence[Ramps], drop: float) -> Row:
    levels = [exits.best(ramps, drop)[1][f] for f, ramps in enumerate(kept)]
    level = levels[-1]
    whole = exits.sums(kept[-1])[..., :FOLDS].sum(axis=-1)  # (T + 2, K)
    scores, layers, compute = exits.shares(whole, exits.count)
    score, expected = _cross_fitted(exits, kept, levels)
    _, expected_of_all = _cross_fitted(exits, [exits.all_ramps] * len(kept), exits.boldest(drop))
    threshold = exits.thresholds[level]
    return {
        "cross_fitted_compute_saved_frac": expected_of_all,
        "kept_thresholds": [threshold if layer in kept[-1] else 0.0 for layer in range(1, exits.num_layers)],
        "kept_layers_saved_frac": float(layers[level]),
        "kept_compute_saved_frac": float(compute[level]),
        "kept_score": score,
        "kept_drop_points": float(100 * (scores[0] - score)),
        "kept_cross_fitted_compute_saved_frac": expected,
        "kept_divisions": exits.divisions,
    }
