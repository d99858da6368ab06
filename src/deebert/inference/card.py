"""The model card: what a stranger must know before using the model."""

import hashlib
import logging
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.base.metric_keys import figure_target
from deebert.data.scores import METRIC_NAMES

log = logging.getLogger(__name__)

MAX_SHOWN = 40  # characters of a wrong value
CAUTIOUS_POINTS = 1.0  # of score, what the example may lose
MODES = {"batch_1": "one at a time", "batched": "batched"}
TEXT, COUNT, NUMBER, FIGURES = "a text", "a whole number", "a number", "numbers by name"
# What the card reads of each file, by key and, after a dot, by key within the key.
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
SEAL = "\n<!-- unedited card of deebert, sha256 of all above: {} -->\n"


def read_metrics(folder: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pipeline's metrics in `folder`, by name: `layers`, `sweep`, `choice` and, if of that run, `benchmark`.

    Where the run's `plots` lie beside them, `layer_scores` are each layer's, by layer.

    Args:
        about: of the model, its `task`, `num_layers` and `weights` (see `model.fingerprint`).

    Raises:
        UserError: missing, damaged, of another model, or not all of one run.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; expected the folder of a run's metrics")
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
    if (plotted := folder.absolute().parent / "plots" / "layers.json").exists():
        metrics["layer_scores"] = _plotted_scores(plotted, layers)
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


def is_untouched(card: bytes) -> bool:
    """Whether `card` is as `model_card` made it, so that nothing is lost with it."""
    start = card.rfind(SEAL.split("{")[0].encode())
    return start >= 0 and card == _sealed(card[:start])


def _sealed(card: bytes) -> bytes:
    return card + SEAL.format(hashlib.sha256(card).hexdigest()).encode()


def model_card(about: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown for the Hub; its last line is a comment by which `is_untouched` knows it.

    Args:
        about: `training.json` of the model, and `label_names`, `num_layers`, `model_type`; `ramp`, the ramps' kind;
            `made_for`, the precision of ramps and thresholds (without it none is told).
        metrics: as `read_metrics` returns them; empty = the card says that scores are unknown.
    """
    task, model = about.get("task", "text classification"), about.get("model", f"a {about['model_type']} model")
    origin = "".join(f", {key} `{about[key]}`" for key in ("source", "revision") if about.get(key))
    metric = about.get("metric")
    lines = [
        "---",
        "library_name: deebert",
        "pipeline_tag: text-classification",
        "tags: [early-exit, text-classification]",
        *([f"metrics: [{metric}]"] if metric else []),
        "---",
        "",
        f"# {task}: early-exit classifier",
        "",
        f"{model}{origin}, fine-tuned on {task}, with a {about['ramp']} ramp after each of its {about['num_layers']}",
        "layers but the last (DeeBERT, Xin et al., ACL 2020). A text leaves at the first ramp whose entropy (nats) is",
        "below the threshold.",
        "",
        f"Labels: {', '.join(about['label_names'])}.",
        f"Input: {' and '.join(about.get('text_columns', ['text']))}.",
        *([f"Precision: {about['made_for']}; ramps and thresholds were made for it."] if "made_for" in about else []),
        "",
        "```python",
        "from deebert.classifier import EarlyExitClassifier",
        "",
        'classifier = EarlyExitClassifier.from_pretrained("path/to/this/folder")',
        f"predictions = classifier.predict({_example(about)}, {_first_choice(metrics)}",
        "```",
        "",
    ]
    if "sweep" in metrics:
        lines += _scores(metrics["sweep"], metrics["choice"], METRIC_NAMES.get(metric, "score"))
        lines += _certificates(metrics["choice"])
    else:
        lines += ["Scores and recommended thresholds were not given when this card was written.", ""]
    if "benchmark" in metrics:
        lines += _speed(metrics["benchmark"])
    return _sealed("\n".join(lines).encode()).decode()


def _scores(sweep: Mapping[str, Any], choice: Mapping[str, Any], metric: str) -> list[str]:
    rows = [
        f"| {figure_target('drop', key)} | {threshold} | {100 * sweep['layers_saved_at'][key]:.2f} %"
        f" | {100 * choice['cross_fitted_score_at'][key]:.2f} |"
        for key, threshold in sweep["threshold_at"].items()
    ]
    return [
        "## Scores and recommended thresholds",
        "",
        f"At full depth: {metric} {100 * sweep['full_score']:.2f} % on {sweep['n']:,} validation samples. For each loss"
        f" of {metric} that one is willing to accept, in points, the threshold that saves most:",
        "",
        f"| for a loss of (points) | threshold (nats) | layers saved | {metric} (%), on samples not used to choose |",
        "|---|---|---|---|",
        *rows,
        "",
        "Layers saved are counted; how much time that is depends on hardware and batching.",
        "",
    ]


def _certificates(choice: Mapping[str, Any]) -> list[str]:
    saved = choice["certified_layers_saved_at"]
    rows = [
        f"| {100 * figure_target('risk', key):g} | {threshold} | {100 * saved[key]:.2f} % |"
        if saved[key] > 0
        else f"| {100 * figure_target('risk', key):g} | none: too few samples, or too much is lost | |"
        for key, threshold in choice["certified_threshold_at"].items()
    ]
    return [
        "## Certified thresholds",
        "",
        f"With {100 * choice['certified_confidence']:g} % confidence, on new samples that are drawn as those"
        f" {choice['n']:,} were, accuracy is at most so many points below that of full depth. Each row is a promise by"
        " itself, if neither row nor model was picked by looking at these results.",
        "",
        "| points of accuracy lost at most | threshold (nats) | layers saved |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _speed(benchmark: Mapping[str, Any]) -> list[str]:
    plain, early_exit = benchmark["plain"], benchmark["early_exit"]
    rows = [
        f"| {how} | {plain[f'{mode}_samples_per_s']:g} | {early_exit[f'{mode}_samples_per_s']:g}"
        f" | {100 * early_exit[f'{mode}_time_saved_frac']:.1f} % |"
        for mode, how in MODES.items()
    ]
    return [
        "## Speed",
        "",
        f"Measured with {benchmark['n']:,} samples on {benchmark['device']} (threads: {benchmark['threads']},"
        f" {benchmark['precision']}) at threshold {benchmark['threshold']:g},"
        f" which saves {100 * benchmark['layers_saved_frac']:.2f} % of the layers:",
        "",
        "| | plain backbone, samples per second | early exit | time saved |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _example(about: Mapping[str, Any]) -> str:
    return '[("one text", "another")]' if len(about.get("text_columns", ())) == 2 else '["a text"]'


def _first_choice(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The example's threshold, its bracket and what it does: of the recommended ones, a cautious one."""
    if not metrics.get("sweep", {}).get("threshold_at"):
        return "threshold=0.0)  # full depth; nobody knows yet what other thresholds cost"
    thresholds = {figure_target("drop", key): threshold for key, threshold in metrics["sweep"]["threshold_at"].items()}
    points = max((points for points in thresholds if points <= CAUTIOUS_POINTS), default=min(thresholds))
    unit = "point" if points == 1 else "points"
    return f"threshold={thresholds[points]})  # loses at most {points:g} {unit} of score on validation"
