"""Seeded divisions of samples into folds that are alike: what is chosen or fitted on some folds, others judge.

Scikit-learn's `StratifiedKFold` refuses data with fewer samples of a label than folds; here any number will do.
"""

import numpy as np


def stratified_folds(labels: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold 0..folds-1 of each of (N,) samples, at random; sizes differ by at most 1, in each label too."""
    order = np.lexsort((rng.random(len(labels)), labels))  # by label, at random within each
    fold = np.empty(len(labels), dtype=np.int64)
    fold[order] = np.arange(len(labels)) % folds
    return fold


def stratified_halves(labels: np.ndarray, resampling_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rising positions of the two halves of (N,) labels."""
    fold = stratified_folds(labels, 2, np.random.default_rng(resampling_seed))
    return np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)
