"""Which setting to deploy, and what to expect of it on samples that had no part in choosing it.

The input describes any exit criterion on one split: a `ScoredCurve`. Points are percentage points of score.
Shapes: K settings of the curve, N samples, L layers, T terms of a sample's score (see `scores`).
"""

from collections.abc import Iterable

import numpy as np

from deebert.analysis.curves import Curve, ScoredCurve
from deebert.analysis.folds import stratified_folds
from deebert.base.rows import Row
from deebert.data.scores import score_of, score_terms
from deebert.exits.rule import layers_saved_frac

# Cross-fitted figures are right, in the mean, for a choice made on all folds but one: the more folds, the closer to the
# choice deployed. In simulations of 277 to 5,000 samples two halves overstated its drop, the smallest ones fivefold.
FOLDS = 10
# One division is a coin toss: on RTE's 277 samples the drop moved by 1.0 to 1.3 points (standard deviation) from seed
# to seed. The mean of 20 moved by 0.2 to 0.3, small beside what so few samples can tell.
DIVISIONS = 20
DRAWS = 1000
DRAWS_AT_ONCE, SAMPLES_AT_ONCE = 50, 200  # bound the memory
CONFIDENCE = 0.95


class Resampled:
    """A curve judged by parts of its samples and by samples drawn anew: the dear step, once for all rows.

    Attributes:
        scored: the curve.
        whole: sums (T + 1, K, 1) over all samples of each sample's T terms of the score and, last, its exit layer.
        folds: the same over each fold of all divisions, (T + 1, K, DIVISIONS * FOLDS).
        scores, exits: (K, DRAWS), bootstrap: the score of as many samples, drawn with replacement, and the sum of their
            exit layers.
    """

    def __init__(self, scored: ScoredCurve) -> None:
        labels, terms = scored.labels, _terms(scored)
        n, rng = len(labels), np.random.default_rng(scored.resampling_seed)
        divisions = np.hstack([np.eye(FOLDS)[stratified_folds(labels, FOLDS, rng)] for _ in range(DIVISIONS)])
        self.scored = scored
        self.whole, self.folds = _sums(terms, np.ones((n, 1))), _sums(terms, divisions)
        drawn = []
        for _ in range(DRAWS // DRAWS_AT_ONCE):
            picks = rng.integers(n, size=(DRAWS_AT_ONCE, n)) + n * np.arange(DRAWS_AT_ONCE)[:, None]
            times = np.bincount(picks.ravel(), minlength=n * DRAWS_AT_ONCE).reshape(DRAWS_AT_ONCE, n)
            drawn.append(_score_and_exits(_sums(terms, times.T.astype(np.float64))))
        self.scores, self.exits = (np.concatenate(each, axis=1) for each in zip(*drawn, strict=True))


# Of each of a score's T terms and of the exit layer: positions (n,) of the samples that have it, and it (K, n).
Terms = list[tuple[np.ndarray, np.ndarray]]


def _terms(scored: ScoredCurve) -> Terms:
    """Each sample's terms; a sample has a term if by any setting it is not 0.

    With many classes it has few: a class's terms are of the samples that are of it or are answered so.
    """
    curve, labels = scored.curve, scored.labels
    highest = max(labels.max(), curve.predictions.max())
    parts: list[Terms] = []
    for start in range(0, len(labels), SAMPLES_AT_ONCE):
        here = slice(start, start + SAMPLES_AT_ONCE)
        # A sample more, of the highest class, gives every part as many terms.
        answers = np.pad(curve.predictions[:, here], ((0, 0), (0, 1)), constant_values=highest)
        terms = score_terms(np.append(labels[here], highest), answers, scored.metric)[:, :, :-1]
        parts.append([])
        for each in (*terms, curve.exit_layers[:, here]):
            having = np.flatnonzero(each.any(axis=0))
            parts[-1].append((start + having, each[:, having].astype(np.float64)))
    of_each = (zip(*term, strict=True) for term in zip(*parts, strict=True))
    return [(np.concatenate(positions), np.hstack(values)) for positions, values in of_each]


def _sums(terms: Terms, weights: np.ndarray) -> np.ndarray:
    """Sums (T + 1, K, D) of the terms over samples that count (N, D) times.

    All are whole numbers, so they are exact in float64 below 2^53.
    """
    return np.stack([values @ weights[positions] for positions, values in terms])


def _score_and_exits(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and sum of the exit layers (...) from sums (T + 1, ...)."""
    return score_of(sums[:-1]), sums[-1]


def _best(scores: np.ndarray, exits: np.ndarray, drop_points: float) -> np.ndarray:
    """Of scores and sums of exit layers (K, D), the index (D,) of what saves most within the drop: D times."""
    allowed = scores >= scores[0] - drop_points / 100 - 1e-9  # two equal scores may differ in their last bit
    return np.where(allowed, exits, np.inf).argmin(axis=0)  # the first, so the safest, of equals


def _figures(score: np.ndarray, exits: np.ndarray, full: np.ndarray, curve: Curve) -> dict[str, np.ndarray]:
    """Saving, score and drop (points), from score and sum of exit layers (...) of N samples and full depth's score."""
    return {
        "layers_saved": layers_saved_frac(exits / curve.exit_layers.shape[1], curve.num_layers),
        "score": score,
        "drop": 100 * (full - score),
    }


def _ends(name: str, draws: np.ndarray) -> dict[str, float]:
    """The two ends of the middle 95 % of draws (D,), named; a share stays within [0, 1]."""
    low, high = np.quantile(draws if name == "drop" else draws.clip(0, 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def choice_rows(resampled: Resampled, targets: Iterable[float]) -> list[Row]:
    """Per target drop (points): the threshold to deploy, what it saves, and what to expect of its score on new samples.

    The threshold is chosen on all samples: of those within the target the one that saves most, of equals the safest.
    `in_sample_drop_points` is what it loses on them, which flatters it. `score` and `drop_points` are cross-fitted:
    each sample is judged once, by a setting chosen on the nine tenths of the samples that it is not in. Every label is
    spread alike over the folds, and the mean is taken over 20 such divisions. `layers_saved_frac` is the threshold's
    own on all samples, which choosing by score hardly flatters. The settings behind the cross-fitted score may save
    more or less: `cross_fitted_layers_saved_frac`.

    The intervals (95 %) are about the deployed threshold on new samples, the model being what it is. They cover both
    the luck of having chosen it and that of having judged it on so few. In each bootstrap draw the samples play the
    world, and a resample plays the samples. A setting is chosen on the resample. It looks better there than it is on
    the samples, and the difference says how much too good the real choice looks. So an interval is the figure seen on
    all samples minus the middle 95 % of these differences. Every draw compares with full depth on the same resample.
    There is no BCa correction: it wants a smooth figure, and a choice jumps.

    Simulated with 277 to 5,000 samples, the intervals held the deployed threshold's true score in 87 to 97 % of trials
    and its true drop in 82 to 100 %, but for two cases of 24. One was 68 %, where 277 samples had to tell half a point;
    it erred on the safe side. The other was 72 % at a true drop of 0.007 points: an interval knows no kind of error
    that was not seen. The bound that holds is in `certificates`. Another training run is not in the intervals: see
    `make seeds`.

    Returns:
        Rows with `split`, `target_drop_points`, `threshold`, `layers_saved_frac`, `score`, `drop_points`, for each of
        these three `_low` and `_high` (`layers_saved_low`, `score_low`, `drop_low`), the two named above, and `n`.

    Sources: Chernozhukov et al., The Econometrics Journal 21 (2018), section 3 (cross-fitting, repeated),
    https://arxiv.org/abs/1608.00060; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 17
    (optimism).
    """
    scored, scores, exits = resampled.scored, resampled.scores, resampled.exits
    curve, draws = scored.curve, np.arange(DRAWS)
    whole_scores, whole_exits = _score_and_exits(resampled.whole)  # (K, 1)
    others = _score_and_exits(resampled.whole - resampled.folds)  # (K, DIVISIONS * FOLDS)
    rows = []
    for target in targets:
        deployed = _best(whole_scores, whole_exits, target)  # (1,)
        seen = _figures(whole_scores[deployed, 0], whole_exits[deployed, 0], whole_scores[0], curve)
        by_fold = resampled.folds[:, _best(*others, target), np.arange(DIVISIONS * FOLDS)]  # (T + 1, DIVISIONS * FOLDS)
        divided = by_fold.reshape(-1, DIVISIONS, FOLDS).sum(axis=2)
        judged = _figures(*_score_and_exits(divided), whole_scores[0], curve)  # (DIVISIONS,)
        rechosen = _best(scores, exits, target)  # (DRAWS,)
        world = _figures(whole_scores[rechosen, 0], whole_exits[rechosen, 0], whole_scores[0], curve)
        looks = _figures(scores[rechosen, draws], exits[rechosen, draws], scores[0], curve)
        row = {
            "split": scored.split,
            "target_drop_points": target,
            "threshold": curve.settings[int(deployed[0])],
            "layers_saved_frac": float(seen["layers_saved"][0]),
            "score": float(judged["score"].mean()),
            "drop_points": float(judged["drop"].mean()),
        }
        for name in seen:
            row |= _ends(name, seen[name] - (looks[name] - world[name]))
        rows.append(
            row
            | {
                "in_sample_drop_points": float(seen["drop"][0]),
                "cross_fitted_layers_saved_frac": float(judged["layers_saved"].mean()),
                "n": len(scored.labels),
            }
        )
    return rows


def band_rows(resampled: Resampled) -> list[Row]:
    """Each setting with 95 % bootstrap intervals of its saving, score and drop: the band around the curve.

    Percentile intervals, paired with full depth, and moved by twice the bias. With many classes macro-F1 has one: the
    fewer samples of a class there are, the lower it is. It is lower on a resample than on the samples, and on these
    than it would be on all there are (of 77 classes and 400 samples, by 2 points each).

    Nothing is chosen here, and they hold for one setting at a time, not for all together. Keys as in `choice_rows`,
    less those about targets.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapters 10 (bias) and 13 (percentiles).
    """
    scored = resampled.scored
    curve = scored.curve
    scores, exits = _score_and_exits(resampled.whole[:, :, 0])
    seen = _figures(scores, exits, scores[0], curve)
    draws = _figures(resampled.scores, resampled.exits, resampled.scores[0], curve)
    rows = []
    for k, threshold in enumerate(curve.settings):
        row = {
            "split": scored.split,
            "threshold": threshold,
            "layers_saved_frac": float(seen["layers_saved"][k]),
            "score": float(seen["score"][k]),
            "drop_points": float(seen["drop"][k]),
        }
        for name in seen:
            row |= _ends(name, draws[name][k] + 2 * (seen[name][k] - draws[name][k].mean()))
        rows.append(row | {"n": len(scored.labels)})
    return rows
