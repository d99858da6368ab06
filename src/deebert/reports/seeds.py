"""Mean and spread over runs that differ in nothing but the seed.

Spread is the standard deviation of a sample (divided by runs - 1).
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from deebert.base.rows import Row
from deebert.figures.drawing import BLUE, GREY, new_figure, percents, set_score_axis, styled
from deebert.reports import experiments, markdown
from deebert.settings.params import Params
from deebert.settings.run import dataset_name

Runs = dict[int, tuple[str, dict[str, float]]]  # seed -> revision, figures by name
METRICS = ("metrics/layers.json", "metrics/sweep.json", "metrics/choice.json")


def runs_like_this(
    shown: list[dict[str, Any]], read_file: experiments.ReadFile = experiments.file_of
) -> tuple[Runs, list[int]]:
    """Revision and figures, by name, of one finished run per seed, the newest, from what `experiments.show` returns.

    A revision whose `params.yaml` was edited and not run since has another run's figures, and is passed over. So is one
    whose figures came from other code or data than the working tree's: the spread would be of more than the seed.

    Returns:
        The runs, and the seeds that were run on other code or data alone.
    """
    wanted = _but_seed(experiments.params_of(shown[0]))
    here = experiments.Revision("workspace", "workspace", {}, {})
    origin, runs, of_others = experiments.made_from(here, read_file), {}, set()
    for run in experiments.revisions(shown[1:]):
        finished = all(run.metrics.get(file) for file in METRICS)
        if not (finished and _but_seed(run.params) == wanted and experiments.was_run(run, read_file)):
            continue
        seed = run.params["seed"]
        if experiments.made_from(run, read_file) != origin:
            of_others.add(seed)
            continue
        figures = {name: value for file in METRICS for name, value in _figures(run.metrics[file])}
        runs.setdefault(seed, (run.revision, figures))
    return dict(sorted(runs.items())), sorted(of_others - runs.keys())


def _but_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != "seed"}


def _figures(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{key}.")
        elif not isinstance(value, str):
            yield prefix + key, value


def losses_on_test(figures: Mapping[str, float], sweep: Sequence[Row]) -> dict[str, float]:
    """What each recommended threshold loses on the test split (points), by name; none where test labels are hidden."""
    rows = [row for row in sweep if row["split"] == "test" and row["criterion"] == "entropy"]
    score = {row["threshold"]: row["score"] for row in rows}
    chosen = {name.split(".")[1]: value for name, value in figures.items() if name.startswith("threshold_at.") and rows}
    return {f"test_loss_points_at.{key}": 100 * (score[0.0] - score[chosen[key]]) for key in chosen}


def over_seeds(rows: Iterable[Row], by: str, values: Sequence[str]) -> list[Row]:
    """Mean and spread over training runs: one row per value of the key `by`, in order of appearance.

    Args:
        rows: of all runs, one after the other.
        values: keys of numbers, each giving `<key>_mean` and `<key>_std`, None for a single run, whose spread nobody
            knows.

    Returns:
        Rows with `by`, those figures and `seeds`, the number of runs.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    summary = []
    for name, members in groups.items():
        result = {by: name}
        for key in values:
            numbers = [row[key] for row in members]
            result[f"{key}_mean"] = statistics.fmean(numbers)
            result[f"{key}_std"] = statistics.stdev(numbers) if len(numbers) > 1 else None
        summary.append(result | {"seeds": len(members)})
    return summary


def table(runs: Runs) -> str:
    """Markdown: a line per figure that all runs have, with mean, spread and the seeds' own values."""
    every = [figures for _, figures in runs.values()]
    rows = [
        {"figure": name, "value": value}
        for figures in every
        for name, value in figures.items()
        if all(name in others for others in every)
    ]
    summary = over_seeds(rows, "figure", ["value"])
    lines = []
    for row in summary:
        values = [figures[row["figure"]] for _, figures in runs.values()]
        numbers = (_number(value) for value in (row["value_mean"], row["value_std"], *values))
        lines.append([row["figure"], *numbers])
    return markdown.table(["figure", "mean", "spread", *(f"seed {seed}" for seed in runs)], lines)


def _number(value: float) -> str:
    """With 4 digits that count, or 4 after the point: a threshold of 1e-9 is not 0, at which nobody leaves."""
    return f"{value:.4g}" if abs(value) < 1 else f"{value:.4f}".rstrip("0").rstrip(".")


@styled
def draw_seeds(params: Params, sweeps: dict[int, list[Row]]) -> Figure:
    """Each seed's entropy curve on its first split, thin, and their mean, threshold by threshold, within one spread."""
    curves = {seed: [row for row in rows if row["criterion"] == "entropy"] for seed, rows in sweeps.items()}
    curves = {seed: [row for row in rows if row["split"] == rows[0]["split"]] for seed, rows in curves.items()}
    every = [row for rows in curves.values() for row in rows]
    mean = over_seeds(every, "threshold", ["layers_saved_frac", "score"])
    mean = [row for row in mean if row["seeds"] == len(curves)]
    saved = [100 * row["layers_saved_frac_mean"] for row in mean]
    score = [100 * row["score_mean"] for row in mean]
    spread = [100 * row["score_std"] for row in mean]
    header = {"task": dataset_name(params.dataset), "model": params.backbone}
    figure = new_figure(f"Score against layers saved, {len(curves)} seeds", header, (7.5, 5.2))
    ax = figure.add_subplot()
    for rows in curves.values():
        ax.plot(*percents(rows), color=GREY, linewidth=0.8)
    ax.get_lines()[0].set_label(f"one seed: {', '.join(map(str, curves))}")
    low, high = ([m + sign * s for m, s in zip(score, spread, strict=True)] for sign in (-1, 1))
    ax.fill_between(saved, low, high, color=BLUE, alpha=0.2, linewidth=0, label="one standard deviation of the score")
    ax.plot(saved, score, color=BLUE, label="mean at equal thresholds")
    ax.set(xlabel="layers saved (%)", ylabel="score (%)")
    set_score_axis(ax, [*percents(every)[1], *low, *high])
    figure.legend(loc="outside lower center", ncols=3)
    return figure
