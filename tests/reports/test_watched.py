"""States of a monitor, the oldest first, tell what came in between them."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from deebert.base.errors import UserError
from deebert.inference.classifier import EarlyExitClassifier
from deebert.monitor import Monitor
from deebert.reports.watched import spans
from tests import tiny
from tests.inference.test_classifier import write_classifier

TOOL = Path(__file__).parents[2] / "tools" / "watched.py"


@pytest.fixture
def states(tmp_path: Path) -> list[Path]:
    """A real monitor, saved after 30 and after 50 samples."""
    monitor = Monitor(EarlyExitClassifier.from_pretrained(write_classifier(tmp_path)), epsilon=0.1)
    texts = tiny.texts(50)
    paths = [tmp_path / "monday.json", tmp_path / "tuesday.json"]
    for path, part in zip(paths, (texts[:30], texts[30:]), strict=True):
        monitor.predict(part, threshold=0.6)
        monitor.save(path)
    return paths


def test_what_came_in_between(states: list[Path]) -> None:
    """The first span counts from the start, and each other from the state before it."""
    found = spans(states)
    assert [*found] == ["monday", "tuesday"]
    assert [sum(exits) for exits in found.values()] == [30, 20]
    whole = json.loads(states[1].read_text())["exits"]
    assert [a + b for a, b in zip(*found.values(), strict=True)] == whole


def test_the_tool_draws_them(states: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command makes the figure."""
    out = tmp_path / "watched.svg"
    monkeypatch.setattr(sys, "argv", [str(TOOL), str(out), *map(str, states)])
    runpy.run_path(str(TOOL), run_name="__main__")
    assert out.read_text().startswith("<?xml")


def changed(path: Path, name: str, **values: Any) -> Path:
    other = path.with_stem(name)
    other.write_text(json.dumps(json.loads(path.read_text()) | values))
    return other


def test_states_that_do_not_follow_each_other(states: list[Path], tmp_path: Path) -> None:
    """What is missing, no state, of another model, or not later is one line that names the file."""
    first, second = states
    (tmp_path / "other").mkdir()
    (again := tmp_path / "other" / "monday.json").write_text(second.read_text())
    (list_ := tmp_path / "list.json").write_text("[]")
    for paths, told in (
        ([tmp_path / "none.json"], "none.json: no such file; Monitor.save"),
        ([list_], "list.json: no state of a monitor"),
        ([second, first], "monday.json: counts no sample beyond the state before it; expected the oldest first"),
        ([first, again], "monday.json: a second file of that name"),
        ([first, changed(second, "model", fingerprint="0")], "model.json: of another model"),
        ([changed(second, "odd", exits=[-1])], "odd.json: no state of a monitor"),
    ):
        with pytest.raises(UserError) as caught:
            spans(paths)
        assert told in str(caught.value) and "\n" not in str(caught.value)
