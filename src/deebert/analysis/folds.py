"""Seeded divisions of samples into parts that are alike: what one part chooses or fits, the others judge."""

import numpy as np


def stratified_parts(labels: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    """Part 0..parts-1 of each of (N,) samples, at random; sizes differ by at most 1, in each label too."""
    order = np.lexsort((rng.random(len(labels)), labels))  # by label, at random within each
    part = np.empty(len(labels), dtype=np.int64)
    part[order] = np.arange(len(labels)) % parts
    return part


def stratified_halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rising positions of the two halves of (N,) labels."""
    part = stratified_parts(labels, 2, np.random.default_rng(seed))
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)
