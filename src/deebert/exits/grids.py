"""Which settings of a criterion are tried: from nobody leaving early to everybody, whatever the data; C classes."""

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

# Of ln C: round numbers of nats for two classes, and as sure as these for more.
NAMED_SHARES = tuple(nats / math.log(2) for nats in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
# Nats: all ramps are run. It is below all of `threshold_grid`, yet no less than float32 can hold in full.
NEXT_TO_NOBODY = 1e-36
ROUNDING_NATS = 1e-5  # by less than this float32 makes an entropy of ln C too large
TIMED_SHARES = tuple(nats / math.log(2) for nats in (0.05, 0.2, 0.6))


def thresholds_at(shares: Iterable[float], num_labels: int) -> tuple[float, ...]:
    """Thresholds in nats at `shares` of the largest entropy, ln C, to two digits."""
    return tuple(round(share * math.log(num_labels), 2) for share in shares)


def threshold_grid(num_labels: int, num_settings: int) -> list[float]:
    """Thresholds in nats from near 0 to just above ln C, rising; they do not depend on the data.

    Entropies crowd together at 0, so the grid is not even in nats. It is even in how far the top class leads: each
    threshold is the entropy of a softmax whose top logit is ahead of all the others by some lead, and the leads are
    evenly spaced. Up to a lead of 12, for C = 2 an entropy of 8e-5, there are `num_settings` at most. An eighth as many
    go on to a lead of 24, an entropy of 1e-9, and as many again to a lead of 80, 1e-33: the ramps of a deep model may
    be as sure as that of many samples, and float32 tells their entropies apart down to 1e-38. Thresholds are rounded up
    to 4 digits, the smallest to 2 that count: few enough to copy from a table without changing who leaves. Those that
    then coincide count once. Above ln C everybody leaves at layer 1: the curve's other end.
    """
    surest = (
        _up_to_two_that_count(value)
        for leads in ((80, 24), (24, 12))
        for value in _entropies(*leads, num_settings // 8 + 1, num_labels)[:-1]
    )
    others = _entropies(12, 0, num_settings, num_labels)
    others[-1:] = [largest + ROUNDING_NATS for largest in others[-1:]]
    return sorted({*surest, *(math.ceil(value * 1e4) / 1e4 for value in others)})


def _entropies(first_lead: float, last_lead: float, count: int, num_labels: int) -> list[float]:
    leads = torch.linspace(first_lead, last_lead, count, dtype=torch.float64)
    top = torch.stack([leads, *[torch.zeros_like(leads)] * (num_labels - 1)], dim=1).log_softmax(dim=1)
    return (-(top.exp() * top).sum(dim=1)).tolist()


def _up_to_two_that_count(nats: float) -> float:
    exponent = math.floor(math.log10(nats)) - 1
    return float(f"{math.ceil(nats / 10.0**exponent)}e{exponent}")


def probability_grid(num_labels: int, num_settings: int) -> list[float]:
    """Top probabilities from 1, falling to just below 1/C; they do not depend on the data.

    Up to a lead of 12 of the top logit, leads are those of `threshold_grid`. An eighth as many go on to where float32
    tells no two probabilities apart.
    """
    return _falling(lambda others: 1 / (1 + (num_labels - 1) * others), num_labels, num_settings)


def margin_grid(num_labels: int, num_settings: int) -> list[float]:
    """Differences of the top two probabilities from 1, falling to just below 0; made as `probability_grid` is."""
    return _falling(lambda others: (1 - others) / (1 + (num_labels - 1) * others), num_labels, num_settings)


def chance_grid(num_settings: int) -> list[float]:
    """At most `num_settings` chances, rising, between 0, below which is nobody, and 1, below which is everybody.

    They are even in log-odds, from -8 to 2, and rounded to 6 digits.
    """
    chances = 1 / (1 + np.exp(-np.linspace(-8.0, 2.0, num_settings)))
    return sorted({0.0, *(round(chance, 6) for chance in chances.tolist()), 1.0})


def _falling(share_of: Callable[[np.ndarray], np.ndarray], num_labels: int, num_settings: int) -> list[float]:
    """1, above which is nobody, then shares falling, above the last of which is everybody.

    They are rounded down to 6 digits, the surest to 8, and lie strictly below the shares.

    Args:
        share_of: gives shares for what the exponentials of all logits but the top one are beside its own.
    """
    largest = 16.0 + math.log(num_labels - 1)  # where the top probability is 1e-7 from 1, and float32's steps are 6e-8
    surest, others = (
        share_of(np.exp(-leads)).tolist()
        for leads in (np.linspace(largest, 12.0, num_settings // 8 + 1)[:-1], np.linspace(12.0, 0.0, num_settings))
    )
    rounded = (
        (math.ceil(share * scale) - 1) / scale for shares, scale in ((surest, 1e8), (others, 1e6)) for share in shares
    )
    return sorted({1.0, *rounded}, reverse=True)
