"""The exit rule, as pure functions on logits; the offline sweep and a live model use these same lines.

Shapes: N samples, L layers (so L heads: ramps 1..L-1, then the backbone's own classifier), C classes.
Layers are counted 1..L.
"""

import torch
from torch import Tensor


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax in nats, between 0 and ln C; the last axis (..., C) is reduced.

    Computed in float32 from log-softmax whatever the dtype of `logits`: with exp and division the surest samples
    overflow to NaN, and NaN is below no threshold, so the surest would never leave.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    return -(log_probabilities.exp() * log_probabilities).sum(dim=-1)


def exit_layers(entropies: Tensor, threshold: float) -> Tensor:
    """Layer 1..L at which each sample leaves: the first ramp whose entropy is strictly below `threshold`, else L.

    Args:
        entropies: (N, L) in nats, a column per head. The last column does not matter: who gets that far answers there.
        threshold: nats. At 0 nobody leaves early; above ln C everybody leaves at layer 1.

    Returns:
        (N,) int64. Source: Xin et al., ACL 2020, section 3.2.
    """
    leaves = entropies < threshold  # (N, L)
    leaves[:, -1] = True
    return leaves.int().argmax(dim=1) + 1  # argmax gives the first of equal maxima


def answers(logits: Tensor, layers: Tensor) -> Tensor:
    """Label (N,) that each sample's head gives at its exit layer; `logits` is (N, L, C), `layers` (N,) in 1..L."""
    return logits[torch.arange(len(logits)), layers - 1].argmax(dim=-1)


def layers_saved_frac(layers: Tensor, num_layers: int) -> float:
    """Share of the backbone's layers not run: 1 - sum(exit layer) / (L N). Source: Xin et al., equation 2."""
    return 1.0 - layers.double().mean().item() / num_layers
