"""The model card: what a stranger must know before using the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deebert.errors import UserError
from deebert.files import read_json

METRIC_NAMES = {"accuracy": "accuracy", "f1": "F1"}
NEEDED = {
    "sweep": ("task", "n", "full_score", "layers_saved_at", "threshold_at", "cross_fitted_score_at"),
    "benchmark": ("task", "device", "threads", "precision", "threshold", "layers_saved_frac", "plain", "early_exit"),
}


def read_metrics(folder: Path, about: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The pipeline's metrics in `folder`, by name: `sweep` and, if it was run, `benchmark`.

    Raises:
        UserError: missing, damaged, or not of the task that the model was trained on.
    """
    metrics = {"sweep": read_json(folder / "sweep.json")}
    if (folder / "benchmark.json").exists():
        metrics["benchmark"] = read_json(folder / "benchmark.json")
    for name, content in metrics.items():
        if missing := [key for key in NEEDED[name] if key not in content]:
            raise UserError(f"{folder / name}.json: has no {missing[0]}; `dvc repro` makes it")
        if content["task"] != about.get("task"):
            raise UserError(
                f"{folder / name}.json: metrics of task {content['task']}; expected {about.get('task')}, the model's"
            )
    return metrics


def model_card(about: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown for the Hub.

    Args:
        about: `training.json` of the model, and `label_names`, `num_layers`, `model_type`.
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
        f"{model}{origin}, fine-tuned on {task}, with a ramp after each of its {about['num_layers']} layers but",
        "the last (DeeBERT, Xin et al., ACL 2020). A text leaves at the first ramp whose entropy is low enough.",
        "",
        f"Labels: {', '.join(about['label_names'])}.",
        f"Input: {' and '.join(about.get('text_columns', ['text']))}.",
        "",
        "```python",
        "from deebert.classifier import EarlyExitClassifier",
        "",
        'classifier = EarlyExitClassifier.from_pretrained("path/to/this/folder")',
        f"predictions = classifier.predict({_example(about)}, threshold={_first_choice(metrics)})",
        "```",
        "",
    ]
    if "sweep" in metrics:
        lines += _scores(metrics["sweep"], METRIC_NAMES.get(metric, "score"))
    else:
        lines += ["Scores and recommended thresholds were not given when this card was written.", ""]
    if "benchmark" in metrics:
        lines += _speed(metrics["benchmark"])
    return "\n".join(lines)


def _scores(sweep: Mapping[str, Any], metric: str) -> list[str]:
    rows = [
        f"| {key.removeprefix('drop_').replace('_', '.')} | {threshold} | {100 * sweep['layers_saved_at'][key]:.1f} %"
        f" | {100 * sweep['cross_fitted_score_at'][key]:.2f} |"
        for key, threshold in sweep["threshold_at"].items()
    ]
    return [
        "## Scores and recommended thresholds",
        "",
        f"At full depth: {metric} {100 * sweep['full_score']:.2f} % on {sweep['n']:,} validation samples. For each loss"
        f" of {metric} that one is willing to accept, in points, the threshold that saves most:",
        "",
        f"| points lost at most | threshold (nats) | layers saved | {metric} (%), on samples not used to choose |",
        "|---|---|---|---|",
        *rows,
        "",
        "Layers saved are counted; how much time that is depends on hardware and batching.",
        "",
    ]


def _speed(benchmark: Mapping[str, Any]) -> list[str]:
    plain, early_exit = benchmark["plain"], benchmark["early_exit"]
    rows = [
        f"| {how} | {plain[f'{mode}_samples_per_s']:g} | {early_exit[f'{mode}_samples_per_s']:g}"
        f" | {100 * early_exit[f'{mode}_time_saved_frac']:.1f} % |"
        for mode, how in (("batch_1", "one at a time"), ("batched", "batched"))
    ]
    return [
        "## Speed",
        "",
        f"Measured on {benchmark['device']} (threads: {benchmark['threads']}, {benchmark['precision']}) at threshold"
        f" {benchmark['threshold']:g}, which saves {100 * benchmark['layers_saved_frac']:.1f} % of the layers:",
        "",
        "| | plain backbone, samples per second | early exit | time saved |",
        "|---|---|---|---|",
        *rows,
        "",
    ]


def _example(about: Mapping[str, Any]) -> str:
    return '[("one text", "another")]' if len(about.get("text_columns", ())) == 2 else '["a text"]'


def _first_choice(metrics: Mapping[str, Mapping[str, Any]]) -> float:
    """The threshold of the example: what loses at most one point, or else a cautious one."""
    return metrics.get("sweep", {}).get("threshold_at", {}).get("drop_1_0", 0.1)
