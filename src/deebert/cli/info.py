"""Tell what is known of a model.

Task, labels and layers; and of its thresholds, what they cost and save on the samples that they were chosen on. What
nobody has written down is said to be unknown.
"""

import argparse
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deebert.cli import model
from deebert.cli.tables import aligned, percent, recommended_table, table

if TYPE_CHECKING:
    from deebert.inference.thresholds import Thresholds

UNKNOWN = "unknown"
MAX_LABELS_CHARS = 100  # of the names of classes that are told
PAIRS_PER_LINE = 6
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
        "labels": _labels(about["label_names"]),
        "model": ", ".join(filter(None, origin)),
        "family": about["model_type"],
        "layers": about["num_layers"],
        "ramps": about["ramp"],
        "precision": about["made_for"],
        "fingerprint": fingerprint,
    }
    return aligned([f"{key}:", str(value or UNKNOWN)] for key, value in facts.items())


def _thresholds(known: "Thresholds | None") -> list[str]:
    if known is None:
        return [f"scores and thresholds: {NO_THRESHOLDS}"]
    metric = known.metric or "score"
    certified = [
        [f"{100 * each.risk:g}", f"{each.threshold_nats:g}", percent(each.layers_saved_frac)]
        if each.layers_saved_frac > 0
        else [f"{100 * each.risk:g}", "none", ""]
        for each in known.certified
    ]
    return [
        f"measured on {known.n:,} samples of {known.split}, in {known.precision}:",
        "",
        f"if everybody leaves after layer: {metric} (%)",
        *_side_by_side([(str(each.layer), percent(each.score)) for each in known.scores]),
        "",
        *recommended_table(metric, known.recommended),
        "",
        f"certified with {100 * known.certified_confidence:g} % confidence, by points of accuracy lost at most:"
        " threshold (nats), layers saved (%)",
        *table(certified),
    ]


def _labels(names: Sequence[str]) -> str:
    """The names on one line; of many the first, and how many more there are."""
    ends = list(accumulate(len(name) + len(", ") for name in names))
    shown = max(1, bisect_right(ends, MAX_LABELS_CHARS))
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more else "")


def _side_by_side(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Pairs of numbers, several on a line, as of a column each."""
    left, right = (max(map(len, side)) for side in zip(*pairs, strict=True))
    cells = [f"{first.rjust(left)}  {second.rjust(right)}" for first, second in pairs]
    starts = range(0, len(cells), PAIRS_PER_LINE)
    return [f"  {'     '.join(cells[start : start + PAIRS_PER_LINE])}" for start in starts]
