"""Our experiments beside the paper's table: which of DVC's experiments count, what they say, how near they come.

Pure functions; whoever calls them fetches the files of a revision. Scores of rows are fractions, those of the paper and
of its tolerances points of 100.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Row = dict[str, Any]

NOT_RUN, NO_NUMBER, OK, OKISH, FAIL = "not run", "no number in the paper", "OK", "OKish", "FAIL"
LARGE_MODELS = ("bert-large", "roberta-large")
SMALL_MODELS = {"distilbert-base": "bert-base"}  # a small model of its own -> the model that it stands in for
HALVES = {"MNLI": ("MNLI", "validation_matched"), "MNLI-mm": ("MNLI", "validation_mismatched")}
ROUNDING_POINTS = 0.05  # the paper prints one digit
# Fine-tuned otherwise, an experiment says nothing about the paper.
PAPER_RECIPE = {"epochs": "default", "learning_rate": "default", "batch_size": "default", "max_length": 128}
FILES = ("sweep", "layers", "exits", "benchmark")

ReadFile = Callable[[str, str], str | None]  # revision, path -> text, None where it has no such file


@dataclass(frozen=True)
class Experiment:
    """One finished run with the paper's recipe.

    Attributes:
        name: the experiment's, a branch's, a short commit's, or `workspace`.
        layers: of a backbone cut before fine-tuning, else None.
        rows: `sweep`, `layers`, `exits` and `benchmark`, each as `plots/` has it; empty where there is none.
    """

    name: str
    task: str
    model: str
    seed: int
    layers: int | None
    rows: Mapping[str, Sequence[Row]]

    @property
    def num_layers(self) -> int:
        return max(row["layer"] for row in self.rows["layers"])

    def curve(self, split: str | None = None) -> list[Row]:
        """The entropy curve on `split`, by default on the first, which is validation."""
        split = split or self.rows["sweep"][0]["split"]
        return [row for row in self.rows["sweep"] if row["split"] == split and row["criterion"] == "entropy"]

    def full_score(self, split: str | None = None) -> float:
        """Score of the last head, a fraction."""
        return next(row["score"] for row in self.curve(split) if row["threshold"] == 0)


def read_experiments(shown: Sequence[Mapping[str, Any]], read_file: ReadFile) -> list[Experiment]:
    """The runs that may be compared, among all that `dvc exp show --json` knows; newest first.

    What a revision has run is read from its `dvc.lock`, because its `params.yaml` may have been edited since. Of runs
    that differ in nothing but the code only the newest counts.
    """
    newest: dict[tuple[Any, ...], Experiment] = {}
    for revision, name, task in _revisions(shown):
        lock = yaml.safe_load(read_file(revision, "dvc.lock") or "") or {}
        params = lock.get("stages", {}).get("finetune_backbone", {}).get("params", {}).get("params.yaml")
        if not params or params["dataset"] != task:
            continue
        settings = params["finetune_backbone"]
        if any(settings.get(key) != value for key, value in PAPER_RECIPE.items()):
            continue
        layers = settings.get("layers", "default")
        model = params["model"]
        if model == "default":
            model = "toy-bert" if task == "toy" else "bert-base"
        key = (task, model, params["seed"], layers)
        if key in newest:
            continue
        texts = {kind: read_file(revision, f"plots/{kind}.json") for kind in FILES}
        if texts["sweep"] and texts["layers"]:
            rows = {kind: json.loads(text) if text else [] for kind, text in texts.items()}
            newest[key] = Experiment(name, *key[:3], None if layers == "default" else layers, rows)
    return list(newest.values())


def _revisions(shown: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Yield (revision, name, task) of whatever has metrics: the workspace first, then from the newest on."""
    found = []
    for baseline in shown:
        entries = [baseline, *(run for group in baseline.get("experiments") or [] for run in group["revs"])]
        for entry in entries:
            data = entry.get("data") or {}
            metrics = (data.get("metrics") or {}).get("metrics/sweep.json") or {}
            task = (metrics.get("data") or {}).get("task")
            if task:
                found.append((data.get("timestamp") or "9999", entry["rev"], entry.get("name"), task))
    for _, revision, name, task in sorted(found, key=lambda item: item[0], reverse=True):
        yield revision, name or ("workspace" if revision == "workspace" else revision[:7]), task


def compare(table: Mapping[str, Any], experiments: Sequence[Experiment]) -> list[Row]:
    """The paper's table with ours beside: a row per model and task, in the paper's order.

    Keys: `model, task, paper_score, score, score_sd, verdict, points, experiments`. `points` has one row per threshold
    of the paper, with `points, time_saved, layers_saved, verdict`. Scores and shares in %; ours are means over seeds,
    None where nothing has been run.
    """
    rows = []
    for model, tasks in table["models"].items():
        for task, theirs in tasks.items():
            rows.append(_compare_one(table["tolerances"], model, task, theirs["score"], theirs["deebert"], experiments))
    for small, model in SMALL_MODELS.items():
        for task, theirs in table["models"][model].items():
            if "distilbert" in theirs:
                score = round(theirs["score"] + theirs["distilbert"][0], 1)
                rows.append(_compare_one(table["tolerances"], small, task, score, [], experiments))
    for model in LARGE_MODELS:
        for task in table["models"]["bert-base"]:
            rows.append(_compare_one(table["tolerances"], model, task, None, [], experiments))
    return rows


def _compare_one(
    tolerances: Mapping[str, Any],
    model: str,
    task: str,
    paper_score: float | None,
    paper_points: Sequence[Sequence[float]],
    experiments: Sequence[Experiment],
) -> Row:
    data_set, split = HALVES.get(task, (task, None))
    ours = [run for run in full_depth(experiments) if (run.task, run.model) == (data_set, model)]
    scores = [100 * run.full_score(split) for run in ours]
    score = statistics.mean(scores) if ours else None
    points = []
    for change, time_saved in paper_points:
        saved = statistics.mean(100 * saved_within(run.curve(split), -change) for run in ours) if ours else None
        points.append(
            {
                "points": change,
                "time_saved": time_saved,
                "layers_saved": saved,
                "verdict": verdict(time_saved, saved, tolerances["saved"]),
            }
        )
    return {
        "model": model,
        "task": task,
        "paper_score": paper_score,
        "score": score,
        "score_sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "verdict": verdict(paper_score, score, tolerances["score"][task]),
        "points": points,
        "experiments": [run.name for run in ours],
    }


def verdict(paper: float | None, ours: float | None, tolerance: Sequence[float] | None) -> str:
    """How near `ours` comes to `paper`, both in %, where [OK, OKish] points less are let pass; more is always OK."""
    if ours is None:
        return NOT_RUN
    if paper is None:
        return NO_NUMBER
    if tolerance is None:
        return "not compared"
    missing = paper - ours - 1e-9
    return OK if missing <= tolerance[0] else OKISH if missing <= tolerance[1] else FAIL


def saved_within(curve: Sequence[Row], drop_points: float) -> float:
    """The largest share of layers saved on `curve` at a loss of at most `drop_points`; a gain asked for counts as 0."""
    full = next(row["score"] for row in curve if row["threshold"] == 0)
    floor = full - (max(drop_points, 0.0) + ROUNDING_POINTS) / 100
    return max(row["layers_saved_frac"] for row in curve if row["score"] >= floor)


def full_depth(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those whose backbone was not cut."""
    return [run for run in experiments if run.layers is None]


def smaller_models(experiments: Sequence[Experiment], whole: Experiment) -> list[Row]:
    """What stands in for `whole` on its task: its backbone cut to fewer layers, or a small model, fine-tuned alone.

    Rows have `model, layers, layers_saved_frac, score, seed`; the score is of its own classifier, no early exit.
    """
    cut = [run for run in experiments if run.model == whole.model and run.layers]
    small = [run for run in full_depth(experiments) if SMALL_MODELS.get(run.model) == whole.model]
    return [
        {
            "model": run.model,
            "layers": run.num_layers,
            "layers_saved_frac": 1 - run.num_layers / whole.num_layers,
            "score": run.full_score(),
            "seed": run.seed,
        }
        for run in (*cut, *small)
        if run.task == whole.task
    ]


def markdown(table: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The rows of `compare` as a page of Markdown."""
    lines = [
        "| model | task | score: paper | ours | | saved (%), points lost: paper → ours | | | experiments |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        paper = "" if row["paper_score"] is None else f"{row['paper_score']:.1f}"
        ours = "" if row["score"] is None else f"{row['score']:.1f}"
        if row["score_sd"] is not None:
            ours += f" ± {row['score_sd']:.1f}"
        points = [*map(_point, row["points"]), "", "", ""][:3]
        cells = [row["model"], row["task"], paper, ours, row["verdict"], *points, ", ".join(row["experiments"])]
        lines.append(f"| {' | '.join(cells)} |")
    verdicts = [verdict for row in rows for verdict in (row["verdict"], *(p["verdict"] for p in row["points"]))]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in (OK, OKISH, FAIL, NOT_RUN))
    return "\n".join(
        [
            *lines,
            "",
            f"{counts}. Tolerances, and what they allow for, are in paper/table1.yaml.",
            "",
            f"The paper: {' '.join(table['source'].split())}.",
            "Its scores are of test splits, ours of validation; it saves time, we count layers. `≤ 0.6: 40 → 45` reads:"
            " at a loss of at most 0.6 points the paper saves 40 %, and we 45 %. Several seeds: mean ± standard"
            " deviation.",
            "",
        ]
    )


def _point(point: Row) -> str:
    theirs = f"≤ {max(-point['points'], 0.0):.1f}: {point['time_saved']:.0f}"
    return theirs if point["layers_saved"] is None else f"{theirs} → {point['layers_saved']:.0f} {point['verdict']}"
