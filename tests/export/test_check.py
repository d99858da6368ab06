"""What is told of a check."""

from types import SimpleNamespace
from typing import Any

import numpy as np

from deebert.cli.export import _told
from deebert.export.check import Checked, _agreement
from deebert.export.folder import Chosen
from deebert.export.runner import Answer
from deebert.inference.classifier import Predictions
from deebert.inference.thresholds import HeadScore


def test_labels_and_exit_layers_agree_each_for_itself() -> None:
    """The engine has the threshold at the ramps of the graph alone; labels come first where they are told."""
    asked: list[Any] = []

    def predict(texts: list[str], thresholds: list[float]) -> Predictions:
        asked.append(thresholds)
        return Predictions(["no", "yes", "no", "yes"], np.zeros((4, 2), np.float32), np.array([2, 3, 4, 2]))

    answers = [Answer(label, 0.5, layer) for label, layer in zip(["no", "yes", "no", "no"], [2, 2, 2, 2], strict=True)]
    found = _agreement(
        SimpleNamespace(predict=lambda texts, nats: answers),
        np.array([2, 3, 4]),
        SimpleNamespace(num_layers=4, predict=predict),
        SimpleNamespace(texts=["w1"] * 4),
        0.25,
    )
    assert asked == [[0.0, 0.25, 0.25]]
    assert (found.threshold_nats, found.same_label, found.same_exit_layer) == (0.25, 0.75, 0.5)
    told = _told(Checked(Chosen(0.25, "tests", 4, "accuracy"), (HeadScore(4, 1.0),), "fp32", (found,)))
    assert "  0.25  75.00  50.00" in told
