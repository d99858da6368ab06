"""Keep the working tree's run in results/, draw what is kept there, and tell it.

    make result NAME=sst2-mpnet-42
    make results

A result is a small JSON that git keeps. `make results` draws a figure for each task and model and writes
docs/results.md anew.
"""

import argparse
import sys
from pathlib import Path

from deebert.base.errors import UserError
from deebert.base.files import write_bytes
from deebert.base.stage import told_in_one_line
from deebert.figures.drawing import save
from deebert.figures.results import draw_results
from deebert.reports.results import by_comparison, committed_params, depth_of, figure_name, read_results, take, written

RESULTS = Path("results")


def keep(name: str) -> None:
    if not name or name != Path(name).name or name.startswith("."):
        raise UserError(f"NAME: {name!r} is not allowed; expected a file's name without ending, such as rte-bert-42")
    path = RESULTS / f"{name}.json"
    write_bytes(path, written(take(Path(), committed_params())).encode())
    print(f"{path}: written; now `make results`", file=sys.stderr)


def draw(figures: Path) -> None:
    for (task, model), groups in by_comparison(read_results(RESULTS).values()).items():
        depth = depth_of(groups)
        curves = {how: [member.curve_of(depth) for member in group] for how, group in groups.items()}
        cut = {how for how, group in groups.items() if group[0].truncate_to}
        header = {"task": task, "model": model, "metric": next(iter(groups.values()))[0].metric}
        print(save(draw_results(header, curves, cut), figures / f"{figure_name(task, model)}.svg"), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", metavar="NAME", help="keep the working tree's run under that name, and draw nothing")
    parser.add_argument("--figures", type=Path, default=Path("docs/results"), help="where the figures go")
    arguments = parser.parse_args()
    with told_in_one_line():
        if arguments.keep is not None:
            keep(arguments.keep)
        else:
            draw(arguments.figures)
