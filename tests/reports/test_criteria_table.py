"""The template of `dvc plots` is what the tables of criteria and baselines say."""

import json
from pathlib import Path

import pytest

from deebert.analysis.baseline_table import BASELINES
from deebert.exits.table import CRITERIA
from deebert.reports.criteria_table import plot_template

TEMPLATE = Path(__file__).parents[2] / ".dvc" / "plots" / "criteria.json"


def test_the_template_of_dvc_plots_follows_from_the_tables() -> None:
    """The file in git is what the tables make of it; if not, `python tools/criteria.py` writes it anew."""
    template = json.loads(TEMPLATE.read_text())
    assert template == plot_template(template)
    scale = template["spec"]["encoding"]["color"]["scale"]
    assert dict(zip(scale["domain"], scale["range"], strict=True)) == {
        name: entry.color for name, entry in (CRITERIA | BASELINES).items()
    }


def test_another_table_is_another_template(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, colours, lines and marks are filled in from the tables, whatever stood there before."""
    template = json.loads(TEMPLATE.read_text())
    rest = {name: entry for name, entry in CRITERIA.items() if name != "patience"}
    monkeypatch.setattr("deebert.reports.criteria_table.CRITERIA", rest)
    other = plot_template(template)
    assert "patience" in TEMPLATE.read_text() and "patience" not in json.dumps(other)
    monkeypatch.undo()
    assert plot_template(other) == template
