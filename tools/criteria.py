"""Bring the template by which `dvc plots` draws criteria up to date with their tables.

PYTHONPATH=src python tools/criteria.py
"""

import json
from pathlib import Path

from deebert.base.files import read_json
from deebert.base.stage import run
from deebert.reports.criteria_table import plot_template

TEMPLATE = Path(__file__).parents[1] / ".dvc" / "plots" / "criteria.json"


def main() -> None:
    text = json.dumps(plot_template(read_json(TEMPLATE)), indent=2)
    TEMPLATE.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
