"""Trade-off curves: what each setting of a criterion keeps of the score and saves of the layers.

Pure functions of arrays; nothing here runs a model. Shapes: K settings of a criterion, N samples, L layers, C classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from deebert.analysis.folds import stratified_halves
from deebert.analysis.layer_thresholds import fit_layer_thresholds
from deebert.base.rows import Row
from deebert.data.scores import METRICS
from deebert.exits.consistency import fit_consistency
from deebert.exits.criteria import Consistency, Criterion, Entropy, LayerThresholds
from deebert.exits.grids import chance_grid
from deebert.exits.rule import answers, compute_saved_frac, layers_saved_frac
from deebert.exits.table import CRITERIA


@dataclass(frozen=True)
class Curve:
    """Where samples leave by each setting of one criterion, and what they are answered.

    Attributes:
        criterion: its name in rows and figures.
        settings: K, from the safest to the boldest; None where there is nothing to set.
        exit_layers: (K, N) int64, 1..L.
        predictions: (K, N) int64, labels.
        num_layers: L.
        ramps_run: (K, N) int64, how many ramps a sample was put to; None = every one until it left.
    """

    criterion: str
    settings: tuple[float | None, ...]
    exit_layers: np.ndarray
    predictions: np.ndarray
    num_layers: int
    ramps_run: np.ndarray | None = None

    def rows(self, split: str, labels: np.ndarray, main_metric: str, ramp_cost_layers: float) -> list[Row]:
        """One row per setting, scored on (N,) labels; a ramp costs so many layers for each sample that is put to it."""
        every = np.minimum(self.exit_layers, self.num_layers - 1)
        mean_ramps = (every if self.ramps_run is None else self.ramps_run).mean(axis=1)  # (K,)
        mean_exits = self.exit_layers.mean(axis=1)
        compute = compute_saved_frac(mean_exits, mean_ramps, ramp_cost_layers, self.num_layers)
        return [
            {
                "split": split,
                "criterion": self.criterion,
                "threshold": setting,
                "score": METRICS[main_metric](labels, predictions),
                "accuracy": METRICS["accuracy"](labels, predictions),
                "layers_saved_frac": float(layers_saved_frac(mean_exit, self.num_layers)),
                "compute_saved_frac": float(saved),
                "mean_exit_layer": float(mean_exit),
                "n": len(labels),
            }
            for setting, predictions, mean_exit, saved in zip(
                self.settings, self.predictions, mean_exits, compute, strict=True
            )
        ]


@dataclass(frozen=True)
class ScoredCurve:
    """A curve on a split whose labels are known, and how it is scored: what is read off a curve starts from this.

    Attributes:
        split: name of the split in rows.
        curve: its first setting is full depth, by which nobody leaves early.
        labels: (N,).
        metric: name in `scores.METRICS`.
        resampling_seed: of all that is drawn: divisions, resamples, permutations.
    """

    split: str
    curve: Curve
    labels: np.ndarray
    metric: str
    resampling_seed: int


def curve_at(
    name: str,
    settings: Sequence[float | None],
    exit_layers: np.ndarray,
    predictions: np.ndarray,
    ramps_run: np.ndarray | None = None,
) -> Curve:
    """The curve of exits at `exit_layers` (K, N), given each head's answers (N, L)."""
    answered = answers(predictions, exit_layers)
    return Curve(name, tuple(settings), exit_layers, answered, predictions.shape[1], ramps_run)


def curve_of(criteria: Sequence[Criterion], logits: np.ndarray) -> Curve:
    """The curve of one criterion's settings on (N, L, C) logits."""
    readings = criteria[0].read(torch.from_numpy(logits))  # (N, L, ...), the same for all settings
    exit_layers = np.stack([criterion.exit_layers_of(readings).numpy() for criterion in criteria])
    ramps_run = [each.ramps_run(layers, logits.shape[1]) for each, layers in zip(criteria, exit_layers, strict=True)]
    settings = [criterion.setting for criterion in criteria]
    return curve_at(criteria[0].name, settings, exit_layers, logits.argmax(axis=2), np.stack(ramps_run))


def entropy_curve(logits: np.ndarray, thresholds: Sequence[float]) -> Curve:
    """The paper's curve, at rising `thresholds` (nats)."""
    return curve_of([Entropy(threshold) for threshold in thresholds], logits)


def cross_fitted_curve(
    fit: Callable[[np.ndarray, np.ndarray], Sequence[Criterion]],
    logits: np.ndarray,
    labels: np.ndarray,
    resampling_seed: int,
) -> Curve:
    """The curve of a criterion whose settings are fitted, where no sample meets settings that it helped to fit.

    The halves are fitted apart, and each sample leaves by what was fitted to the other half. What is saved may thus be
    less than by one threshold for all, and what is lost more than the fit was allowed.

    Args:
        fit: makes the settings from logits (n, L, C) and labels (n,); as many for any samples, and of the same numbers.
        logits: (N, L, C), with (N,) labels.
    """
    halves = stratified_halves(labels, resampling_seed)
    judged = halves[::-1]
    parts = [curve_of(fit(logits[a], labels[a]), logits[b]) for a, b in zip(halves, judged, strict=True)]
    order = np.argsort(np.concatenate(judged))
    exit_layers, ramps_run = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)[:, order]
        for name in ("exit_layers", "ramps_run")
    )
    return curve_at(parts[0].criterion, parts[0].settings, exit_layers, logits.argmax(axis=2), ramps_run)


def other_curves(entropy: ScoredCurve, logits: np.ndarray, num_settings: int) -> list[Curve]:
    """The curves of all criteria but entropy: each in the table that has a grid, then those that are fitted.

    A grid has up to about `num_settings` settings, none where L is too small for the criterion: then it has no curve.
    Thresholds ramp by ramp, fitted over those of entropy, and the weights of consistency are judged by halves that
    had no part in fitting. The former's setting is the drop in percentage points that the fit was allowed. A split of
    fewer than two samples has neither.
    """

    def layer_thresholds(logits: np.ndarray, labels: np.ndarray) -> list[LayerThresholds]:
        return fit_layer_thresholds(logits, labels, entropy.metric, entropy.curve.settings)

    def consistency(logits: np.ndarray, labels: np.ndarray) -> list[Consistency]:
        weights = fit_consistency(logits)
        return [Consistency(weights, threshold) for threshold in chance_grid(num_settings)]

    num_layers, num_labels = logits.shape[1:]
    grids = [entry.grid(num_layers, num_labels, num_settings) for entry in CRITERIA.values() if entry.grid]
    curves = [curve_of(criteria, logits) for criteria in grids if criteria]
    given = logits, entropy.labels, entropy.resampling_seed
    if len(entropy.labels) > 1:
        curves += [cross_fitted_curve(fit, *given) for fit in (layer_thresholds, consistency)]
    return curves
