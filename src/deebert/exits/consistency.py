"""The chance that full depth answers otherwise than a ramp: what tells of it, and the fit of how much it tells.

Source: the meta consistency classifier of CATs, Schuster et al., "Consistent Accelerated Inference via Confident
Adaptive Transformers", EMNLP 2021, https://arxiv.org/abs/2104.08803. Theirs is a small network that reads hidden states
too. Here it is a logistic regression on two numbers of each ramp.

Shapes: N samples, L layers (heads 1..L, ramps 1..L-1), C classes.
"""

import numpy as np
import torch
from torch import Tensor

from deebert.base.errors import UserError

MOST_LOG_ODDS = 30.0  # what is surer counts as this sure: infinite logits would leave nothing to add up

Weights = tuple[tuple[float, float, float], ...]  # of ramps 1..L-1, each: intercept, and what `evidence` weighs


def log_odds(logits: Tensor, answers: Tensor) -> Tensor:
    """Log-odds of the classes `answers` (...) by (..., C) logits, within -30 to 30; NaN where a logit is NaN."""
    answers = answers[..., None]
    others = logits.scatter(-1, answers, -torch.inf).logsumexp(dim=-1)
    return (logits.gather(-1, answers)[..., 0] - others).clamp(-MOST_LOG_ODDS, MOST_LOG_ODDS)


def evidence(logits: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Log-odds of a ramp's answers, (N,), by itself and by the ramp before, from the (N, C) logits of both.

    The first ramp has none before it: there `before` is (N, 0), and what it would say is 0.
    """
    answers = logits.argmax(dim=-1)
    sure = log_odds(logits, answers)
    return sure, log_odds(before, answers) if before.shape[1] else torch.zeros_like(sure)


def fit_consistency(logits: np.ndarray) -> Weights:
    """Weights of each ramp that tell best, on (N, L, C) logits, whether its answer is not that of full depth.

    A ridge logistic regression per ramp, in float64: the log-loss, summed over samples, and half the sum of squared
    weights, of evidence divided by its standard deviation. The ridge keeps the weights finite where a ramp never
    differs from full depth. No labels are needed, but samples that the model was not trained on: to its training
    samples full depth is surer. A sample that is NaN at a ramp, or at full depth, has no part in that ramp's fit.

    Raises:
        UserError: a ramp for which no sample is left.
    """
    heads = torch.from_numpy(logits).float()
    full_depth = heads[:, -1].argmax(dim=1)
    known = ~heads[:, -1].isnan().any(dim=1)
    weights, before = [], heads[:, 0, :0]
    for i in range(heads.shape[1] - 1):
        told = torch.stack(evidence(heads[:, i], before), dim=1)  # (N, 2)
        part = known & ~told.isnan().any(dim=1)
        if not part.any():
            raise UserError(f"consistency: ramp {i + 1} has nothing to be fitted on: no sample has numbers for logits")
        changed = heads[:, i].argmax(dim=1) != full_depth
        weights.append(_logistic_regression(told[part].double().numpy(), changed[part].numpy()))
        before = heads[:, i]
    return tuple(weights)


def _logistic_regression(told: np.ndarray, event: np.ndarray) -> tuple[float, float, float]:
    """Intercept and slopes for `told` (N, 2) that predict `event` (N,) bool."""
    # Not above: whoever answers imports this module, and the fit is not for them.
    from scipy.optimize import minimize
    from scipy.special import expit

    spread = told.std(axis=0)
    scale = np.append(1.0, np.where(spread > 1e-9, spread, 1.0))
    x = np.column_stack([np.ones(len(told)), told]) / scale

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        odds = x @ weights
        value = np.logaddexp(0.0, odds).sum() - event @ odds + weights @ weights / 2
        return value, x.T @ (expit(odds) - event) + weights

    def curvature(weights: np.ndarray) -> np.ndarray:
        chance = expit(x @ weights)
        return (x.T * (chance * (1 - chance))) @ x + np.eye(3)

    # A ramp that is always about as sure is hard for methods that do not know the curvature.
    options = {"gtol": 1e-9 * len(x)}
    found = minimize(loss, np.zeros(3), jac=True, hess=curvature, method="trust-exact", options=options)
    return tuple((found.x / scale).tolist())
