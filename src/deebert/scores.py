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


def is_labelled(labels: np.ndarray) -> bool:
    """Whether a split can be scored: GLUE hides the labels of most test splits as -1."""
    return bool(np.all(labels >= 0))
