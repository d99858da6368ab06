"""Mean and spread over runs that differ in nothing but the seed: a Markdown table and a figure of their curves.

    make seeds

Reads what `dvc exp show` knows of commits and experiments, and takes those whose parameters and code are the working
tree's, but for `seed`.
"""

import argparse
import json
import sys
from pathlib import Path

from deebert.base.errors import UserError
from deebert.base.stage import told_in_one_line
from deebert.figures.drawing import save
from deebert.reports import experiments, seeds
from deebert.settings.params import read_params


def main(figure: Path) -> None:
    params = read_params(Path("params.yaml"))
    runs, of_others = seeds.runs_like_this(experiments.show())
    if of_others:
        print(f"left out, as run with other code or data: seeds {', '.join(map(str, of_others))}", file=sys.stderr)
    if len(runs) < 2:
        raise UserError(f"{len(runs)} finished runs differ from this one by the seed alone; a spread needs 2 or more")
    sweeps = {
        seed: json.loads(experiments.file_of(revision, "plots/sweep.json")) for seed, (revision, _) in runs.items()
    }
    for seed, (_, figures) in runs.items():
        figures.update(seeds.losses_on_test(figures, sweeps[seed]))
    print(seeds.table(runs))
    print(f"\n{save(seeds.draw_seeds(params, sweeps), figure)}", file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path, help="where to write the figure (SVG)")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.figure)
