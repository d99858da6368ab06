"""Certified thresholds: the bounds against exact sums, the promise against worlds whose risks are known."""

import json
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.certificates import (
    LOSSES,
    Bounds,
    accuracy_drop_bounds,
    binomial_lower_bound,
    binomial_upper_bound,
    certificate_rows,
    certify,
    disagreement_bounds,
    smallest_epsilon,
)
from deebert.analysis.curves import Curve, ScoredCurve

few = settings(max_examples=60, deadline=None, derandomize=True)
LAYERS = 10


def at_most(count: int, n: int, rate: Fraction) -> Fraction:
    """P(Binomial(n, rate) <= count), exactly."""
    return sum((math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(count + 1)), Fraction(0))


def hoeffding_bentkus(count: int, n: int, epsilon: float) -> float:
    """P-value of "the mean of n losses in [0, 1] is above epsilon", as in Learn then Test; `count` is their sum."""
    mean = min(count / n, epsilon)
    divergence = (1 - mean) * math.log((1 - mean) / (1 - epsilon))
    if mean > 0:
        divergence += mean * math.log(mean / epsilon)
    return min(math.exp(-n * divergence), math.e * float(at_most(count, n, Fraction(epsilon))))


def grid(harmed: np.ndarray, helped: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions and layers (K, N), labels (N,): who is harmed and helped at each point, both (K, N) bool.

    The label is always 0; full depth answers it but for the helped. Point k has everyone leave k layers early.
    """
    labels = np.zeros(harmed.shape[1], dtype=int)
    full = helped.any(axis=0).astype(int)  # wrong for whoever is helped somewhere
    predictions = np.where(harmed, 1, np.where(helped, 0, full))
    layers = np.tile(LAYERS - np.arange(len(harmed))[:, None] % LAYERS, (1, harmed.shape[1]))
    return predictions, layers, labels


@few
@given(st.data(), st.integers(1, 60), st.sampled_from([0.01, 0.09, 0.1, 0.5]))
def test_a_bound_is_where_the_exact_tail_is_delta(data: st.DataObject, n: int, delta: float) -> None:
    """P(at most so many hits) is delta at the upper bound, P(at least so many) at the lower; all hits bound at 1."""
    count = data.draw(st.integers(0, n))
    (upper,), (lower,) = (bound(np.array([count]), n, delta) for bound in (binomial_upper_bound, binomial_lower_bound))
    if count == n:
        assert upper == 1
    else:
        assert float(at_most(count, n, Fraction(upper))) == pytest.approx(delta, rel=1e-9)
    if count == 0:
        assert lower == 0
    else:
        assert float(1 - at_most(count - 1, n, Fraction(lower))) == pytest.approx(delta, rel=1e-9)
    assert lower <= count / n <= upper


@pytest.mark.parametrize("n", [2_000, 40_000])
def test_a_bound_of_many_samples_is_where_the_tail_is_delta(n: int) -> None:
    """Summed term by term in another way than the bound was found."""
    counts = np.array([0, 1, 30, n // 10, n // 2, n - 5])
    for count, rate in zip(counts, binomial_upper_bound(counts, n, 0.1), strict=True):
        i = np.arange(count + 1)
        ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in i.tolist()])
        assert np.exp(ways + i * np.log(rate) + (n - i) * np.log1p(-rate)).sum() == pytest.approx(0.1, rel=1e-6)


@few
@given(st.data(), st.integers(5, 300), st.sampled_from([0.05, 0.1, 0.2]), st.sampled_from([0.01, 0.05, 0.2]))
def test_never_weaker_than_hoeffding_bentkus(data: st.DataObject, n: int, delta: float, epsilon: float) -> None:
    """What the Hoeffding-Bentkus p-value certifies, the exact bound certifies too."""
    counts = [data.draw(st.integers(0, max(1, int(2 * n * epsilon)))) for _ in range(5)]
    bounds = binomial_upper_bound(np.array(counts), n, delta)
    for count, bound in zip(counts, bounds, strict=True):
        assert bound <= epsilon or hoeffding_bentkus(count, n, epsilon) > delta


def test_277_samples_without_a_disagreement_reach_83_in_10000() -> None:
    """RTE's validation at delta 0.1: 1 - 0.1 ** (1 / 277) is the best there is, and below it nothing is certified."""
    nobody = np.zeros((3, 277), dtype=bool)
    predictions, layers, labels = grid(nobody, nobody)
    best = 1 - 0.1 ** (1 / 277)
    assert smallest_epsilon(disagreement_bounds(predictions, labels, 0.1), layers) == pytest.approx(best, abs=1e-12)
    curve = Curve("entropy", (0.0, 0.1, 0.2), layers, predictions, LAYERS)
    rows = certificate_rows(ScoredCurve("validation", curve, labels, "accuracy", 0), [0.005, 0.01], 0.1)
    too_much, enough = [row for row in rows if row["loss"] == "disagreement"]
    assert not too_much["certified"] and enough["certified"]
    assert (too_much["threshold"], too_much["layers_saved_frac"]) == (0.0, 0.0)
    assert (enough["threshold"], enough["layers_saved_frac"]) == (0.2, pytest.approx(0.2))
    assert too_much["smallest_epsilon"] == enough["smallest_epsilon"] == 0.0083


@pytest.mark.parametrize("n", [277, 300, 2000])
def test_the_smallest_epsilon_that_is_told_would_do(n: int) -> None:
    """It is rounded up: who asks for it gets a certificate."""
    nobody = np.zeros((2, n), dtype=bool)
    predictions, layers, labels = grid(nobody, nobody)
    scored = ScoredCurve("validation", Curve("entropy", (0.0, 0.1), layers, predictions, LAYERS), labels, "accuracy", 0)
    for row in certificate_rows(scored, [0.001], 0.1):
        (again,) = (r for r in certificate_rows(scored, [row["smallest_epsilon"]], 0.1) if r["loss"] == row["loss"])
        assert not row["certified"] and again["certified"]


def test_certify_stops_at_the_first_failure() -> None:
    """A point counts only if every safer one passes as well; full depth is what remains, whatever its own bound."""
    assert certify(np.array([0.9, 0.01, 0.02, 0.03]), 0.02) == 2
    assert certify(np.array([0.0, 0.01, 0.05, 0.01]), 0.02) == 1
    assert certify(np.array([0.0, 0.05, 0.01]), 0.02) == 0
    assert certify(np.array([0.0]), 0.02) == 0


@few
@given(st.integers(0, 10_000), st.sampled_from(sorted(LOSSES)))
def test_the_smallest_epsilon_is_the_smallest(seed: int, loss: str) -> None:
    """At the smallest epsilon a point that saves something is certified, just below it none is."""
    rng = np.random.default_rng(seed)
    draws = rng.random((1, 150))
    predictions, layers, labels = grid(draws < np.linspace(0, 0.1, 6)[:, None], draws > 1 - np.zeros(6)[:, None])
    layers[1] = LAYERS  # the first point saves nothing yet
    bounds = LOSSES[loss](predictions, labels, 0.1)
    epsilon = smallest_epsilon(bounds, layers)
    saved = [layers[certify(bounds, epsilon + step)].mean() < LAYERS for step in (0, -1e-9)]
    assert saved == [True, False]


def test_helped_samples_pay_for_harmed_ones() -> None:
    """The bound on the accuracy drop falls as more samples are helped, while that on disagreement rises.

    It lies above the drop seen, and where nobody is helped it is the bound of the harmed at nine tenths of delta.
    """
    draws = np.arange(1000)[None, :]
    harmed = np.repeat(draws < 50, 3, axis=0)
    harmed[0] = False
    drops, disagreements = [], []
    for count in (0, 30, 60):
        helped = np.repeat(draws >= 1000 - count, 3, axis=0)
        helped[0] = False
        predictions, _, labels = grid(harmed, helped)
        drops.append(accuracy_drop_bounds(predictions, labels, 0.1)[1])
        disagreements.append(disagreement_bounds(predictions, labels, 0.1)[1])
        assert drops[-1] > (50 - count) / 1000
    assert drops == sorted(drops, reverse=True) and disagreements == sorted(disagreements)
    assert drops[0] == pytest.approx(binomial_upper_bound(np.array([50]), 1000, 0.09)[0], rel=1e-12)


def test_who_is_wrong_either_way_is_no_loss() -> None:
    """Of samples that full depth gets wrong, only those that the exit gets right count, for accuracy's drop."""
    labels = np.zeros(200, dtype=int)
    predictions = np.zeros((2, 200), dtype=int)
    predictions[0, :60] = 1  # wrong at full depth: 20 of them helped, 25 as wrong, 15 wrong in another way
    predictions[1, 20:45] = 1
    predictions[1, 45:60] = 2
    predictions[1, 190:] = 1  # 10 harmed
    harmed, helped = binomial_upper_bound(np.array([10]), 200, 0.09), binomial_lower_bound(np.array([20]), 200, 0.01)
    assert accuracy_drop_bounds(predictions, labels, 0.1)[1] == pytest.approx((harmed - helped)[0])
    assert disagreement_bounds(predictions, labels, 0.1)[1] == binomial_upper_bound(np.array([45]), 200, 0.1)[0]


def test_points_that_save_nothing_must_pass_but_certify_nothing() -> None:
    """A certificate needs a point that saves layers; the points before it count for the smallest epsilon too."""
    layers = np.array([[3, 3], [3, 3], [3, 2], [2, 2]])
    assert smallest_epsilon(np.array([0.9, 0.3, 0.1, 0.5]), layers) == 0.3
    nobody = np.zeros((3, 277), dtype=bool)
    harmed = nobody.copy()
    harmed[2] = np.arange(277) < 40
    predictions, layers, labels = grid(harmed, nobody)
    layers[1] = LAYERS
    curve = Curve("entropy", (0.0, 0.1, 0.2), layers, predictions, LAYERS)
    for row in certificate_rows(ScoredCurve("validation", curve, labels, "accuracy", 0), [0.05], 0.1):
        assert (row["certified"], row["threshold"], row["risk"]) == (False, 0.0, 0.0)
        assert row["smallest_epsilon"] > 40 / 277


def test_disagreement_asks_for_no_labels() -> None:
    """Hidden labels certify the same disagreement."""
    rng = np.random.default_rng(0)
    predictions = rng.integers(0, 3, (4, 100))
    hidden = np.full(100, -1)
    known = rng.integers(0, 3, 100)
    assert (disagreement_bounds(predictions, hidden, 0.1) == disagreement_bounds(predictions, known, 0.1)).all()


def test_the_risk_that_is_told_is_that_of_the_samples() -> None:
    """Counted by hand: of 1,000 samples 3 are harmed and 1 is helped; 2 are wrong in another way than at full depth."""
    labels = np.zeros(1000, dtype=int)
    full = labels.copy()
    full[:3] = 1  # wrong at full depth
    early = full.copy()
    early[0] = 0  # helped
    early[1:3] = 2  # wrong in another way
    early[10:13] = 1  # harmed
    curve = Curve("entropy", (0.0, 0.1), np.array([[10] * 1000, [9] * 1000]), np.stack([full, early]), 10)
    rows = certificate_rows(ScoredCurve("validation", curve, labels, "accuracy", 0), [0.05], 0.1)
    assert all(row["certified"] for row in rows)
    assert {row["loss"]: row["risk"] for row in rows} == pytest.approx({"disagreement": 0.006, "accuracy_drop": 0.002})


def test_rows_are_plain_data_also_where_nothing_can_be_saved() -> None:
    """Rows survive JSON; a grid with only full depth has no smallest epsilon."""
    nobody = np.zeros((1, 30), dtype=bool)
    predictions, layers, labels = grid(nobody, nobody)
    curve = Curve("entropy", (0.0,), layers, predictions, LAYERS)
    rows = certificate_rows(ScoredCurve("validation", curve, labels, "accuracy", 0), [0.05], 0.1)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert [row["smallest_epsilon"] for row in rows] == [None, None] and not any(row["certified"] for row in rows)


# Worlds of known risk. In `edge` the points come up to epsilon and then exceed it by a hair: nothing is easier to get
# wrong. In `helped` the same holds for the difference of two rates. In `independent` each of many points is too risky,
# and each gets its own luck.
EPSILON, DELTA, N, TRIALS = 0.05, 0.1, 300, 1000
HARMED = {
    "edge": np.array([0.0, 0.01, 0.02, 0.0505, 0.051, 0.06, 0.2]),
    "helped": np.array([0.0, 0.02, 0.04, 0.081, 0.085, 0.12, 0.2]),
    "independent": np.array([0.0, *[0.052] * 20]),
}
HELPED = {
    "edge": np.zeros(7),
    "helped": np.array([0.0, 0.01, 0.02, 0.03, 0.03, 0.03, 0.03]),
    "independent": np.zeros(21),
}


def true_risk(world: str, loss: str) -> np.ndarray:
    return HARMED[world] + HELPED[world] * (-1 if loss == "accuracy_drop" else 1)


def sample(world: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n samples from a world: one luck per sample for all points, but for `independent`."""
    draws = rng.random((len(HARMED[world]) if world == "independent" else 1, n))
    return grid(draws < HARMED[world][:, None], draws > 1 - HELPED[world][:, None])


@cache
def violations(world: str, loss: str, bounds_of: Bounds, choose: Callable[[np.ndarray, float], int]) -> float:
    """Share of calibration sets for which the point chosen has a true risk above epsilon."""
    rng = np.random.default_rng(7)
    risks = true_risk(world, loss)
    wrong = 0
    for _ in range(TRIALS):
        predictions, _, labels = sample(world, N, rng)
        wrong += risks[choose(bounds_of(predictions, labels, DELTA), EPSILON)] > EPSILON
    return wrong / TRIALS


def empirical_risk(loss: str) -> Bounds:
    """The broken bound: what was seen, taken for the truth."""

    def risks(predictions: np.ndarray, labels: np.ndarray, delta: float) -> np.ndarray:
        if loss == "disagreement":
            return (predictions != predictions[0]).mean(axis=1)
        return (predictions[0] == labels).mean() - (predictions == labels).mean(axis=1)

    return risks


def boldest_that_passes(bounds: np.ndarray, epsilon: float) -> int:
    """The broken rule: take the boldest point that passes, whatever came before."""
    return int(np.flatnonzero(np.append(True, bounds[1:] <= epsilon))[-1])


SIMULATION_ERROR = 3 * math.sqrt(DELTA * (1 - DELTA) / TRIALS)


@pytest.mark.parametrize(
    ("world", "loss"),
    [("edge", "disagreement"), ("edge", "accuracy_drop"), ("helped", "accuracy_drop"), ("independent", "disagreement")],
)
def test_the_promise_holds(world: str, loss: str) -> None:
    """Over 1,000 calibration sets the certified point's true risk exceeds epsilon in at most a share delta of them."""
    assert violations(world, loss, LOSSES[loss], certify) <= DELTA + SIMULATION_ERROR


def test_the_simulation_comes_close_to_delta() -> None:
    """The bound for 0/1 losses wastes little: where the risk exceeds epsilon by a hair, it fails nearly delta times."""
    assert violations("edge", "disagreement", disagreement_bounds, certify) >= DELTA / 3


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_simulation_catches_a_broken_bound(loss: str) -> None:
    """Taking the risk seen for the true one breaks the promise by far."""
    assert violations("edge", loss, empirical_risk(loss), certify) > 3 * DELTA


def test_the_simulation_catches_a_broken_rule() -> None:
    """Taking the boldest point that passes, instead of stopping at the first failure, breaks the promise by far."""
    assert violations("independent", "disagreement", disagreement_bounds, boldest_that_passes) > 3 * DELTA


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_it_has_power(loss: str) -> None:
    """With 2,000 samples it mostly certifies the boldest point whose risk is clearly, by a third, below epsilon."""
    rng = np.random.default_rng(3)
    harmed = np.linspace(0, 0.2, 61)[:, None]
    wanted = int(np.flatnonzero(harmed[:, 0] <= EPSILON * 2 / 3)[-1])
    certified = []
    for _ in range(30):
        draws = rng.random((1, 2000))
        predictions, _, labels = grid(draws < harmed, np.zeros((61, 2000), dtype=bool))
        certified.append(certify(LOSSES[loss](predictions, labels, DELTA), EPSILON))
    assert np.mean(np.array(certified) >= wanted) >= 0.9
