"""The GLUE metrics of the six tasks, in [0, 1]."""

import numpy as np


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Share of equal entries of two (N,) arrays."""
    return float(np.mean(labels == predictions))


def f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    """F1 of class 1, as GLUE scores MRPC and QQP; 0 where class 1 is neither present nor predicted."""
    both = np.sum((labels == 1) & (predictions == 1))
    either = np.sum(labels == 1) + np.sum(predictions == 1)
    return float(2 * both / either) if either else 0.0


METRICS = {"accuracy": accuracy, "f1": f1}
METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1"}  # as people write them


def score_terms(labels: np.ndarray, predictions: np.ndarray, metric: str) -> np.ndarray:
    """Each answer's share of a metric's numerator and denominator, (2, ...) float64; labels broadcast to predictions.

    Sums over samples are all that a score needs: moving a few exits or resampling is then quick to score by `score_of`.
    The terms are whole numbers, so sums below 2^53 are exact, in whatever order they are added.
    """
    if metric == "f1":
        top = 2 * ((predictions == 1) & (labels == 1))
        bottom = (predictions == 1).astype(int) + (labels == 1)
    elif metric == "accuracy":
        top, bottom = predictions == labels, np.ones(predictions.shape)
    else:
        raise NotImplementedError(f"metric {metric} as a ratio of sums")
    return np.stack([top, bottom]).astype(np.float64)


def score_of(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Score from sums of the two terms, elementwise; 0 where the denominator is, as in `f1`."""
    return np.divide(top, bottom, out=np.zeros(np.shape(bottom)), where=np.asarray(bottom) > 0)


def is_labelled(labels: np.ndarray) -> bool:
    """Whether a split can be scored: GLUE hides the labels of most test splits as -1."""
    return bool(np.all(labels >= 0))
