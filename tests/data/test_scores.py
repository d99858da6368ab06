"""The metrics, against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from deebert.base.errors import UserError
from deebert.data.scores import METRIC_NAMES, METRICS, is_labelled, score_of, score_terms

few = settings(max_examples=60, deadline=None, derandomize=True)
pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)
many_classes = st.integers(2, 6).flatmap(
    lambda classes: st.lists(
        st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1)), min_size=1, max_size=30
    )
)


@few
@given(pairs)
def test_scores_are_scikit_learns(drawn: list[tuple[int, int]]) -> None:
    """Accuracy and F1 of class 1 agree with scikit-learn, the case with no class 1 at all included (0)."""
    labels, predictions = np.array(drawn).T
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(accuracy_score(labels, predictions))
    assert METRICS["f1"](labels, predictions) == pytest.approx(f1_score(labels, predictions, zero_division=0))


@few
@given(many_classes)
def test_scores_of_any_number_of_classes_are_scikit_learns(drawn: list[tuple[int, int]]) -> None:
    """So do accuracy and macro-F1 of more classes, with classes that are only present, only predicted, or neither."""
    labels, predictions = np.array(drawn).T
    expected = f1_score(labels, predictions, average="macro", zero_division=0)
    assert METRICS["macro_f1"](labels, predictions) == pytest.approx(expected)
    assert METRICS["accuracy"](labels, predictions) == pytest.approx(accuracy_score(labels, predictions))


@pytest.mark.parametrize(("labels", "predictions"), [([0, 1, 2], [0, 1, 1]), ([0, 1], [0, 3]), ([-1, 1], [0, 1])])
def test_f1_is_for_two_classes(labels: list[int], predictions: list[int]) -> None:
    """F1 of class 1 says nothing of other classes, so any label but 0 and 1 is refused in one line."""
    arrays = np.array(labels), np.array(predictions)
    for scored in (METRICS["f1"], lambda *each: score_terms(*each, "f1")):
        with pytest.raises(UserError, match=r"^metric f1: labels from .* allowed: 0 and 1; .*$"):
            scored(*arrays)


def test_scores_are_plain_floats() -> None:
    """A score goes into JSON as it is."""
    labels = np.array([0, 1, 1])
    assert {type(metric(labels, labels)) for metric in METRICS.values()} == {float}


def test_every_metric_has_a_name() -> None:
    """Whatever can be scored can be written on an axis."""
    assert set(METRIC_NAMES) == set(METRICS)


def test_hidden_labels_cannot_be_scored() -> None:
    """One hidden label (-1) is enough to leave a split unscored."""
    assert is_labelled(np.array([0, 2, 1]))
    assert not is_labelled(np.array([0, -1, 1]))


@few
@given(pairs, st.sampled_from(sorted(METRICS)))
def test_summed_terms_are_the_score(drawn: list[tuple[int, int]], metric: str) -> None:
    """Terms summed over samples make the metric, to the last bit, also where F1 has no denominator."""
    labels, predictions = np.array(drawn).T
    assert score_of(score_terms(labels, predictions, metric).sum(axis=1)) == METRICS[metric](labels, predictions)


@few
@given(many_classes, st.sampled_from(["accuracy", "macro_f1"]))
def test_many_predictions_are_scored_at_once(drawn: list[tuple[int, int]], metric: str) -> None:
    """Labels broadcast: the score of each column of a table of predictions is that of the column alone."""
    labels, predictions = np.array(drawn).T
    table = np.column_stack([predictions, labels, predictions[::-1]])
    scores = score_of(score_terms(labels[:, None], table, metric).sum(axis=1))
    assert scores.tolist() == [METRICS[metric](labels, column) for column in table.T]
