"""Temperatures and calibration errors, against plain loops and against logits whose calibration is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.calibration import (
    TEMPERATURE_BOUNDS,
    calibration_error_by_chance,
    calibration_rows,
    expected_calibration_error,
    fit_temperatures,
    log_probabilities,
    negative_log_likelihood,
    scaled,
)
from deebert.analysis.folds import stratified_halves
from deebert.base.errors import UserError

few = settings(max_examples=40, deadline=None, derandomize=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return p / p.sum(axis=-1, keepdims=True)


def drawn(seed: int, n: int, temperatures: list[float], classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Labels (n,) and logits (n, L, classes) that are calibrated once divided by each head's temperature."""
    rng = np.random.default_rng(seed)
    true = rng.standard_normal((n, classes)) * 2
    labels = (softmax(true).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return (true[:, None] * np.array(temperatures)[:, None]).astype(np.float32), labels


@few
@given(st.data(), st.integers(2, 4), st.floats(0.01, 100))
def test_a_temperature_changes_no_answer(data: st.DataObject, classes: int, temperature: float) -> None:
    """The top class of any head at any temperature is what it was, first of equals included."""
    value = st.floats(-1e4, 1e4, width=32)
    rows = data.draw(st.lists(st.lists(value, min_size=classes, max_size=classes), min_size=1, max_size=5))
    rows.append([np.nextafter(np.float32(row), np.float32(1e9)) for row in rows[0]])  # as close as float32 can tell
    rows.append([rows[0][0], *rows[-1][1:]])
    logits = np.array(rows, dtype=np.float32)[:, None]
    assert np.array_equal(scaled(logits, np.array([temperature])).argmax(axis=2), logits.argmax(axis=2))


@pytest.mark.parametrize("classes", [2, 3])
def test_the_true_temperature_is_found(classes: int) -> None:
    """For labels drawn from the softmax at a temperature, each head gets its own back within sampling error."""
    wanted = [0.3, 1.0, 2.5, 8.0]
    logits, labels = drawn(0, 20_000, wanted, classes)
    assert fit_temperatures(logits, labels) == pytest.approx(np.array(wanted), rel=0.05)


@few
@given(st.integers(0, 1000), st.integers(2, 4), st.floats(0.2, 5))
def test_no_other_temperature_fits_better(seed: int, classes: int, true: float) -> None:
    """Where there are mistakes no temperature of a fine grid, 1 included, has a lower loss on the fitted samples."""
    logits, labels = drawn(seed, 30, [true], classes)
    assert (logits[:, 0].argmax(axis=1) != labels).any()

    def loss(temperature: float) -> float:
        return negative_log_likelihood(logits / temperature, labels)[0]

    (fitted,) = fit_temperatures(logits, labels)
    assert TEMPERATURE_BOUNDS[0] * 0.999 <= fitted <= TEMPERATURE_BOUNDS[1] * 1.001
    assert all(loss(fitted) <= loss(t) + 1e-9 for t in [1.0, *np.geomspace(*TEMPERATURE_BOUNDS, 300)])


@pytest.mark.parametrize("mistakes", [2, 6, 40])
def test_a_head_right_as_often_as_it_says_keeps_1(mistakes: int) -> None:
    """However seldom it is wrong: nothing is added to the mistakes that it makes."""
    labels = np.arange(400) % 2
    answers = np.where(np.arange(400) < mistakes, 1 - labels, labels)
    logits = math.log(400 / mistakes - 1) * (answers[:, None, None] == np.arange(2))
    assert fit_temperatures(logits, labels) == pytest.approx([1.0])


@few
@given(st.integers(0, 1000), st.integers(2, 4), st.floats(1e-3, 1e4))
def test_a_head_without_a_mistake_keeps_1(seed: int, classes: int, size: float) -> None:
    """Nothing says how sure is too sure, and boundless confidence would cost dearly elsewhere; so, too, with a tie."""
    rng = np.random.default_rng(seed)
    logits = size * rng.standard_normal((20, 1, classes))
    labels = logits[:, 0].argmax(axis=1)
    logits[0] = size
    for label in range(classes):
        assert fit_temperatures(logits, np.append(label, labels[1:])).tolist() == [1.0]


def test_heads_without_a_best_temperature() -> None:
    """A head always wrong gets the upper bound, one that says nothing keeps 1."""
    labels = np.array([0, 1, 0, 1])
    wrong = np.stack([labels, 1.0 - labels], axis=1) * 0.2
    logits = np.stack([wrong, 0 * wrong], axis=1).astype(np.float32)
    assert fit_temperatures(logits, labels) == pytest.approx(np.array([TEMPERATURE_BOUNDS[1], 1.0]), rel=1e-9)


@few
@given(st.integers(0, 1000), st.integers(2, 4), st.sampled_from([1.0, 30.0, 1e4]))
def test_the_loss_is_that_of_a_plain_loop(seed: int, classes: int, size: float) -> None:
    """Loss per head is the mean of -ln of the label's probability, finite for logits of 1e4."""
    logits, labels = drawn(seed, 9, [1.0, 0.4], classes)
    logits *= size
    losses = negative_log_likelihood(logits, labels)
    assert np.isfinite(losses).all()
    for layer, loss in enumerate(losses):
        rows = logits[:, layer].astype(np.float64)
        terms = [
            math.log(np.exp(row - row.max()).sum()) + row.max() - row[y] for row, y in zip(rows, labels, strict=True)
        ]
        assert loss == pytest.approx(np.mean(terms), abs=1e-9 * size)
    assert np.exp(log_probabilities(logits)).sum(axis=2) == pytest.approx(1.0)


@few
@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 15))
def test_the_calibration_error_is_that_of_a_plain_loop(seed: int, n: int, bins: int) -> None:
    """Samples sorted by confidence and dealt to bins of n / bins: mean |confidence - accuracy|, weighted by size."""
    logits, labels = drawn(seed, n, [2.0, 0.7], 3)
    found = expected_calibration_error(logits, labels, bins)
    for layer, error in enumerate(found):
        p = softmax(logits[:, layer])
        pairs = sorted(zip(p.max(axis=1), p.argmax(axis=1) == labels, strict=True), key=lambda pair: pair[0])
        ends = [math.ceil(n * k / bins - 1e-9) for k in range(bins + 1)]
        parts = [pairs[a:b] for a, b in pairwise(ends) if b > a]
        gaps = [abs(sum(c for c, _ in part) - sum(r for _, r in part)) for part in parts]
        assert error == pytest.approx(sum(gaps) / n, abs=1e-9)


def test_the_calibration_error_of_known_heads() -> None:
    """A head as right as it says has none, one that says 0.9 and is right half the time 0.4, in any order."""
    lead = math.log(0.9 / 0.1)
    logits = np.tile(np.array([lead, 0.0]), (100, 1, 1))
    mostly, half = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], 50)
    assert expected_calibration_error(logits, mostly) == pytest.approx([0.0], abs=1e-12)
    assert expected_calibration_error(logits, half) == pytest.approx([0.4])
    assert expected_calibration_error(logits, half[::-1]) == pytest.approx([0.4])


@pytest.mark.parametrize("n", [139, 1000])
def test_what_chance_alone_finds(n: int) -> None:
    """Heads right exactly as often as they say have that error in the mean over many draws of labels."""
    logits, _ = drawn(0, n, [1.0])
    rng = np.random.default_rng(1)
    p = softmax(logits[:, 0])
    errors = []
    for _ in range(300):
        labels = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        errors.append(expected_calibration_error(logits, labels)[0])
    assert calibration_error_by_chance(logits)[0] == pytest.approx(np.mean(errors), rel=0.1)


def test_rows_are_fitted_on_one_half_and_checked_on_the_other() -> None:
    """One row per layer 1..L; with heads too sure, the error and the loss fall on samples the fit never saw."""
    logits, labels = drawn(4, 2001, [3.0, 1.0, 0.4])
    rows = calibration_rows("validation", logits, labels, resampling_seed=5)
    fit, check = stratified_halves(labels, 5)
    temperatures = fit_temperatures(logits[fit], labels[fit])
    assert [row["layer"] for row in rows] == [1, 2, 3]
    for i, row in enumerate(rows):
        head = logits[check][:, [i]]
        cooled = scaled(head, temperatures[[i]])
        assert row == {
            "split": "validation",
            "layer": i + 1,
            "temperature": temperatures[i],
            "ece_before": expected_calibration_error(head, labels[check])[0],
            "ece_after": expected_calibration_error(cooled, labels[check])[0],
            "ece_by_chance": calibration_error_by_chance(cooled)[0],
            "nll_before": pytest.approx(negative_log_likelihood(head, labels[check])[0]),
            "nll_after": pytest.approx(negative_log_likelihood(cooled, labels[check])[0]),
            "n": 1000,
        }
    for row in (rows[0], rows[2]):
        assert row["ece_after"] < row["ece_before"] / 2 and row["nll_after"] < row["nll_before"]
    assert rows == calibration_rows("validation", logits, labels, resampling_seed=5)


def test_what_cannot_be_calibrated_is_an_error() -> None:
    """Logits that are not finite and fewer than two samples are refused in one line with the split and the layer."""
    logits, labels = drawn(0, 6, [1.0, 1.0])
    with pytest.raises(UserError, match="validation: 1 samples"):
        calibration_rows("validation", logits[:1], labels[:1], resampling_seed=0)
    logits[3, 1, 0] = math.inf
    with pytest.raises(UserError, match="validation: logits of layer 2"):
        calibration_rows("validation", logits, labels, resampling_seed=0)


def test_there_are_15_bins() -> None:
    """As in the paper, and as the documents say."""
    logits, labels = drawn(0, 200, [2.0, 0.7])
    for number, is_default in ((15, True), (14, False)):
        same = expected_calibration_error(logits, labels) == expected_calibration_error(logits, labels, number)
        by_chance = calibration_error_by_chance(logits) == calibration_error_by_chance(logits, number)
        assert same.all() == by_chance.all() == is_default
