"""The template of `dvc plots` for criteria and baselines, as it follows from their two tables."""

import copy
from typing import Any

from deebert.analysis.baseline_table import BASELINES
from deebert.exits.table import CRITERIA


def plot_template(template: dict[str, Any]) -> dict[str, Any]:
    """The Vega-Lite template `.dvc/plots/criteria.json` with names, colours and marks as the tables have them.

    `template` is the same file before; all else in it stays as it is.
    """
    entries = CRITERIA | BASELINES
    lines = [name for name, entry in entries.items() if entry.line]
    marked = [name for name, entry in entries.items() if entry.marker]
    template = copy.deepcopy(template)
    curves, marks = template["spec"]["layer"]
    template["spec"]["encoding"]["color"]["scale"] = {
        "domain": list(entries),
        "range": [entry.color for entry in entries.values()],
    }
    curves["transform"] = [{"filter": {"field": "criterion", "oneOf": lines}}]
    marks["encoding"]["size"]["condition"]["test"] = {"field": "criterion", "oneOf": marked}
    return template
