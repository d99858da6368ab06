"""The exit criteria that `predict` takes in place of a threshold, under the name that programs import."""

from deebert.exits.criteria import (
    ConfidentStreak,
    Consistency,
    Criterion,
    Entropy,
    LayerThresholds,
    Margin,
    MaxProbability,
    Patience,
)

__all__ = [
    "ConfidentStreak",
    "Consistency",
    "Criterion",
    "Entropy",
    "LayerThresholds",
    "Margin",
    "MaxProbability",
    "Patience",
]
