"""Our experiments beside the paper's table: which of them count, what they say, how near they come.

Scores of rows are fractions, those of the paper and of its tolerances points of 100.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deebert.base.rows import Row
from deebert.exits.rule import layers_saved_frac
from deebert.reports.experiments import Experiment
from deebert.reports.markdown import table as markdown_table
from deebert.reports.smaller import STANDS_FOR
from deebert.settings.run import DATASETS

NOT_RUN, NO_NUMBER, OK, OKISH, FAIL = "not run", "no number in the paper", "OK", "OKish", "FAIL"
LARGE_MODELS = ("bert-large", "roberta-large")
HALVES = {"MNLI": ("MNLI", "validation_matched"), "MNLI-mm": ("MNLI", "validation_mismatched")}
GRID = (  # its tasks and models, made so
    "dvc exp run --queue -S 'dataset=SST-2,MRPC,RTE,QNLI,QQP,MNLI'"
    " -S 'model=bert-base,roberta-base,bert-large,roberta-large'"
    " -S finetune_backbone.objective=full_depth -S train_ramps.ramp=pooler"
)
ROUNDING_POINTS = 0.05  # the paper prints one digit
# Made otherwise, an experiment says nothing about the paper.
PAPER_RAMPS = {"ramp": "pooler"}
PAPER_RECIPE = {
    "objective": "full_depth",
    "class_weights": "none",
    "deployed_precision": "fp32",
    "epochs": "default",
    "learning_rate": "default",
    "batch_size": "default",
    "max_length": 128,
}


def wanted_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Sections that a run shares with the working tree's `params.yaml`, but for the ramps, which are the paper's."""
    return {
        "train_ramps": {**params.get("train_ramps", {}), **PAPER_RAMPS},
        "entropy_sweep": params.get("entropy_sweep"),
    }


def with_papers_recipe(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those that may be compared, given newest first: the newest per task, model, seed and cut."""
    newest: dict[tuple[Any, ...], Experiment] = {}
    for run in experiments:
        is_glue = run.dataset in DATASETS  # somebody's own data may have a task's name
        if is_glue and all(run.recipe.get(key) == value for key, value in PAPER_RECIPE.items()):
            newest.setdefault((run.task, run.model, run.seed, run.truncate_to), run)
    return list(newest.values())


def compare(table: Mapping[str, Any], experiments: Sequence[Experiment]) -> list[Row]:
    """The paper's table with ours beside: a row per model and task, in the paper's order.

    Keys: `model, task, paper_score, score, score_sd, verdict, points, experiments`. `points` has one row per threshold
    of the paper, with `points, time_saved, layers_saved, verdict`. Scores and shares in %; ours are means over seeds,
    None where nothing has been run.
    """
    return [_compare_one(theirs, table["tolerances"], experiments) for theirs in _papers_rows(table)]


@dataclass(frozen=True)
class _PapersRow:
    """What the paper says of one model on one task.

    Attributes:
        score: %, None where it has no number.
        points: (change of the score in points, time saved in %) at each of its thresholds.
    """

    model: str
    task: str
    score: float | None
    points: Sequence[Sequence[float]] = ()


def _papers_rows(table: Mapping[str, Any]) -> Iterator[_PapersRow]:
    for model, tasks in table["models"].items():
        for task, theirs in tasks.items():
            yield _PapersRow(model, task, theirs["score"], theirs["deebert"])
    for small, model in STANDS_FOR.items():
        for task, theirs in table["models"][model].items():
            if "distilbert" in theirs:
                yield _PapersRow(small, task, round(theirs["score"] + theirs["distilbert"][0], 1))
    for model in LARGE_MODELS:
        for task in table["models"]["bert-base"]:
            yield _PapersRow(model, task, None)


def _compare_one(theirs: _PapersRow, tolerances: Mapping[str, Any], experiments: Sequence[Experiment]) -> Row:
    data_set, split = HALVES.get(theirs.task, (theirs.task, None))
    ours = [run for run in whole_models(experiments) if (run.task, run.model) == (data_set, theirs.model)]
    scores = [100 * run.full_score(split) for run in ours]
    score = statistics.mean(scores) if ours else None
    points = []
    for change, time_saved in theirs.points:
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
        "model": theirs.model,
        "task": theirs.task,
        "paper_score": theirs.score,
        "score": score,
        "score_sd": statistics.stdev(scores) if len(scores) > 1 else None,
        "verdict": verdict(theirs.score, score, tolerances["score"][theirs.task]),
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


def whole_models(experiments: Sequence[Experiment]) -> list[Experiment]:
    """Those whose backbone was not cut."""
    return [run for run in experiments if run.truncate_to is None]


def smaller_models(experiments: Sequence[Experiment], whole: Experiment) -> list[Row]:
    """What stands in for `whole` on its task: its backbone cut to fewer layers, or a small model, fine-tuned alone.

    Rows have `model, layers, layers_saved_frac, score, seed`; the score is of its own classifier, no early exit.
    """
    cut = [run for run in experiments if run.model == whole.model and run.truncate_to]
    small = [run for run in whole_models(experiments) if STANDS_FOR.get(run.model) == whole.model]
    return [
        {
            "model": run.model,
            "layers": run.num_layers,
            "layers_saved_frac": layers_saved_frac(run.num_layers, whole.num_layers),
            "score": run.full_score(),
            "seed": run.seed,
        }
        for run in (*cut, *small)
        if run.task == whole.task
    ]


def markdown(table: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """The rows of `compare` as a page of Markdown."""
    heads = ["model", "task", "score: paper", "ours", "", "saved (%), points lost: paper → ours", "", "", "experiments"]
    lines = []
    for row in rows:
        paper = "" if row["paper_score"] is None else f"{row['paper_score']:.1f}"
        ours = "" if row["score"] is None else f"{row['score']:.1f}"
        if row["score_sd"] is not None:
            ours += f" ± {row['score_sd']:.1f}"
        points = [*map(_point, row["points"]), "", "", ""][:3]
        lines.append([row["model"], row["task"], paper, ours, row["verdict"], *points, ", ".join(row["experiments"])])
    verdicts = [verdict for row in rows for verdict in (row["verdict"], *(p["verdict"] for p in row["points"]))]
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in (OK, OKISH, FAIL, NOT_RUN))
    return "\n".join(
        [
            markdown_table(heads, lines),
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
