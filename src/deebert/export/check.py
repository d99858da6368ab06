"""What an exported graph answers to labelled texts, beside what the engine answers; and the thresholds that follow.

The thresholds are chosen on the logits of the same blocks without an exit: blocks in int8 give others than the model
does, and one of several layers has one ramp, at its end.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from deebert.export.folder import Chosen
from deebert.export.runner import Runner, session
from deebert.inference.classifier import EarlyExitClassifier
from deebert.inference.thresholds import HeadScore
from deebert.measure.measured import DELTA, DROPS_POINTS, Measured
from deebert.measure.samples import Samples


@dataclass(frozen=True)
class Agreement:
    """Shares of samples with the engine's label, and with its exit layer, at a threshold.

    The engine has the ramps that the graph has.
    """

    threshold_nats: float
    same_label: float
    same_exit_layer: float


@dataclass(frozen=True)
class Checked:
    """What came of a check.

    Attributes:
        scores: if everybody left at an exit.
        precision: of the engine.
        agreements: at full depth, and at the threshold that was chosen.
    """

    chosen: Chosen
    scores: tuple[HeadScore, ...]
    precision: str
    agreements: tuple[Agreement, ...]


def check(
    folder: Path,
    write_all_exits: Callable[[Path], None],
    classifier: EarlyExitClassifier,
    samples: Samples,
    drop_points: float,
    threshold_nats: float | None,
) -> Checked:
    """Run all samples through a graph of all exits, through that of `folder`, and through the engine.

    Args:
        write_all_exits: writes the first one to a path.
        classifier: the model that was exported.
        drop_points: points of score that the runner may lose by its threshold.
        threshold_nats: the runner's, chosen by somebody else; None = chosen here.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work:
        graph = Path(work) / "all-exits.onnx"
        write_all_exits(graph)
        runner = Runner(folder)
        logits = every_logits(graph, runner, samples.texts)
    ends = np.array(runner.manifest["exit_layers"])
    measured = Measured(samples, logits, ends)
    recommended = measured.recommended({*DROPS_POINTS, drop_points})
    if threshold_nats is None:
        (threshold_nats,) = [each.threshold_nats for each in recommended if each.drop_points == drop_points]
    return Checked(
        Chosen(
            threshold_nats,
            f"{samples.name}, by this graph",
            len(samples.texts),
            samples.metric,
            recommended,
            1 - DELTA,
            measured.certified("accuracy_drop"),
            measured.certified("disagreement"),
        ),
        measured.scores,
        classifier.precision,
        tuple(_agreement(runner, ends, classifier, samples, nats) for nats in sorted({0.0, threshold_nats})),
    )


def every_logits(graph: Path, runner: Runner, texts: Sequence[Any]) -> np.ndarray:
    """Logits (N, E, C) float32 of every exit for N texts, by a graph that nobody leaves early.

    Args:
        runner: of the graph that texts leave early, which has the tokenizer.
    """
    whole = session(graph, threads=0)
    shape = len(texts), len(runner.manifest["exit_layers"]), len(runner.manifest["labels"])
    logits = np.empty(shape, dtype=np.float32)
    with tqdm(desc="check", total=len(texts), unit="text", disable=None) as progress:
        for rows, inputs in runner.batches(texts):
            (logits[rows],) = whole.run(None, inputs)
            progress.update(len(rows))
    return logits


def _agreement(
    runner: Runner, ends: np.ndarray, classifier: EarlyExitClassifier, samples: Samples, nats: float
) -> Agreement:
    of_ramps = [nats if layer in ends else 0.0 for layer in range(1, classifier.num_layers)]
    expected = classifier.predict(samples.texts, of_ramps)
    answers = runner.predict(samples.texts, nats)
    labels = np.array([answer.label for answer in answers]) == np.array(expected.labels)
    layers = np.array([answer.exit_layer for answer in answers]) == expected.exit_layers
    return Agreement(nats, float(labels.mean()), float(layers.mean()))
