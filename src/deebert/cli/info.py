"""Tell what is known of a model.

Task, labels and layers; and of its thresholds, what they cost and save on the samples that they were chosen on. What
nobody has written down is said to be unknown.
"""

import argparse
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from deebert.cli import model
from deebert.cli.tables import aligned, thresholds_told

UNKNOWN = "unknown"
MAX_LABELS_CHARS = 100  # of the names of classes that are told
NO_THRESHOLDS = (
    "unknown; --metrics names the metrics of its run, save_pretrained(..., metrics=...) keeps them, and"
    " `deebert measure` finds them on labelled texts"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=model.HELP)
    parser.add_argument("--metrics", type=Path, metavar="PATH", help=model.METRICS_HELP)


def run(parsed: argparse.Namespace) -> None:
    classifier = model.load(parsed.model, "auto")
    about = classifier.about
    known = classifier.thresholds(parsed.metrics)
    told = [f"scores and thresholds: {NO_THRESHOLDS}"] if known is None else thresholds_told(known)
    for line in (*_facts(about, classifier.fingerprint), "", *told):
        print(line)


def _facts(about: dict[str, Any], fingerprint: str) -> list[str]:
    origin = [about.get("model"), *(f"{key} {about[key]}" for key in ("source", "revision") if about.get(key))]
    facts = {
        "task": about.get("task"),
        "input": " and ".join(about.get("text_columns", ())),
        "labels": _labels(about["label_names"]),
        "model": ", ".join(filter(None, origin)),
        "family": about["model_type"],
        "layers": about["num_layers"],
        "ramps": about["ramp"],
        "precision": about["made_for"],
        "fingerprint": fingerprint,
    }
    return aligned([f"{key}:", str(value or UNKNOWN)] for key, value in facts.items())


def _labels(names: Sequence[str]) -> str:
    """The names on one line; of many the first, and how many more there are."""
    ends = list(accumulate(len(name) + len(", ") for name in names))
    shown = max(1, bisect_right(ends, MAX_LABELS_CHARS))
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more else "")
