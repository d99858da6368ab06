"""What is measured on labelled texts is what the pipeline would find on them."""

from pathlib import Path

import numpy as np
import pytest

from deebert.analysis.certificates import LOSSES
from deebert.analysis.layers import layer_rows
from deebert.analysis.logits import SplitLogits
from deebert.analysis.sweep import choice_tables, scored_curve
from deebert.measure.measured import Measured
from deebert.measure.samples import Samples
from deebert.settings.params import read_params

COUNT, LAYERS = 300, 4
DEFAULTS = Path(__file__).parents[2] / "results" / "params.yaml"  # params.yaml is its user's


def drawn(num_labels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, L, C) of heads that are right the more often, and the surer, the deeper they are; and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_labels, COUNT)
    truth = np.eye(num_labels)[labels][:, None]
    depth = np.arange(1, LAYERS + 1)[:, None]
    logits = truth * depth * rng.exponential(1.5, (COUNT, 1, 1)) + rng.normal(0, 1, (COUNT, LAYERS, num_labels))
    return logits.astype(np.float32), labels


def samples_of(labels: np.ndarray, metric: str = "accuracy") -> Samples:
    return Samples("fresh.csv", [""] * len(labels), labels, metric)


@pytest.mark.parametrize(("num_labels", "metric"), [(2, "accuracy"), (2, "f1"), (5, "macro_f1")])
def test_it_finds_what_the_pipeline_finds(num_labels: int, metric: str) -> None:
    """The same thresholds, savings, cross-fitted scores, certificates and scores of layers, by the default settings."""
    logits, labels = drawn(num_labels)
    settings = read_params(DEFAULTS).entropy_sweep
    saved = SplitLogits(logits, labels, np.arange(COUNT), np.ones(COUNT, dtype=np.int64))
    tables = choice_tables(scored_curve("validation", saved, metric, settings), saved, settings)
    measured = Measured(samples_of(labels, metric), logits)
    keys = "target_drop_points", "threshold", "layers_saved_frac", "score"
    expected = [tuple(row[key] for key in keys) for row in tables["choice"]]
    found = [tuple(vars(each).values()) for each in measured.recommended()]
    assert len(expected) == 4 and 0 < expected[-1][2] < 1
    np.testing.assert_allclose(found, expected, atol=5e-5)
    keys = "epsilon", "threshold", "layers_saved_frac"
    for loss in LOSSES:
        expected = [tuple(row[key] for key in keys) for row in tables["certificates"] if row["loss"] == loss]
        found = [tuple(vars(each).values()) for each in measured.certified(loss)]
        assert len(expected) == 3 and expected[-1][2] > 0
        np.testing.assert_allclose(found, expected, atol=5e-5)
    assert [(each.layer, each.score) for each in measured.scores] == [
        (row["layer"], row["score"]) for row in layer_rows("validation", logits, labels, (metric,))
    ]


def test_a_threshold_that_was_chosen_elsewhere_is_judged() -> None:
    """By counting: who leaves below it, what that saves, and the loss against full depth, within its interval."""
    logits, labels = drawn(3, seed=1)
    shares = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    entropies = -(shares * np.log(shares)).sum(axis=2)
    measured = Measured(samples_of(labels), logits, thresholds=[0.54321, 0.0, 0.2])
    assert [each.threshold_nats for each in measured.judged()] == [0.0, 0.2, 0.54321]
    right = logits.argmax(axis=2) == labels[:, None]
    for each in measured.judged():
        sure = entropies < each.threshold_nats
        sure[:, -1] = True
        exits = sure.argmax(axis=1)
        score = right[np.arange(COUNT), exits].mean()
        assert each.score == pytest.approx(score)
        assert each.layers_saved_frac == pytest.approx(1 - (exits + 1).mean() / LAYERS)
        assert each.lost_points == pytest.approx(100 * (right[:, -1].mean() - score))
        assert each.lost_points_low <= each.lost_points <= each.lost_points_high
    assert each.lost_points > 0 and each.lost_points_low < each.lost_points_high
    assert Measured(samples_of(labels), logits).judged() == ()


def test_heads_after_some_layers_only() -> None:
    """Layers saved are the model's, and not the heads'."""
    logits, labels = drawn(2)
    few = Measured(samples_of(labels), logits[:, [1, 3]], np.array([2, 4]), thresholds=[0.3])
    assert [each.layer for each in few.scores] == [2, 4]
    everybody = max(each.layers_saved_frac for each in few.recommended([100.0]))
    assert everybody == 0.5 and 0 < few.judged()[0].layers_saved_frac < 0.5


def test_a_threshold_that_is_known_twice_is_judged_once() -> None:
    """Two allowed losses often have one threshold."""
    logits, labels = drawn(2)
    measured = Measured(samples_of(labels), logits, thresholds=[0.3, 0.2, 0.3])
    assert [each.threshold_nats for each in measured.judged()] == [0.2, 0.3]


def test_the_smallest_loss_comes_first() -> None:
    """However they are given."""
    logits, labels = drawn(2)
    found = Measured(samples_of(labels), logits).recommended(iter([3.0, 0.5]))
    assert [each.drop_points for each in found] == [0.5, 3.0]
