"""The figures of a run of the pipeline, as its metrics and plots hold them, for the very model that it made."""

import logging
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.base.metric_keys import figure_key, figure_target

log = logging.getLogger(__name__)

MAX_SHOWN = 40  # characters of a wrong value
MODES = {"batch_1": "one at a time", "batched": "batched"}  # as people write them
TEXT, COUNT, NUMBER, FIGURES = "a text", "a whole number", "a number", "numbers by name"
# What is read of each file, by key and, after a dot, by key within the key.
NEEDED = {
    "layers": {
        "task": TEXT,
        "n": COUNT,
        "num_layers": COUNT,
        "full_score": NUMBER,
        "split": TEXT,
        "weights": TEXT,
        "precision": TEXT,
    },
    "sweep": {"task": TEXT, "n": COUNT, "full_score": NUMBER, "layers_saved_at": FIGURES, "threshold_at": FIGURES},
    "choice": {
        "task": TEXT,
        "n": COUNT,
        "cross_fitted_score_at": FIGURES,
        "certified_confidence": NUMBER,
        "certified_layers_saved_at": FIGURES,
        "certified_threshold_at": FIGURES,
    },
    "benchmark": {
        "task": TEXT,
        "n": COUNT,
        "device": TEXT,
        "threads": COUNT,
        "precision": TEXT,
        "threshold": NUMBER,
        "layers_saved_frac": NUMBER,
        **{f"{who}.{mode}_samples_per_s": NUMBER for who in ("plain", "early_exit") for mode in MODES},
        **{f"early_exit.{mode}_time_saved_frac": NUMBER for mode in MODES},
    },
}
# What shares the rows of a table, as (file, key): each has a figure for every target that the first one has.
ROWS = (
    ("drop", ("sweep", "threshold_at"), ("sweep", "layers_saved_at"), ("choice", "cross_fitted_score_at")),
    ("risk", ("choice", "certified_threshold_at"), ("choice", "certified_layers_saved_at")),
)
LEFT_OUT = "%s: is not of the run whose metrics were read; %s are left out"


def read_metrics(folder: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pipeline's metrics in `folder`, by name: `layers`, `sweep`, `choice` and, if of that run, `benchmark`.

    Where the run's `plots` lie beside them, `layer_scores` are each layer's, by layer, and `certified_changed` are rows
    of the certificates by answers changed.

    Args:
        about: of the model, its `task`, `num_layers` and `weights` (see `model.fingerprint`).

    Raises:
        UserError: missing, damaged, of another model, or not all of one run.
    """
    metrics = {name: read_json(folder / f"{name}.json") for name in ("layers", "sweep", "choice")}
    for name, content in metrics.items():
        _check_content(folder / f"{name}.json", content, NEEDED[name])
        _check_same(folder, name, "task", content["task"], about.get("task"), "the model's")
    _check_targets(folder, metrics)
    layers, sweep = metrics["layers"], metrics["sweep"]
    for key in ("num_layers", "weights"):
        _check_same(folder, "layers", key, layers[key], about[key], "the model's")
    for key in ("n", "full_score"):
        _check_same(folder, "sweep", key, sweep[key], layers[key], "as in layers.json")
    _check_same(folder, "choice", "n", metrics["choice"]["n"], sweep["n"], "as in sweep.json")
    if (timed := folder / "benchmark.json").exists() and (times := _times(timed, layers, sweep)):
        metrics["benchmark"] = times
    plots = folder.absolute().parent / "plots"
    if (plotted := plots / "layers.json").exists():
        metrics["layer_scores"] = _plotted_scores(plotted, layers)
    if (plotted := plots / "certificates.json").exists():
        metrics["certified_changed"] = _plotted_certificates(plotted, layers["split"], metrics["choice"])
    return metrics


def _is(kind: str, value: Any) -> bool:
    if kind == FIGURES:
        return isinstance(value, dict) and all(_is(NUMBER, each) for each in value.values())
    return isinstance(value, {TEXT: str, COUNT: int, NUMBER: Real}[kind]) and not isinstance(value, bool)


def _check_content(path: Path, content: Any, needed: Mapping[str, str]) -> None:
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected figures by name, found {str(content)[:MAX_SHOWN]}; `dvc repro` makes it")
    for dotted, kind in needed.items():
        found: Any = content
        for key in dotted.split("."):
            if not isinstance(found, dict) or key not in found:
                raise UserError(f"{path}: has no {dotted}; `dvc repro` makes it")
            found = found[key]
        if not _is(kind, found):
            raise UserError(f"{path}: {dotted}: {str(found)[:MAX_SHOWN]} is not allowed; expected {kind}")


def _times(path: Path, layers: Mapping[str, Any], sweep: Mapping[str, Any]) -> dict[str, Any]:
    """What the clock found, in `path`; nothing where it is not of the run that `layers` and `sweep` are of.

    That stage may be left out: `dvc repro plot` leaves the times of the run before where they are.
    """
    times = read_json(path)
    _check_content(path, times, NEEDED["benchmark"])
    if times.get("weights") == layers["weights"] and times["threshold"] in sweep["threshold_at"].values():
        return times
    log.warning(LEFT_OUT, path, "times")
    return {}


def _plotted_scores(path: Path, layers: Mapping[str, Any]) -> dict[int, float]:
    """Score by layer, from the pipeline's rows in `path`; none where they are not of the run that `layers` is of.

    Metrics hold a dozen figures, and so not each layer's score. The plots of the same run do.
    """
    try:
        rows = read_json(path)
        kind = rows[0]["split"], rows[0]["metric"]
        scores = {int(row["layer"]): float(row["score"]) for row in rows if (row["split"], row["metric"]) == kind}
    except (UserError, LookupError, TypeError, ValueError):
        scores = {}
    depth = layers["num_layers"]
    if sorted(scores) != list(range(1, depth + 1)) or round(scores[depth], 4) != layers["full_score"]:
        log.warning(LEFT_OUT, path, "scores of layers")
        return {}
    return dict(sorted(scores.items()))


def _plotted_certificates(path: Path, split: str, choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows by the share of answers changed, from `path`; none where they are not of the run that `choice` is of."""
    try:
        rows = [row for row in read_json(path) if row["split"] == split]
        accuracy, changed = (
            {figure_key("risk", row["epsilon"]): row for row in rows if row["loss"] == loss}
            for loss in ("accuracy_drop", "disagreement")
        )
        certified = {key: row["threshold"] for key, row in accuracy.items()}
        numbers = [row[key] for row in changed.values() for key in ("epsilon", "threshold", "layers_saved_frac")]
        is_whole = all(_is(NUMBER, number) for number in numbers)
    except (UserError, LookupError, TypeError, ValueError):
        certified, is_whole = None, False
    if certified != choice["certified_threshold_at"] or not is_whole:
        log.warning(LEFT_OUT, path, "certificates by answers changed")
        return []
    return list(changed.values())


def _check_targets(folder: Path, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """UserError where a row of a table would lack a figure, or a key names no target."""
    for kind, (first_file, first), *others in ROWS:
        targets = metrics[first_file][first]
        for key in targets:
            try:
                figure_target(kind, key)
            except ValueError:
                where = f"{folder / first_file}.json: {first}"
                raise UserError(f"{where}: {key} is not allowed; expected such as {kind}_0_5") from None
        for file, key in others:
            found, expected = (", ".join(sorted(names)) for names in (metrics[file][key], targets))
            _check_same(folder, file, key, found, expected, f"as in {first} of {first_file}.json")


def _check_same(folder: Path, name: str, key: str, found: Any, expected: Any, whose: str) -> None:
    if found != expected:
        raise UserError(f"{folder / name}.json: metrics of another model: {key} {found}; expected {expected}, {whose}")
