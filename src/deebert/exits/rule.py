"""The exit rule as pure functions: how unsure a head is, where a sample leaves, what it is answered, what that saves.

Shapes: N samples, K settings, L layers (so L heads: ramps 1..L-1, then the backbone's own classifier), C classes.
Layers are counted 1..L.
"""

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Number = TypeVar("Number", float, np.ndarray)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, between 0 and ln C; the last axis (..., C) is reduced.

    Computed in float32 from log-softmax whatever the dtype of `logits`: with exp and division the surest samples
    overflow to NaN, and NaN is below no threshold, so the surest would never leave.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def first_exit(leaves: Tensor) -> Tensor:
    """Layer 1..L at which each sample leaves, (N,) int64: the first layer that lets it go, else L.

    Args:
        leaves: (N, L) bool, a column per head. The last column does not matter: who gets that far answers there.

    Source: Xin et al., ACL 2020, section 3.2.
    """
    leaves = leaves.int()
    leaves[:, -1] = 1
    return leaves.argmax(dim=1) + 1  # argmax gives the first of equal maxima


def answers(predictions: np.ndarray, exit_layers: np.ndarray) -> np.ndarray:
    """Label that each sample is answered, given the labels (N, L) of all heads and its exit layer, 1..L.

    `exit_layers` is (N,), or (K, N) for several settings at once; so is what is returned.
    """
    return predictions[np.arange(len(predictions)), exit_layers - 1]


def layers_saved_frac(mean_exit_layer: Number, num_layers: int) -> Number:
    """Share of the backbone's layers not run: 1 - sum(exit layer) / (L N). Source: Xin et al., equation 2.

    Takes the mean exit layer, a number or an array of them.
    """
    return 1.0 - mean_exit_layer / num_layers


def compute_saved_frac(mean_exit_layer: Number, mean_ramps: Number, ramp_cost_layers: float, num_layers: int) -> Number:
    """Share of the backbone's layers saved once ramps are paid: 1 - sum(exit layer + cost of ramps run) / (L N).

    Takes the mean exit layer and the mean number of ramps that a sample was put to, numbers or arrays of them.
    """
    return layers_saved_frac(mean_exit_layer + ramp_cost_layers * mean_ramps, num_layers)
