"""Divisions of samples: every sample once, folds alike, drawn by the seed."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.folds import stratified_folds, stratified_halves

few = settings(max_examples=60, deadline=None, derandomize=True)


@few
@given(st.integers(0, 10_000), st.integers(1, 80), st.integers(1, 4), st.integers(2, 10))
def test_folds_are_alike(seed: int, n: int, classes: int, folds: int) -> None:
    """Each sample is in one fold; no two folds differ by more than one sample, in all or of any label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    fold = stratified_folds(labels, folds, rng)
    sizes = [
        np.bincount(fold[members], minlength=folds) for members in (labels >= 0, *map(labels.__eq__, range(classes)))
    ]
    assert all(len(size) == folds and np.ptp(size) <= 1 for size in sizes)


@few
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 100))
def test_halves_part_every_label(labels: list[int], seed: int) -> None:
    """The halves hold every sample once, and differ by at most one in size and in each label; a seed repeats them."""
    array = np.array(labels)
    one, other = stratified_halves(array, seed)
    assert sorted([*one, *other]) == list(range(len(labels)))
    assert (np.diff(one) > 0).all() and (np.diff(other) > 0).all() and 0 <= len(one) - len(other) <= 1
    for label in set(labels):
        assert abs(np.sum(array[one] == label) - np.sum(array[other] == label)) <= 1
    assert all(np.array_equal(a, b) for a, b in zip((one, other), stratified_halves(array, seed), strict=True))


def test_halves_are_random() -> None:
    """Another seed parts otherwise, and a half is not simply every other sample."""
    labels = np.zeros(40, dtype=np.int64)
    one, another = stratified_halves(labels, 0)[0], stratified_halves(labels, 1)[0]
    assert not np.array_equal(one, another) and not np.array_equal(one, np.arange(0, 40, 2))
