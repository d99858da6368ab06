"""Take the scores of smaller models from the experiments that exist into a file, which the stage `plot` draws from.

    make smaller

docs/runs.md has how such runs are queued. Reads what `dvc exp show` knows, of all commits and of the working tree. A
run that is there already is brought up to date; rows of runs that DVC no longer knows stay, since a clone gets no
experiments with it.
"""

import argparse
from pathlib import Path

from deebert.base.files import write_json
from deebert.base.stage import told_in_one_line
from deebert.reports import experiments
from deebert.reports.smaller import read_smaller
from deebert.reports.smaller_runs import collect, merge


def main(file: Path) -> None:
    known = read_smaller(file)
    runs = collect(experiments.read_experiments(experiments.show(), experiments.file_of))
    rows = merge(known, [row for found in runs.values() for row in found])
    for name, found in runs.items():
        row = found[0]
        print(
            f"{name}: {row['task']}, {row['model']}, {row['layers']} layers, seed {row['seed']}:"
            f" {row['metric']} {100 * row['score']:.2f} % on {row['split']}"
        )
    if rows == known:
        print(f"{file}: as it was, {len(rows)} rows")
        return
    write_json(file, rows)
    print(f"{file}: {len(rows)} rows, {sum(row not in known for row in rows)} of them new; now `dvc repro plot`")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="JSON, a row per run and split")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.file)
