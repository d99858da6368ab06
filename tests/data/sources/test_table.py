"""What a source gives is all that later stages know of it."""

import runpy
from pathlib import Path

import pandas as pd
import pytest
import yaml

from deebert.data.dataset import DataSet, Task
from deebert.data.sources import table
from deebert.data.sources.tables import split_table

ROOT = Path(__file__).parents[3]
TASK = Task("RTE", ("entailment", "not_entailment"), ("sentence1", "sentence2"), source="made up")


def made_up(task: Task) -> DataSet:
    """A source: the name of the data set stands in every text."""
    texts = {"sentence1": [task.name, "b"], "sentence2": ["c", task.name]}
    return DataSet.of(TASK, {split: split_table(texts, [1, 0]) for split in TASK.splits})


def download(folder: Path, dataset: str, **settings: object) -> DataSet:
    """What the stage leaves with these parameters."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] = dataset
    params["download_glue"] |= settings
    Path("params.yaml").write_text(yaml.safe_dump(params))
    runpy.run_path(str(ROOT / "stages/download_glue.py"))["main"](folder)
    return DataSet.load(folder)


def test_a_task_is_loaded_from_the_source_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage asks the Hub or, with a path, reads the folder; and later stages load what that gave."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(table.hub, "load", made_up)
    monkeypatch.setattr(table.classic, "load", lambda task, folder: made_up(task) if folder == Path("rows") else None)
    assert download(tmp_path / "other", "RTE", source="rows").sizes["train"] == 2
    data = download(tmp_path / "glue", "RTE", source="hub")
    assert data.task == TASK and data.sizes == {"train": 2, "validation": 2, "test": 2}
    expected = pd.DataFrame({"idx": [0, 1], "sentence1": ["RTE", "b"], "sentence2": ["c", "RTE"], "label": [1, 0]})
    for split in TASK.splits:
        pd.testing.assert_frame_equal(data[split], expected)


def test_the_source_of_a_data_set_goes_before_the_one_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`toy` has a source of its own, so `download_glue.source` does not matter to it; and its seed is kept."""
    monkeypatch.chdir(tmp_path)
    data = download(tmp_path / "glue", "toy", source="no-such-folder", toy_seed=3)
    assert (data.task.name, data.task.source, data.task.origin) == ("toy", "toy", {"seed": 3})


def test_only_the_download_depends_on_sources() -> None:
    """A new source, or a change in one, makes no other stage run again whose data stay the same."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    depend = {name for name, stage in stages.items() if any("/data/sources/" in dep for dep in stage["deps"])}
    assert depend == {"download_glue"}
