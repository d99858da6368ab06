"""The score of every head: rows and the figures a pull request shows."""

import numpy as np
import pytest

from deebert.analysis.layers import _error_of_difference, layer_metrics, layer_rows, unlearned
from deebert.data.scores import METRICS
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


def answers(*predictions: np.ndarray) -> np.ndarray:
    """Logits (N, L, C) of heads with these answers, C as small as they allow."""
    return np.eye(np.max(predictions) + 1, dtype=np.float32)[np.stack(predictions, axis=1)]


def test_a_ramp_far_ahead_of_full_depth_is_found() -> None:
    """The best of those that are ahead by more than chance; not where few samples say so, or few points."""
    labels = np.arange(400) % 4
    right = np.array([100, 300, 250, 200])[:, None]
    logits = answers(*np.where(np.arange(400) < right, labels, (labels + 1) % 4))
    assert unlearned(logits, labels, "accuracy") == "the ramp after layer 2 scores 75.0 %, full depth 50.0 %"
    assert "layer 2" in unlearned(logits, labels, "macro_f1")
    assert unlearned(logits[:, [0, 3]], labels, "accuracy") is None, "full depth is ahead"
    assert unlearned(logits[192:204], labels[192:204], "accuracy") is None, "12 samples"


def test_the_score_of_the_task_tells() -> None:
    """Of a rare class accuracy says next to nothing: a ramp that finds it is ahead by F1 alone."""
    labels = (np.arange(1000) % 20 == 0).astype(int)
    found, missed = labels * (np.arange(1000) < 800), labels * (np.arange(1000) < 200)
    logits = answers(found, missed)
    assert unlearned(logits, labels, "accuracy") is None
    assert unlearned(logits, labels, "f1") == "the ramp after layer 1 scores 88.9 %, full depth 33.3 %"


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_full_depth_that_gives_one_answer_is_no_measure(metric: str) -> None:
    """It is told beside what the best of such answers would score, by every metric."""
    labels = (np.arange(200) % 20 == 0).astype(int)
    never = np.zeros(200, dtype=int)
    full, same = METRICS[metric](labels, never), max(METRICS[metric](labels, never + label) for label in (0, 1))
    expected = f"full depth scores {100 * full:.1f} %, one answer to all samples {100 * same:.1f} %"
    assert unlearned(answers(labels, never), labels, metric) == expected
    assert unlearned(answers(never, labels), labels, metric) is None
    assert unlearned(answers(labels, labels)[::20], labels[::20], metric) is None, "of one class"


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_the_error_of_a_difference_is_what_resampling_finds(metric: str) -> None:
    """Standard deviation of the difference of two heads' scores over bootstrap samples."""
    rng = np.random.default_rng(3)
    labels = (rng.random(600) < 0.3).astype(int)
    heads = np.stack([np.where(rng.random(600) < share, 1 - labels, labels) for share in (0.1, 0.3)], axis=1)
    drawn = []
    for _ in range(400):
        picks = rng.integers(600, size=600)
        first, second = (METRICS[metric](labels[picks], heads[picks, head]) for head in (0, 1))
        drawn.append(first - second)
    assert _error_of_difference(heads, labels, metric) == pytest.approx(np.std(drawn), rel=0.15)
