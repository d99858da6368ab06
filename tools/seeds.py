"""Mean and spread over runs that differ in nothing but the seed: a Markdown table and a figure of their curves.

Reads what `dvc exp show --json` knows of commits and experiments, and takes those whose parameters are the workspace's
but for `seed`. Spread is the standard deviation of a sample (divided by runs - 1).
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from deebert.choice import over_seeds
from deebert.drawing import BLUE, GREY, new_figure, percents, save, set_score_axis, styled
from deebert.errors import UserError
from deebert.params import Params, read_params

Row = dict[str, Any]
METRICS = ("metrics/layers.json", "metrics/sweep.json")


def runs_like_this(shown: list[dict[str, Any]]) -> dict[int, tuple[str, dict[str, float]]]:
    """Revision and figures, by name, of one finished run per seed, from `dvc exp show --json`."""
    workspace, *baselines = shown
    wanted = _but_seed(workspace["data"])
    runs = {}
    for revision in _revisions(baselines):
        data = revision["data"]
        if not data or _but_seed(data) != wanted:
            continue
        files = [(data["metrics"] or {}).get(file, {}).get("data") for file in METRICS]
        if all(files):
            figures = {name: value for content in files for name, value in _figures(content)}
            runs.setdefault(_params(data)["seed"], (revision["rev"], figures))
    return dict(sorted(runs.items()))


def _revisions(baselines: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for baseline in baselines:
        yield baseline
        for experiment in baseline["experiments"] or []:
            yield from experiment["revs"] or []


def _params(data: dict[str, Any]) -> dict[str, Any]:
    return data["params"].get("params.yaml", {}).get("data") or {}


def _but_seed(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _params(data).items() if key != "seed"}


def _figures(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _figures(value, f"{prefix}{key}.")
        elif not isinstance(value, str):
            yield prefix + key, value


def table(runs: dict[int, tuple[str, dict[str, float]]]) -> str:
    """Markdown: a line per figure, with mean, spread and the seeds' own values."""
    rows = [{"figure": name, "value": value} for _, figures in runs.values() for name, value in figures.items()]
    summary = over_seeds(rows, ["figure"], ["value"])
    lines = [
        f"| figure | mean | spread | {' | '.join(f'seed {seed}' for seed in runs)} |",
        "|---" * (len(runs) + 3) + "|",
    ]
    for row in summary:
        values = [figures[row["figure"]] for _, figures in runs.values()]
        cells = [f"{value:.4f}".rstrip("0").rstrip(".") for value in (row["value_mean"], row["value_std"], *values)]
        lines.append(f"| {row['figure']} | {' | '.join(cells)} |")
    return "\n".join(lines)


@styled
def draw_seeds(params: Params, sweeps: dict[int, list[Row]]) -> Figure:
    """Each seed's entropy curve on its first split, thin, and their mean, threshold by threshold, within one spread."""
    curves = {seed: [row for row in rows if row["criterion"] == "entropy"] for seed, rows in sweeps.items()}
    curves = {seed: [row for row in rows if row["split"] == rows[0]["split"]] for seed, rows in curves.items()}
    every = [row for rows in curves.values() for row in rows]
    mean = over_seeds(every, ["threshold"], ["layers_saved_frac", "score"])
    mean = [row for row in mean if row["seeds"] == len(curves)]
    saved = [100 * row["layers_saved_frac_mean"] for row in mean]
    score = [100 * row["score_mean"] for row in mean]
    spread = [100 * row["score_std"] for row in mean]
    header = {"task": params.dataset, "model": params.backbone}
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


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path, help="where to write the figure (SVG)")
    arguments = parser.parse_args()
    try:
        params = read_params(Path("params.yaml"))
        runs = runs_like_this(json.loads(_output("dvc", "exp", "show", "--json", "--all-commits")))
        if len(runs) < 2:
            raise UserError(
                f"{len(runs)} finished runs differ from this one by the seed alone; a spread needs 2 or more"
            )
        sweeps = {
            seed: json.loads(_output("git", "show", f"{rev}:plots/sweep.json")) for seed, (rev, _) in runs.items()
        }
        print(table(runs))
        print(f"\n{save(draw_seeds(params, sweeps), arguments.figure)}", file=sys.stderr)
    except UserError as error:
        print("error:", error, file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
