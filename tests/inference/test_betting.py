"""The test behind the monitor: a fortune that bets against the rate that is allowed."""

import numpy as np
import pytest

from deebert.inference.betting import BETS, IDLE, BettingTest


@pytest.mark.parametrize("epsilon", [0.001, 0.05, 0.5, 0.84, 0.95, 0.999])
def test_nothing_ruins_at_any_epsilon(epsilon: float) -> None:
    """Half of the wealth is not bet, so agreement never costs more than half of it; and each bet keeps a part."""
    test = BettingTest(epsilon)
    for observed in [False] * 200 + [True] * 200:
        test.update(observed)
        assert np.isfinite(test.log_wealth) and (test.weights > 0).all()
        assert test.weights.sum() == pytest.approx(1)
    lost = BettingTest(epsilon)
    lost.update(False)
    assert np.log(IDLE) < lost.log_wealth < 0


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3])
def test_bets_and_their_parts_are_what_is_told(epsilon: float) -> None:
    """Each bet is best at a rate from 1.1 epsilon to half way to 1; after round t a part 1 / (t + 1) is spread anew."""
    rates = np.geomspace(0.1 * epsilon, 0.5 * (1 - epsilon), BETS) + epsilon
    bets = np.append(0.0, (rates - epsilon) / (1 - epsilon))
    start = np.append(IDLE, np.full(BETS, (1 - IDLE) / BETS))
    test, parts, wealth = BettingTest(epsilon), start, 1.0
    for t, observed in enumerate([True, False, False, True], start=1):
        held = parts * (1 + bets / epsilon * (observed - epsilon))
        wealth *= held.sum()
        parts = (1 - 1 / (t + 1)) * held / held.sum() + start / (t + 1)
        test.update(observed)
        np.testing.assert_allclose(test.weights, parts)
        assert np.exp(test.log_wealth) == pytest.approx(wealth)
