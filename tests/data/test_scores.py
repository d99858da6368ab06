"""The GLUE metrics, against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from deebert.data.scores import METRICS, is_labelled, score_of, score_terms

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs)
def test_scores_are_scikit_learns(drawn: list[tuple[int, int]]) -> None:
    """Accuracy and F1 of class 1 agree with scikit-learn, the case with no class 1 at all included (0)."""
    labels, predictions = np.array(drawn).T
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert METRICS["f1"](labels, predictions) == pytest.approx(f1_score(labels, predictions, zero_division=0))


def test_scores_are_plain_floats() -> None:
    """A score goes into JSON as it is."""
    labels = np.array([0, 1, 1])
    assert {type(metric(labels, labels)) for metric in METRICS.values()} == {float}


def test_hidden_labels_cannot_be_scored() -> None:
    """One hidden label (-1) is enough to leave a split unscored."""
    assert is_labelled(np.array([0, 2, 1]))
    assert not is_labelled(np.array([0, -1, 1]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pairs, st.sampled_from(sorted(METRICS)))
def test_summed_terms_are_the_score(drawn: list[tuple[int, int]], metric: str) -> None:
    """Numerator and denominator summed over samples make the metric, to the last bit, also where F1 has none."""
    labels, predictions = np.array(drawn).T
    assert score_of(*score_terms(labels, predictions, metric).sum(axis=1)) == METRICS[metric](labels, predictions)
