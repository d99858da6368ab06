"""From every head's logits to all that is known of exits: the tables of a split, and the few figures of a pull request.

Pure functions of arrays; nothing here runs a model. Shapes: N samples, L layers, C classes.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from deebert.analysis.baselines import fixed_layer_curve, oracle_curves, random_exit_rows
from deebert.analysis.calibration import calibration_rows
from deebert.analysis.certificates import certificate_rows
from deebert.analysis.choice import Resampled, band_rows, choice_rows
from deebert.analysis.curves import Curve, ScoredCurve, entropy_curve, other_curves
from deebert.analysis.kept_ramps import kept_rows
from deebert.analysis.logits import SplitLogits
from deebert.base.metric_keys import figure_key
from deebert.base.rows import Row
from deebert.exits.grids import NAMED_SHARES, threshold_grid, thresholds_at
from deebert.exits.rule import entropy
from deebert.exits.table import full_depth_row
from deebert.settings.entropy_sweep import EntropySweep

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def split_tables(scored: ScoredCurve, saved: SplitLogits, settings: EntropySweep) -> dict[str, list[Row]]:
    """The tables about any split, by name.

    `sweep` has the curves, entropy's first, then those of other criteria and baselines. `exits`,
    `depths` and `entropies` tell who leaves where, and how sure heads are.
    """
    split, curve, logits, labels = scored.split, scored.curve, saved.logits, saved.labels
    predictions, cost = logits.argmax(axis=2), settings.ramp_cost_layers  # (N, L)
    baselines = [fixed_layer_curve(predictions), *oracle_curves(predictions, labels)]
    others = other_curves(scored, logits, settings.grid_points)
    return {
        "sweep": [
            *(row for each in (curve, *others, *baselines) for row in each.rows(split, labels, scored.metric, cost)),
            *random_exit_rows(scored, predictions, cost),
        ],
        "exits": exit_rows(split, curve, named_thresholds(settings, logits.shape[2])),
        "depths": depth_rows(split, curve, saved.difficulty),
        "entropies": entropy_rows(split, logits, labels, saved.difficulty),
    }


def choice_tables(scored: ScoredCurve, saved: SplitLogits, settings: EntropySweep) -> dict[str, list[Row]]:
    """The tables about a validation split that tell what to deploy and how far to trust it, by name.

    They are `choice`, `recommended`, `bands`, `certificates`, `leavers` and `calibration`. A test split has none: it
    must not choose. `recommended` is of `choice` what does not move with the samples drawn anew: the thresholds alone.
    """
    split, labels, targets, cost = scored.split, scored.labels, settings.targets, settings.ramp_cost_layers
    resampled = Resampled(scored)
    kept = kept_rows(scored, saved.logits, targets, cost)
    by_threshold = {row["threshold"]: row for row in scored.curve.rows(split, labels, scored.metric, cost)}
    choice = [
        row | {"compute_saved_frac": by_threshold[row["threshold"]]["compute_saved_frac"]} | more
        for row, more in zip(choice_rows(resampled, targets), kept, strict=True)
    ]
    thresholds = [row["threshold"] for row in choice]
    return {
        "choice": choice,
        "recommended": [{key: row[key] for key in ("split", "target_drop_points", "threshold")} for row in choice],
        "bands": band_rows(resampled),
        "certificates": certificate_rows(scored, settings.risk.epsilons, settings.risk.delta),
        "leavers": leaver_rows(split, scored.curve, thresholds, saved),
        "calibration": calibration_rows(split, saved.logits, labels, scored.resampling_seed) if len(labels) > 1 else [],
    }


def scored_curve(split: str, saved: SplitLogits, main_metric: str, settings: EntropySweep) -> ScoredCurve:
    """The entropy curve of a split, at the thresholds that are shown by name and those of the grid."""
    num_labels = saved.logits.shape[2]
    grid = threshold_grid(num_labels, settings.grid_points)
    curve = entropy_curve(saved.logits, sorted({0.0, *named_thresholds(settings, num_labels), *grid}))
    return ScoredCurve(split, curve, saved.labels, main_metric, settings.resampling_seed)


def named_thresholds(settings: EntropySweep, num_labels: int) -> tuple[float, ...]:
    """Thresholds (nats) that figures show by name: those that were asked for, else the usual shares of ln C."""
    return thresholds_at(NAMED_SHARES, num_labels) if settings.thresholds is None else settings.thresholds


def exit_rows(split: str, curve: Curve, thresholds: Iterable[float]) -> list[Row]:
    """How many samples leave at each layer 1..L, for each of `thresholds`, which are among the curve's."""
    rows = []
    for threshold in thresholds:
        layers = curve.exit_layers[curve.settings.index(threshold)]
        counts = np.bincount(layers, minlength=curve.num_layers + 1)[1:]
        rows += [
            {"split": split, "threshold": threshold, "layer": i + 1, "exits": count}
            for i, count in enumerate(counts.tolist())
        ]
    return rows


def leaver_rows(split: str, curve: Curve, thresholds: Iterable[float], saved: SplitLogits) -> list[Row]:
    """What kind of samples leave at each layer and how often they are wrong, for thresholds that are among the curve's.

    `error_rate` is of the answers given there, `full_depth_error_rate` of those that the same samples would have got at
    full depth. `mean_tokens` and, where the data set grades its samples, `mean_difficulty` say who they are. A layer
    where nobody leaves has no row.
    """
    full_depth_wrong = curve.predictions[curve.settings.index(0.0)] != saved.labels
    rows = []
    for threshold in sorted(set(thresholds)):
        k = curve.settings.index(threshold)
        wrong = curve.predictions[k] != saved.labels
        for layer in np.unique(curve.exit_layers[k]):
            members = curve.exit_layers[k] == layer
            row = {
                "split": split,
                "threshold": threshold,
                "layer": int(layer),
                "exits": int(members.sum()),
                "error_rate": float(wrong[members].mean()),
                "full_depth_error_rate": float(full_depth_wrong[members].mean()),
                "mean_tokens": float(saved.token_counts[members].mean()),
            }
            if saved.difficulty is not None:
                row["mean_difficulty"] = float(saved.difficulty[members].mean())
            rows.append(row)
    return rows


def entropy_rows(split: str, logits: np.ndarray, labels: np.ndarray, difficulty: np.ndarray | None) -> list[Row]:
    """Quantiles of each head's entropy (nats), for its right and its wrong answers and for each grade of difficulty."""
    entropies = entropy(torch.from_numpy(logits)).numpy()  # (N, L)
    rows = []
    for i in range(logits.shape[1]):
        correct = logits[:, i].argmax(axis=1) == labels
        groups = {"correct": correct, "wrong": ~correct}
        if difficulty is not None:
            groups |= {f"difficulty {grade}": difficulty == grade for grade in np.unique(difficulty)}
        for group, members in groups.items():
            if not members.any():
                continue
            quantiles = np.quantile(entropies[members, i], QUANTILES)
            named = {f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
            rows.append({"split": split, "layer": i + 1, "group": group, **named, "n": int(members.sum())})
    return rows


def depth_rows(split: str, curve: Curve, difficulty: np.ndarray | None) -> list[Row]:
    """Mean exit layer of each grade of difficulty, at each setting; none where the data has no grades."""
    grades = [] if difficulty is None else np.unique(difficulty)
    rows = []
    for threshold, layers in zip(curve.settings, curve.exit_layers, strict=True):
        for grade in grades:
            members = layers[difficulty == grade]
            rows.append(
                {
                    "split": split,
                    "threshold": threshold,
                    "difficulty": int(grade),
                    "mean_exit_layer": float(members.mean()),
                    "n": len(members),
                }
            )
    return rows


def _deciding(split: str, tables: Mapping[str, Sequence[Row]]) -> tuple[Row, dict[str, Row]]:
    """Of one split: full depth's row, and that of each target drop by its key in metrics files."""
    full = full_depth_row(row for row in tables["sweep"] if row["split"] == split)
    choice = {figure_key("drop", row["target_drop_points"]): row for row in tables["choice"] if row["split"] == split}
    return full, choice


def sweep_metrics(task: str, split: str, tables: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """What was seen on `split`, from the tables of one or more splits, as a pull request shows it.

    Per target drop (points): the most layers saved and the threshold (nats) that does it.
    """
    full, choice = _deciding(split, tables)
    return {
        "task": task,
        "n": full["n"],
        "full_score": round(full["score"], 4),
        "layers_saved_at": {key: round(row["layers_saved_frac"], 4) for key, row in choice.items()},
        "threshold_at": {key: row["threshold"] for key, row in choice.items()},
    }


def compute_metrics(
    task: str, split: str, tables: Mapping[str, Sequence[Row]], ramp_cost_layers: float
) -> dict[str, Any]:
    """What is saved once ramps are paid, from the same tables.

    Per target drop (points): by the threshold in `sweep_metrics`, and by the ramps that are worth keeping.
    """
    full, choice = _deciding(split, tables)
    return {
        "task": task,
        "n": full["n"],
        "ramp_cost_layers": ramp_cost_layers,
        "compute_saved_at": {key: round(row["compute_saved_frac"], 4) for key, row in choice.items()},
        "kept_compute_saved_at": {key: round(row["kept_compute_saved_frac"], 4) for key, row in choice.items()},
    }


def choice_metrics(task: str, split: str, tables: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """What to expect on samples that were not seen, from the same tables.

    Per target drop (points): the score to expect of the threshold in `sweep_metrics`. Per tolerated risk: the layers
    saved that are certified, with `certified_confidence`, not to cost more accuracy, and the threshold (nats) that
    saves them; 0 where none are.
    """
    full, choice = _deciding(split, tables)
    certified = {
        figure_key("risk", row["epsilon"]): row
        for row in tables["certificates"]
        if (row["split"], row["loss"]) == (split, "accuracy_drop")
    }
    (delta,) = {row["delta"] for row in certified.values()}
    return {
        "task": task,
        "n": full["n"],
        "cross_fitted_score_at": {key: round(row["score"], 4) for key, row in choice.items()},
        "certified_confidence": round(1 - delta, 4),
        "certified_layers_saved_at": {key: round(row["layers_saved_frac"], 4) for key, row in certified.items()},
        "certified_threshold_at": {key: row["threshold"] for key, row in certified.items()},
    }
