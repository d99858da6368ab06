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
DRAWS_AT_ONCE = 50  # bounds the memory
CONFIDENCE = 0.95


def _terms(scored: ScoredCurve) -> np.ndarray:
    """(T + 1, K, N): each sample's T terms of the score, then its exit layer.

    A resampled score is then a matrix product. All are whole numbers, so their sums are exact in float64 below 2^53.
    """
    curve = scored.curve
    return np.concatenate([score_terms(scored.labels, curve.predictions, scored.metric), curve.exit_layers[None]])


def _members(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, FOLDS) of 0 and 1: who is in which fold of a random division."""
    return np.eye(FOLDS)[stratified_folds(labels, FOLDS, rng)]


def _resampled(terms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap: sums (T + 1, K, DRAWS) of the terms over as many samples, drawn with replacement."""
    n = terms.shape[2]
    sums = []
    for _ in range(DRAWS // DRAWS_AT_ONCE):
        picks = rng.integers(n, size=(DRAWS_AT_ONCE, n)) + n * np.arange(DRAWS_AT_ONCE)[:, None]
        times = np.bincount(picks.ravel(), minlength=n * DRAWS_AT_ONCE).reshape(DRAWS_AT_ONCE, n)
        sums.append(terms @ times.T.astype(np.float64))
    return np.concatenate(sums, axis=2)


def _best(sums: np.ndarray, drop_points: float) -> np.ndarray:
    """Of sums (T + 1, K, D), the index (D,) of the setting that saves most within the drop: D times."""
    scores = score_of(sums[:-1])
    allowed = scores >= scores[0] - drop_points / 100 - 1e-9  # two equal scores may differ in their last bit
    return np.where(allowed, sums[-1], np.inf).argmin(axis=0)  # the first, so the safest, of equals


def _at(sums: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(T + 1, D) of sums (T + 1, K, D) or (T + 1, K, 1), taken at one chosen setting (D,) per column."""
    return np.broadcast_to(sums, (*sums.shape[:2], len(chosen)))[:, chosen, np.arange(len(chosen))]


def _figures(sums: np.ndarray, full: np.ndarray, curve: Curve) -> dict[str, np.ndarray]:
    """Saving, score and drop (points), from sums (T + 1, ...) of the terms over N samples and those of full depth."""
    score = score_of(sums[:-1])
    return {
        "layers_saved": layers_saved_frac(sums[-1] / curve.exit_layers.shape[1], curve.num_layers),
        "score": score,
        "drop": 100 * (score_of(full[:-1]) - score),
    }


def _ends(name: str, draws: np.ndarray) -> dict[str, float]:
    """The two ends of the middle 95 % of draws (D,), named; a share stays within [0, 1]."""
    low, high = np.quantile(draws if name == "drop" else draws.clip(0, 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def choice_rows(scored: ScoredCurve, targets: Iterable[float]) -> list[Row]:
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
    curve, labels = scored.curve, scored.labels
    rng = np.random.default_rng(scored.resampling_seed)
    terms = _terms(scored)
    total = terms.sum(axis=2)[:, :, None]  # (T + 1, K, 1)
    divisions = np.hstack([_members(labels, rng) for _ in range(DIVISIONS)])  # (N, DIVISIONS * FOLDS)
    judging = terms @ divisions  # (T + 1, K, DIVISIONS * FOLDS)
    resampled = _resampled(terms, rng)  # (T + 1, K, DRAWS)
    rows = []
    for target in targets:
        deployed = _best(total, target)  # (1,)
        seen = _figures(_at(total, deployed), total[:, 0], curve)
        by_fold = _at(judging, _best(total - judging, target))  # (T + 1, DIVISIONS * FOLDS)
        judged = _figures(by_fold.reshape(-1, DIVISIONS, FOLDS).sum(axis=2), total[:, 0], curve)  # (DIVISIONS,)
        rechosen = _best(resampled, target)  # (DRAWS,)
        world = _figures(_at(total, rechosen), total[:, 0], curve)
        looks = _figures(_at(resampled, rechosen), resampled[:, 0], curve)
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
                "n": len(labels),
            }
        )
    return rows


def band_rows(scored: ScoredCurve) -> list[Row]:
    """Each setting with 95 % bootstrap intervals of its saving, score and drop: the band around the curve.

    Percentile intervals, paired with full depth. Nothing is chosen here, and they hold for one setting at a time, not
    for all together. Keys as in `choice_rows`, less those about targets.
    """
    curve = scored.curve
    terms = _terms(scored)
    total = terms.sum(axis=2)  # (T + 1, K)
    resampled = _resampled(terms, np.random.default_rng(scored.resampling_seed))
    seen, draws = _figures(total, total[:, :1], curve), _figures(resampled, resampled[:, :1], curve)
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
            row |= _ends(name, draws[name][k])
        rows.append(row | {"n": len(scored.labels)})
    return rows
