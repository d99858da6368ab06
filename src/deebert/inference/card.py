"""The model card: what a stranger must know before using the model."""

import hashlib
from collections.abc import Mapping
from typing import Any

from deebert.data.scores import METRIC_NAMES
from deebert.inference.run_metrics import MODES
from deebert.inference.text_columns import text_count
from deebert.inference.thresholds import Certified, Thresholds

CAUTIOUS_POINTS = 1.0  # of score, what the example may lose
SEAL = "\n<!-- unedited card of deebert, sha256 of all above: {} -->\n"


def is_untouched(card: bytes) -> bool:
    """Whether `card` is as `model_card` made it, so that nothing is lost with it."""
    start = card.rfind(SEAL.split("{")[0].encode())
    return start >= 0 and card == _sealed(card[:start])


def _sealed(card: bytes) -> bytes:
    return card + SEAL.format(hashlib.sha256(card).hexdigest()).encode()


def model_card(
    about: Mapping[str, Any], known: Thresholds | None = None, times: Mapping[str, Any] | None = None
) -> str:
    """Markdown for the Hub; its last line is a comment by which `is_untouched` knows it.

    Args:
        about: `training.json` of the model, and `label_names`, `num_layers`, `model_type`; `ramp`, the ramps' kind;
            `made_for`, the precision of ramps and thresholds (without it none is told).
        known: of scores and thresholds; None = the card says that they are unknown.
        times: the metrics of the stage `benchmark`.
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
        f"predictions = classifier.predict({_example(about)}, {_first_choice(known)}",
        "```",
        "",
    ]
    if known is None:
        lines += ["Scores and recommended thresholds were not given when this card was written.", ""]
    else:
        lines += [*_scores(known), *_certificates(known)]
    if times:
        lines += _speed(times)
    return _sealed("\n".join(lines).encode()).decode()


def _scores(known: Thresholds) -> list[str]:
    metric = METRIC_NAMES.get(known.metric, "score")
    rows = [
        f"| {each.drop_points:g} | {each.threshold_nats:g} | {100 * each.layers_saved_frac:.2f} %"
        f" | {100 * each.cross_fitted_score:.2f} |"
        for each in known.recommended
    ]
    return [
        "## Scores and recommended thresholds",
        "",
        f"At full depth: {metric} {100 * known.scores[-1].score:.2f} % on {known.n:,} samples of {known.split}. For"
        f" each loss of {metric} that one is willing to accept, in points, the threshold that saves most:",
        "",
        f"| for a loss of (points) | threshold (nats) | layers saved | {metric} (%), on samples not used to choose |",
        "|---|---|---|---|",
        *rows,
        "",
        "Layers saved are counted; how much time that is depends on hardware and batching.",
        "",
    ]


def _certificates(known: Thresholds) -> list[str]:
    lines = [
        "## Certified thresholds",
        "",
        f"With {100 * known.certified_confidence:g} % confidence, on new samples that are drawn as those"
        f" {known.n:,} were, no more is lost than this. Each row is a promise by itself, if neither row nor model was"
        " picked by looking at these results.",
        "",
    ]
    for what, certified in (
        ("points of accuracy lost at most, against full depth", known.certified),
        ("% of answers other than full depth's, at most", known.certified_changed),
    ):
        if certified:
            heading = f"| {what} | threshold (nats) | layers saved |"
            lines += [heading, "|---|---|---|", *map(_certificate, certified), ""]
    return lines


def _certificate(each: Certified) -> str:
    if each.threshold_nats == 0:
        return f"| {100 * each.risk:g} | none: too few samples, or too much is lost | |"
    return f"| {100 * each.risk:g} | {each.threshold_nats} | {100 * each.layers_saved_frac:.2f} % |"


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
    return '[("one text", "another")]' if text_count(about) == 2 else '["a text"]'


def _first_choice(known: Thresholds | None) -> str:
    """The example's threshold, its bracket and what it does: of the recommended ones, a cautious one."""
    if known is None or not known.recommended:
        return "threshold=0.0)  # full depth; nobody knows yet what other thresholds cost"
    points = [each.drop_points for each in known.recommended]
    chosen = max((each for each in points if each <= CAUTIOUS_POINTS), default=min(points))
    unit = "point" if chosen == 1 else "points"
    return f"threshold={known.for_drop(chosen):g})  # loses at most {chosen:g} {unit} of score on {known.split}"
