"""Tell what is known of a model.

Task, labels and layers; and of its thresholds, what they cost and save on the samples that they were chosen on. What
nobody has written down is said to be unknown.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deebert.cli import model

if TYPE_CHECKING:
    from deebert.inference.thresholds import Thresholds

UNKNOWN = "unknown"
NO_THRESHOLDS = "unknown; --metrics names the metrics of its run, and save_pretrained(..., metrics=...) keeps them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("--metrics", type=Path, metavar="FOLDER", help=model.METRICS_HELP)


def run(parsed: argparse.Namespace) -> None:
    classifier = model.load(parsed.model, "auto")
    about = classifier.about
    for line in (*_facts(about, classifier.fingerprint), "", *_thresholds(classifier.thresholds(parsed.metrics))):
        print(line)


def _facts(about: dict[str, Any], fingerprint: str) -> list[str]:
    origin = [about.get("model"), *(f"{key} {about[key]}" for key in ("source", "revision") if about.get(key))]
    facts = {
        "task": about.get("task"),
        "input": " and ".join(about.get("text_columns", ())),
        "labels": ", ".join(about["label_names"]),
        "model": ", ".join(filter(None, origin)),
        "family": about["model_type"],
        "layers": about["num_layers"],
        "ramps": about["ramp"],
        "precision": about["made_for"],
        "fingerprint": fingerprint,
    }
    return _aligned([f"{key}:", str(value or UNKNOWN)] for key, value in facts.items())


def _thresholds(known: "Thresholds | None") -> list[str]:
    if known is None:
        return [f"scores and thresholds: {NO_THRESHOLDS}"]
    metric = known.metric or "score"
    certified = [
        [f"{100 * each.risk:g}", f"{each.threshold_nats:g}", _percent(each.layers_saved_frac)]
        if each.layers_saved_frac > 0
        else [f"{100 * each.risk:g}", "none", ""]
        for each in known.certified
    ]
    return [
        f"measured on {known.n:,} samples of {known.split}, in {known.precision}:",
        "",
        f"if everybody leaves after layer: {metric} (%)",
        *_table([[str(each.layer), _percent(each.score)] for each in known.scores]),
        "",
        f"recommended, by points of {metric} lost at most: threshold (nats), layers saved (%), {metric} (%) on samples"
        " not used to choose",
        *_table(
            [
                f"{each.drop_points:g}",
                f"{each.threshold_nats:g}",
                _percent(each.layers_saved_frac),
                _percent(each.cross_fitted_score),
            ]
            for each in known.recommended
        ),
        "",
        f"certified with {100 * known.certified_confidence:g} % confidence, by points of accuracy lost at most:"
        " threshold (nats), layers saved (%)",
        *_table(certified),
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _table(rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in _aligned(rows)] or ["  unknown"]


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Each row as a line; columns begin below one another."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
