"""From runs of smaller models to the rows of the file that the stage `plot` reads.

Apart from `smaller`, which is all that the stage needs: it looks at no runs but its own.
"""

import json
from collections.abc import Sequence
from typing import Any

from deebert.base.rows import Row
from deebert.reports.experiments import Experiment
from deebert.reports.smaller import STANDS_FOR

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
    """`known` with `found`, newest first, in place of what they bring up to date, in an order of its own."""
    rows = {_name(row): row for row in [*known, *reversed(found)]}
    return [rows[name] for name in sorted(rows)]


def _name(row: Row) -> tuple[Any, ...]:
    return tuple(json.dumps(row[key], sort_keys=True) if key == "recipe" else row[key] for key in NAMING)
