"""The score of every head: rows and the figures a pull request shows."""

import pytest

from deebert.analysis.layers import layer_metrics, layer_rows
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
