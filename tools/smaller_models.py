"""Take the scores of smaller models from the experiments that exist into a file, which the stage `plot` draws from.

    dvc exp run --queue -S dataset=RTE -S finetune_backbone.truncate_to=3,6,9
    dvc exp run --queue -S dataset=RTE -S model=distilbert-base
    dvc queue start
    make smaller
    dvc repro plot

Reads what `dvc exp show` knows, of all commits and of the working tree. A run that is there already is brought up to
date; rows of runs that DVC no longer knows stay, since a clone gets no experiments with it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.files import write_json
from deebert.base.rows import Row
from deebert.reports import experiments
from deebert.reports.experiments import Experiment
from deebert.reports.smaller import STANDS_FOR, read_smaller

NAMING = ("task", "whole", "model", "layers", "seed", "recipe", "split")  # equal in two rows: the same thing twice


def collect(runs: Sequence[Experiment]) -> dict[str, list[Row]]:
    """Rows of each run of a smaller model, by the run's name: one per split."""
    return {run.name: _rows(run) for run in runs if run.truncate_to or run.model in STANDS_FOR}


def _rows(run: Experiment) -> list[Row]:
    rows = []
    for split in dict.fromkeys(row["split"] for row in run.rows["sweep"]):
        full = run.full_depth(split)
        rows.append(
            {
                "task": run.task,
                "whole": run.model if run.truncate_to else STANDS_FOR[run.model],
                "model": run.model,
                "layers": run.num_layers,
                "seed": run.seed,
                "split": split,
                "metric": run.metric,
                **{key: full[key] for key in ("n", "score", "accuracy")},
                "recipe": dict(run.recipe),
                "backbone": run.backbone,
            }
        )
    return rows


def merge(known: Sequence[Row], found: Sequence[Row]) -> list[Row]:
    """`known` with `found` in place of what they bring up to date, in an order that does not depend on either's."""
    rows = {_name(row): row for row in [*known, *found]}
    return [rows[name] for name in sorted(rows)]


def _name(row: Row) -> tuple[Any, ...]:
    return tuple(json.dumps(row[key], sort_keys=True) if key == "recipe" else row[key] for key in NAMING)


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
    try:
        main(parser.parse_args().file)
    except UserError as error:
        sys.exit(f"error: {error}")
