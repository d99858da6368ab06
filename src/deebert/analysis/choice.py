"""Which operating point to deploy, and what to expect of it on samples that had no part in choosing it.

The inputs describe any exit criterion on one split: a `Curve`, whose first setting must be full depth (nobody leaves),
and the labels (N,). Shapes: K operating points, which are the curve's settings; N samples; L layers.
"""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from deebert.analysis.curves import Curve
from deebert.analysis.folds import stratified_parts
from deebert.base.rows import Row
from deebert.data.scores import score_of, score_terms
from deebert.exits.rule import layers_saved_frac

# Cross-fitted figures are right, in the mean, for a choice made on all parts but one: the more parts, the closer to the
# choice deployed. In simulations of 277 to 5,000 samples two halves overstated its drop, the smallest ones fivefold.
PARTS = 10
# One division is a coin toss: on RTE's 277 samples the drop moved by 1.0 to 1.3 points (standard deviation) from seed
# to seed. The mean of 20 moved by 0.2 to 0.3, small beside what so few samples can tell.
DIVISIONS = 20
DRAWS = 1000
DRAWS_AT_ONCE = 50  # bounds the memory
CONFIDENCE = 0.95


def _terms(curve: Curve, labels: np.ndarray, metric: str) -> np.ndarray:
    """(T + 1, K, N): each sample's T terms of the score, then its exit layer.

    A resampled score is then a matrix product. All are whole numbers, so their sums are exact in float64 below 2^53.
    """
    return np.concatenate([score_terms(labels, curve.predictions, metric), curve.layers[None]])


def _members(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(N, PARTS) of 0 and 1: who is in which part of a random division."""
    return np.eye(PARTS)[stratified_parts(labels, PARTS, rng)]


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
    """Of sums (T + 1, K, D), the index (D,) of the point that saves most within the drop: D times."""
    scores = score_of(sums[:-1])
    allowed = scores >= scores[0] - drop_points / 100 - 1e-9  # two equal scores may differ in their last bit
    return np.where(allowed, sums[-1], np.inf).argmin(axis=0)  # the first, so the safest, of equals


def _at(sums: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(T + 1, D) of sums (T + 1, K, D) or (T + 1, K, 1), taken at one point (D,) per column."""
    return np.broadcast_to(sums, (*sums.shape[:2], len(points)))[:, points, np.arange(len(points))]


def _figures(sums: np.ndarray, full: np.ndarray, curve: Curve) -> dict[str, np.ndarray]:
    """Saving, score and drop (points), from sums (T + 1, ...) of the terms over N samples and those of full depth."""
    score = score_of(sums[:-1])
    return {
        "layers_saved": layers_saved_frac(sums[-1] / curve.layers.shape[1], curve.num_layers),
        "score": score,
        "drop": 100 * (score_of(full[:-1]) - score),
    }


def _ends(name: str, draws: np.ndarray) -> dict[str, float]:
    """The two ends of the middle 95 % of draws (D,), named; a share stays within [0, 1]."""
    low, high = np.quantile(draws if name == "drop" else draws.clip(0, 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def choice_rows(
    split: str, curve: Curve, labels: np.ndarray, metric: str, targets: Iterable[float], seed: int
) -> list[Row]:
    """Per target drop (points): the threshold to deploy, what it saves, and what to expect of its score on new samples.

    The threshold is chosen on all samples: of those within the target the one that saves most, of equals the safest.
    `in_sample_drop_points` is what it loses on them, which flatters it. `score` and `drop_points` are cross-fitted:
    each sample is judged once, by a point chosen on the nine tenths of the samples that it is not in (each label spread
    alike), and the mean is taken over 20 such divisions. `layers_saved_frac` is the threshold's own on all samples,
    which choosing by score hardly flatters; the points that made the cross-fitted score may save more or less,
    `cross_fitted_layers_saved_frac`.

    The intervals (95 %) are about the deployed threshold on new samples, the model being what it is. They cover both
    the luck of having chosen it and that of having judged it on so few. In each bootstrap draw the samples stand for
    the world and a resample for the samples: a point is chosen on the resample, and how much better it looks there
    than it is in that world tells how far to trust what was seen. So an interval is the figure seen on all samples
    less the middle of those optimisms; full depth takes part in every draw (paired). No BCa: its correction wants a
    smooth figure, and a choice jumps. Simulated with 277 to 5,000 samples they held the deployed threshold's true score
    in 87 to 97 % of trials and its true drop in 82 to 100 %, but for two cases of 24: 68 % where 277 samples had to
    tell half a point (wrong on the safe side), 72 % at a true drop of 0.007 points, since they know no kind of error
    that was not seen. The bound that holds is in `risk`. Another training run is not in them: see `over_seeds`.

    Returns:
        Rows with `split`, `target_drop_points`, `threshold`, `layers_saved_frac`, `score`, `drop_points`, for each of
        these three `_low` and `_high` (`layers_saved_low`, `score_low`, `drop_low`), the two named above, and `n`.

    Sources: Chernozhukov et al., The Econometrics Journal 21 (2018), section 3 (cross-fitting, repeated),
    https://arxiv.org/abs/1608.00060; Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 17
    (optimism).
    """
    rng = np.random.default_rng(seed)
    terms = _terms(curve, labels, metric)
    total = terms.sum(axis=2)[:, :, None]  # (T + 1, K, 1)
    divisions = np.hstack([_members(labels, rng) for _ in range(DIVISIONS)])  # (N, DIVISIONS * PARTS)
    judging = terms @ divisions  # (T + 1, K, DIVISIONS * PARTS)
    resampled = _resampled(terms, rng)  # (T + 1, K, DRAWS)
    rows = []
    for target in targets:
        deployed = _best(total, target)  # (1,)
        seen = _figures(_at(total, deployed), total[:, 0], curve)
        by_part = _at(judging, _best(total - judging, target))  # (T + 1, DIVISIONS * PARTS)
        judged = _figures(by_part.reshape(-1, DIVISIONS, PARTS).sum(axis=2), total[:, 0], curve)  # (DIVISIONS,)
        rechosen = _best(resampled, target)  # (DRAWS,)
        world = _figures(_at(total, rechosen), total[:, 0], curve)
        looks = _figures(_at(resampled, rechosen), resampled[:, 0], curve)
        row = {
            "split": split,
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


def band_rows(split: str, curve: Curve, labels: np.ndarray, metric: str, seed: int) -> list[Row]:
    """Each operating point with 95 % bootstrap intervals of its saving, score and drop: the band around the curve.

    Percentile intervals, paired with full depth. Nothing is chosen here, and they hold for one point at a time, not for
    all together. Keys as in `choice_rows`, less those about targets.
    """
    terms = _terms(curve, labels, metric)
    total = terms.sum(axis=2)  # (T + 1, K)
    resampled = _resampled(terms, np.random.default_rng(seed))
    seen, draws = _figures(total, total[:, :1], curve), _figures(resampled, resampled[:, :1], curve)
    rows = []
    for k, threshold in enumerate(curve.settings):
        row = {
            "split": split,
            "threshold": threshold,
            "layers_saved_frac": float(seen["layers_saved"][k]),
            "score": float(seen["score"][k]),
            "drop_points": float(seen["drop"][k]),
        }
        for name in seen:
            row |= _ends(name, draws[name][k])
        rows.append(row | {"n": len(labels)})
    return rows


def over_seeds(rows: Iterable[Row], by: Sequence[str], values: Sequence[str]) -> list[Row]:
    """Mean and spread over training runs: one row per combination of the keys `by`, in order of appearance.

    Args:
        rows: of all runs, one after the other, such as `choice_rows` of each seed.
        by: keys that tell the groups apart, such as `split` and `target_drop_points`.
        values: keys of numbers, each giving `<key>_mean` and `<key>_std` (of a sample, so divided by one less than the
            number of runs; None for a single run, whose spread nobody knows).

    Returns:
        Rows with `by`, those figures and `seeds`, the number of runs.
    """
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in by), []).append(row)
    summary = []
    for names, members in groups.items():
        result = dict(zip(by, names, strict=True))
        for key in values:
            numbers = [row[key] for row in members]
            result[f"{key}_mean"] = statistics.fmean(numbers)
            result[f"{key}_std"] = statistics.stdev(numbers) if len(numbers) > 1 else None
        summary.append(result | {"seeds": len(members)})
    return summary
