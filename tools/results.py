"""Keep the working tree's run in results/, draw what is kept there, and tell it.

    make result NAME=sst2-mpnet-42
    make results
    make results QUEUE=/models,/data

A result is a small JSON that git keeps. Its settings are what differs from results/params.yaml, whatever params.yaml is
committed. `make results` draws a figure for each task and model, and one more of time where docs/rivals/ has a race of
the two. It writes docs/results.md anew, and lists what is missing: the seeds that one way of a comparison has and
another has not. With QUEUE=... it puts these into DVC's queue, for `dvc queue start`; the folders are where models and
data lie that results know by name.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from deebert.base.errors import UserError
from deebert.base.files import read_json, write_bytes
from deebert.base.stage import told_in_one_line
from deebert.data.sources.glue_tasks import GLUE_TASKS
from deebert.encoders.known import KNOWN_MODELS
from deebert.figures.drawing import save
from deebert.figures.results import Times, draw_results, draw_times
from deebert.reports.results import (
    Result,
    by_comparison,
    figure_name,
    main_curves,
    main_ways,
    missing,
    read_results,
    take,
    written,
)
from deebert.reports.rivals import times_by_subject

RESULTS, RACES = Path("results"), Path("docs/rivals")
USUAL = RESULTS / "params.yaml"
NAMES = {*KNOWN_MODELS, *GLUE_TASKS, "toy", "hub"}


def keep(name: str) -> None:
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(f"NAME: {name!r} is not allowed; expected a file's name without ending, such as rte-bert-42")
    path = RESULTS / f"{name}.json"
    write_bytes(path, written(take(Path(), USUAL.read_text(encoding="utf-8"))).encode())
    print(f"{path}: written; now `make results`", file=sys.stderr)


def draw(results: Mapping[str, Result], times: Mapping[tuple[str, str], Times], figures: Path) -> None:
    for (task, model), groups in by_comparison(results.values()).items():
        shown = main_ways(groups)
        cut = {how: group[0].num_layers for how, group in shown.items() if group[0].truncate_to}
        first = next(iter(shown.values()))[0]
        curves = main_curves(groups, first.validation)
        header = {"task": task, "model": model, "metric": first.metric, "split": first.validation}
        name = figure_name(task, model)
        drawn = {name: draw_results(header, curves, cut)}
        if (task, model) in times:
            drawn[f"{name}-time"] = draw_times(
                {**header, "precision": first.precision}, curves, cut, times[task, model]
            )
        for each, figure in drawn.items():
            print(save(figure, figures / f"{each}.svg"), file=sys.stderr)


def tell_missing(results: Mapping[str, Result], places: Sequence[Path] | None) -> None:
    """Print a command for what is missing; where there are `places`, have DVC queue it instead."""
    lacking = missing(results.values())
    count = sum(len(seeds) for _, seeds in lacking)
    print(f"{count} runs are missing for equal seeds in each comparison", file=sys.stderr)
    if places is None:
        for result, seeds in lacking:
            print(shlex.join(result.command(seeds)))
        return
    all_found = [(found_in(places, result), seeds) for result, seeds in lacking]  # before any is queued
    for result, seeds in all_found:
        done = subprocess.run(result.command(seeds))
        if done.returncode:  # DVC has said why
            sys.exit(done.returncode)


def found_in(places: Sequence[Path], result: Result) -> Result:
    """The same with whole paths, since a queued run stands elsewhere; of some folders a result knows the name alone.

    Raises:
        UserError: no place has it.
    """
    settings = dict(result.settings)
    for key in ("model", "dataset", "download_glue.source"):
        name = settings.get(key)
        if name is None or name in NAMES or ":" in name or "@" in name:
            continue
        found = [place / name for place in (Path(), *places) if (place / name).exists()]
        if not found:
            told = ", ".join(map(str, places))
            raise UserError(f"{key}: no folder {name} in {told}, so nothing is queued; name where it lies in QUEUE=...")
        settings[key] = str(found[0].resolve())
    return replace(result, settings=settings)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="NAME", help="keep the working tree's run under that name, and draw nothing")
    parser.add_argument("--queue", metavar="FOLDERS", help="have DVC queue what is missing; models and data lie there")
    parser.add_argument("--figures", type=Path, default=Path("docs/results"), help="where the figures go")
    arguments = parser.parse_args()
    with told_in_one_line():
        if arguments.keep is not None:
            keep(arguments.keep)
        else:
            kept = read_results(RESULTS)
            draw(kept, times_by_subject(map(read_json, sorted(RACES.glob("*.json")))), arguments.figures)
            places = None if arguments.queue is None else [Path(each) for each in arguments.queue.split(",")]
            tell_missing(kept, places)
