"""A sequential test of "the rate is at most epsilon" that may be looked at after every observation.

Whoever doubts the claim starts with a wealth of 1 and bets on each observation x, 0 or 1, before it is seen. A bet of
lambda >= 0 multiplies the wealth by 1 + lambda (x - epsilon). While the claim holds, no bet gains on average, so the
wealth is a supermartingale, and by Ville's inequality it ever reaches 1/delta with probability at most delta.

Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS-B 2024, section 4
(https://arxiv.org/abs/2010.09686). For the risk of a deployed model: Podkopaev and Ramdas, ICLR 2022
(https://arxiv.org/abs/2110.06177).
"""

import numpy as np

BETS = 16
IDLE = 0.5  # of the wealth to begin with; what is not bet cannot be lost


class BettingTest:
    """The wealth is spread over several bets, small ones for rates near epsilon and large ones for rates far above.

    What wins holds more of the wealth in the next round. After round t, a part 1 / (t + 1) of the wealth is spread
    anew, which keeps something on every bet. Without that, a long calm time would take years of bad data to make up
    for. The rule is the fixed share of Herbster and Warmuth, Machine Learning 32, 1998, with a share that falls. It
    looks at the past alone, as a bet must.

    S streams can be tested side by side: `update` then takes (S,), and the wealth is (S,), too.

    Attributes:
        log_wealth: natural logarithm of the wealth.
        weights: (bets,) or (S, bets), the parts of the wealth that lie on each bet, with a sum of 1.
        rounds: observations so far.
    """

    def __init__(self, epsilon: float) -> None:
        # In shares of the largest bet that cannot ruin, 1 / epsilon. A bet f is the best one at a rate of
        # epsilon + f (1 - epsilon); these go from 1.1 epsilon to the middle between epsilon and 1.
        smallest = 0.1 * epsilon / (1 - epsilon)
        shares = np.array([0.0, *np.geomspace(min(smallest, 0.25), 0.5, BETS)])
        self._if_one = 1 + shares * (1 - epsilon) / epsilon
        self._if_zero = 1 - shares
        self._start = np.array([IDLE, *np.full(BETS, (1 - IDLE) / BETS)])
        self.weights = self._start
        self.log_wealth: float | np.ndarray = 0.0
        self.rounds = 0

    def update(self, observed: bool | np.ndarray) -> None:
        """Settle the bets on one observation, or on one of each stream."""
        held = self.weights * np.where(np.asarray(observed)[..., None], self._if_one, self._if_zero)
        gain = held.sum(axis=-1)
        self.log_wealth = self.log_wealth + np.log(gain)
        self.rounds += 1
        anew = 1 / (self.rounds + 1)
        self.weights = (1 - anew) * held / gain[..., None] + anew * self._start
