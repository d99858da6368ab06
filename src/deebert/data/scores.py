"""The metrics of a classifier, in [0, 1]: each is a mean of ratios of sums over samples.

So a metric is defined by its terms, T numbers per sample: numerators first, then as many denominators. Accuracy and F1
are one ratio (T = 2), macro-F1 is one per class (T = 2C). Who moves a few exits or resamples adds up terms anew and has
the score by `score_of`.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np

from deebert.base.errors import UserError

Terms = list[np.ndarray]  # T arrays of small whole numbers, all of one shape
METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1", "macro_f1": "macro-F1"}  # as people write them


def _accuracy_terms(labels: np.ndarray, predictions: np.ndarray) -> Terms:
    """Share of right answers."""
    right = predictions == labels
    return [right, np.ones_like(right)]


def _f1_terms(labels: np.ndarray, predictions: np.ndarray) -> Terms:
    """F1 of class 1 of a binary task, as GLUE scores MRPC and QQP."""
    for values in (labels, predictions):
        if values.size and not 0 <= values.min() <= values.max() <= 1:
            raise UserError(
                f"metric f1: labels from {values.min()} to {values.max()}; allowed: 0 and 1; macro_f1 takes any"
            )
    return _class_terms(labels, predictions, [1])


def _macro_f1_terms(labels: np.ndarray, predictions: np.ndarray) -> Terms:
    """Mean of every class's F1; a class that is neither present nor predicted does not count, as in scikit-learn."""
    num_labels = max((int(values.max()) + 1 for values in (labels, predictions) if values.size), default=1)
    return _class_terms(labels, predictions, range(num_labels))


def _class_terms(labels: np.ndarray, predictions: np.ndarray, classes: Iterable[int]) -> Terms:
    """Twice the hits of each class, then how often each is present plus how often it is predicted."""
    pairs = [(labels == label, predictions == label) for label in classes]
    tops = [2 * (present & predicted).view(np.int8) for present, predicted in pairs]
    return tops + [np.add(present, predicted, dtype=np.int8) for present, predicted in pairs]


TERMS: dict[str, Callable[[np.ndarray, np.ndarray], Terms]] = {
    "accuracy": _accuracy_terms,
    "f1": _f1_terms,
    "macro_f1": _macro_f1_terms,
}


def score_terms(labels: np.ndarray, predictions: np.ndarray, metric: str) -> np.ndarray:
    """Each sample's terms of a metric, (T, ...) float64 of the shape of `predictions`, to which `labels` broadcast.

    The terms are whole numbers, so sums below 2^53 are exact, in whatever order they are added.

    Raises:
        UserError: the metric is not for such labels.
    """
    return np.stack(TERMS[metric](labels, predictions)).astype(np.float64)


def score_of(sums: np.ndarray) -> np.ndarray:
    """Score (...) from sums (T, ...) of the terms: the mean of all ratios whose denominator is not 0; 0 without any."""
    tops, bottoms = sums[: len(sums) // 2], sums[len(sums) // 2 :]
    counts = bottoms > 0
    ratios = np.divide(tops, bottoms, out=np.zeros(bottoms.shape), where=counts)
    return ratios[0] if len(ratios) == 1 else ratios.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)


def _score(metric: str, labels: np.ndarray, predictions: np.ndarray) -> float:
    """Score of (N,) predictions."""
    return float(score_of(np.array([np.sum(term) for term in TERMS[metric](labels, predictions)])))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {name: partial(_score, name) for name in TERMS}


def is_labelled(labels: np.ndarray) -> bool:
    """Whether a split can be scored: GLUE hides the labels of most test splits as -1."""
    return bool(np.all(labels >= 0))
