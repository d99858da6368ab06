"""The score of every head: rows and the figures a pull request shows."""

import numpy as np
import pytest

from deebert.analysis.layers import layer_metrics, layer_rows, ramp_ahead
from tests.heads import check_metrics, heads, naive_accuracy, naive_f1

N, LAYERS = 40, 4


def test_layer_rows_come_metric_by_metric() -> None:
    """One row per metric and layer 1..L, the main metric first, with the score of that head alone."""
    logits, labels = heads(3)
    rows = layer_rows("validation", logits, labels, ["f1", "accuracy"])
    assert [(row["metric"], row["layer"]) for row in rows] == [(m, i) for m in ("f1", "accuracy") for i in (1, 2, 3, 4)]
    for row in rows:
        predictions = logits[:, row["layer"] - 1].argmax(axis=1).tolist()
        naive = {"f1": naive_f1, "accuracy": naive_accuracy}[row["metric"]]
        assert row["score"] == pytest.approx(naive(labels.tolist(), predictions))
        assert row["split"] == "validation"


@pytest.mark.parametrize("metrics", [["accuracy"], ["f1", "accuracy"]])
def test_layer_metrics(metrics: list[str]) -> None:
    """The figures are those of the main metric on the split asked for; the keys are the same for any task."""
    logits, labels = heads(1)
    rows = layer_rows("validation_matched", logits, labels, metrics)
    other_logits, other_labels = heads(2)
    content = layer_metrics(
        "MNLI", rows + layer_rows("other", other_logits, other_labels, metrics), "validation_matched", N
    )
    check_metrics(content)
    scores = [row["score"] for row in rows if row["metric"] == metrics[0]]
    assert content["full_score"] == round(scores[-1], 4)
    assert content["full_accuracy"] == round(float((logits[:, -1].argmax(axis=1) == labels).mean()), 4)
    assert [content[f"ramp_{name}_score"] for name in ("first", "middle", "last")] == [round(s, 4) for s in scores[:3]]
    assert content["ramp_best_score"] == round(max(scores[:3]), 4)
    assert scores[content["ramp_best_layer"] - 1] == max(scores[:3])
    assert (content["num_layers"], content["n"]) == (LAYERS, N)
    assert list(content) == list(
        layer_metrics("RTE", layer_rows("v", other_logits, other_labels, ["accuracy"]), "v", 1)
    )


def test_of_equally_good_ramps_the_first_is_the_best() -> None:
    logits = np.zeros((4, 5, 2), dtype=np.float32)
    logits[:, 1:, 1] = 1
    metrics = layer_metrics("toy", layer_rows("v", logits, np.ones(4, int), ["accuracy"]), "v", 4)
    assert metrics["ramp_best_layer"] == 2


def test_a_ramp_far_ahead_of_full_depth_is_found() -> None:
    """The best of those that are ahead by more than chance; not where few samples say so, or few points."""
    labels = np.arange(400) % 4
    logits = np.zeros((400, 4, 4), np.float32)
    for layer, right in enumerate((100, 300, 250, 200)):
        logits[np.arange(right), layer, labels[:right]] = 1
        logits[np.arange(right, 400), layer, (labels[right:] + 1) % 4] = 1
    assert ramp_ahead(logits, labels) == (2, 75.0, 50.0)
    assert ramp_ahead(logits[:, [0, 3]], labels) is None, "full depth is ahead"
    assert ramp_ahead(logits[196:204], labels[196:204]) is None, "8 samples"
