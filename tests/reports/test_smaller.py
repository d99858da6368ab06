"""Scores of smaller models: gathered from runs, kept in a file, and drawn beside the runs that they belong to."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.reports.smaller import ADDED_SETTINGS, FOR_RAMPS, read_smaller, recipe_of, smaller_rows
from deebert.reports.smaller_runs import collect, merge
from deebert.settings.download_glue import Columns, DownloadGlue
from deebert.settings.finetune_backbone import FinetuneBackbone
from tests.runs import run

DOWNLOAD = DownloadGlue("hub", 0, Columns(None, None, None), None, None, 0.1, 0)
FINETUNE = FinetuneBackbone("alternating", None, "none", None, None, None, None, 128, "auto")
RECIPE = {
    "source": "hub",
    "toy_seed": 0,
    "columns": {"text": "default", "pair": "default", "label": "default"},
    "labels": "default",
    "metric": "default",
    "validation_frac": 0.1,
    "split_seed": 0,
    "objective": "full_depth",
    "full_depth_frac": "default",
    "class_weights": "none",
    "epochs": "default",
    "learning_rate": "default",
    "batch_size": "default",
    "max_length": 128,
    "precision": "auto",
    "deployed_precision": "fp32",
}
ABOUT = {
    "task": "RTE",
    "metric": "accuracy",
    "num_layers": 12,
    "splits": ["validation"],
    "test_splits": [],
    "n": {"validation": 277},
}


def row(**changed: Any) -> Row:
    """A row of the file: bert-base cut to 3 layers, on RTE."""
    return {
        "task": "RTE",
        "whole": "bert-base",
        "model": "bert-base",
        "layers": 3,
        "seed": 42,
        "split": "validation",
        "metric": "accuracy",
        "n": 277,
        "score": 0.6,
        "accuracy": 0.6,
        "recipe": RECIPE,
        "backbone": "abc.dir",
    } | changed


def test_rows_become_points_of_the_sweep() -> None:
    """A cut model saves the layers that it lacks, and so does DistilBERT; of several seeds it is the mean."""
    other = {**RECIPE, "objective": "alternating"}
    rows = [
        row(),
        row(model="distilbert-base", layers=6, accuracy=0.5),
        row(layers=4, score=0.7),
        row(seed=1, score=0.7, accuracy=0.5),
        row(seed=2, score=0.9, recipe=other),
        row(seed=3, score=0.8),
    ]
    found = smaller_rows(rows, ABOUT, "bert-base", DOWNLOAD, FINETUNE, "fp32")
    assert all(point["compute_saved_frac"] == point["layers_saved_frac"] for point in found)  # they have no ramps
    columns = ("criterion", "threshold", "score", "accuracy", "layers_saved_frac", "mean_exit_layer", "n", "split")
    assert [tuple(point[key] for key in columns) for point in found] == [
        ("truncated", 3, pytest.approx(0.7), pytest.approx(1.7 / 3), 0.75, 3.0, 277, "validation"),
        ("distilled", 6, 0.6, 0.5, 0.5, 6.0, 277, "validation"),
        ("truncated", 4, 0.7, 0.6, pytest.approx(2 / 3), 4.0, 277, "validation"),
        ("truncated", 3, 0.9, 0.6, 0.75, 3.0, 277, "validation"),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "QNLI"},
        {"whole": "roberta-base"},
        {"whole": "/models/bert-base"},
        {"whole": "distilbert-base", "model": "distilbert-base"},
        {"metric": "f1"},
        {"n": 276},
        {"split": "test"},
        {"layers": 12},
        *({"recipe": {**RECIPE, key: 7}} for key in RECIPE if key not in FOR_RAMPS),
        {"recipe": {}},
    ],
    ids=str,
)
def test_a_row_of_another_run_is_not_taken(changed: dict[str, Any]) -> None:
    """Task, whole model, metric, samples and every setting must be the run's own, and the model must be smaller."""
    assert smaller_rows([row(**changed)], ABOUT, "bert-base", DOWNLOAD, FINETUNE, "fp32") == []


@pytest.mark.parametrize("key", FOR_RAMPS)
def test_a_smaller_model_need_not_be_trained_for_exits(key: str) -> None:
    """It has none, so it stands beside a whole model however that one was trained for its ramps."""
    for value in ("full_depth", "alternating", 0.25):
        assert (
            len(smaller_rows([row(recipe={**RECIPE, key: value})], ABOUT, "bert-base", DOWNLOAD, FINETUNE, "fp32")) == 1
        )


def test_a_cut_run_has_nothing_smaller_beside_it() -> None:
    """A run that is itself cut is no whole model, even if it has as many layers."""
    cut = FinetuneBackbone("alternating", None, "none", 6, None, None, None, 128, "auto")
    assert smaller_rows([row()], {**ABOUT, "num_layers": 6}, "bert-base", DOWNLOAD, cut, "fp32") == []


def test_settings_are_compared_by_value() -> None:
    """A rate of 2e-5 is the same however it was written, and a set value is not the default."""
    finetune = FinetuneBackbone("alternating", None, "none", None, 3.0, 0.00002, None, 128, "auto")
    set_alike = row(recipe={**RECIPE, "epochs": 3, "learning_rate": 2e-5})
    assert len(smaller_rows([set_alike, row()], ABOUT, "bert-base", DOWNLOAD, finetune, "fp32")) == 1


def test_the_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """What `make smaller` gathers passes the checks of the stage that reads it."""
    cut = run("RTE", "bert-base", 0.6, cut=3, splits=("validation", "test"))
    (rows,) = collect([dataclasses.replace(cut, recipe=RECIPE)]).values()
    path = tmp_path / "smaller_models.json"
    path.write_text(json.dumps(rows))
    assert read_smaller(path) == rows
    assert [each["split"] for each in rows] == ["validation", "test"]
    assert len(smaller_rows(rows, ABOUT, "bert-base", DOWNLOAD, FINETUNE, "fp32")) == 1


def test_runs_of_smaller_models_are_gathered() -> None:
    """Cut models and DistilBERT, which stands for bert-base, whole, or for itself, cut; no whole model."""
    runs = [
        run("RTE", "bert-base"),
        run("RTE", "bert-base", seed=1, cut=3),
        run("RTE", "distilbert-base", layers=6),
        run("RTE", "distilbert-base", seed=2, cut=2),
    ]
    rows = [each for found in collect(runs).values() for each in found]
    assert [(each["whole"], each["model"], each["layers"], each["seed"]) for each in rows] == [
        ("bert-base", "bert-base", 3, 1),
        ("bert-base", "distilbert-base", 6, 42),
        ("distilbert-base", "distilbert-base", 2, 2),
    ]


def test_rows_are_brought_up_to_date_and_kept() -> None:
    """A run that is known gives its new score, others stay, and the order depends on nothing but the rows."""
    known = [row(layers=6), row(), row(task="QNLI")]
    again = row(score=0.7)
    other = row(recipe={**RECIPE, "epochs": 5})
    merged = merge(known, [other, again])
    assert [(each["task"], each["layers"], each["score"], each["recipe"]["epochs"]) for each in merged] == [
        ("QNLI", 3, 0.6, "default"),
        ("RTE", 3, 0.7, "default"),
        ("RTE", 3, 0.6, 5),
        ("RTE", 6, 0.6, "default"),
    ]
    assert merge(known[::-1], [again, other]) == merge(merged, []) == merged
    assert merge(known, [again, other, row(score=0.5)]) == merged  # the newest comes first


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("[", "not readable as JSON"),
        ("{}", "expected a list of rows"),
        ("[3]", "row 1: expected the keys task, whole"),
        (json.dumps([row(), {"task": "RTE"}]), "row 2: expected the keys task, .*, found task"),
        (json.dumps([row(score=1.5)]), "row 1: score: 1.5 is not allowed; expected a number from 0 to 1"),
        (json.dumps([row(score=float("nan"))]), "row 1: score: nan is not allowed"),
        (json.dumps([row(layers=True)]), "row 1: layers: True is not allowed"),
        (json.dumps([row(recipe="default")]), "row 1: recipe: 'default' is not allowed"),
        (None, "no such file; `make smaller` writes it"),
    ],
)
def test_a_malformed_file_is_told_in_one_line(content: str | None, line: str, tmp_path: Path) -> None:
    """The error names file, row and key, what was found and what is allowed."""
    path = tmp_path / "smaller_models.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=line) as told:
        read_smaller(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


def test_the_projects_own_file_is_sound() -> None:
    """The rows in git pass the checks and are what merging leaves as it is."""
    rows = read_smaller(Path(__file__).parents[2] / "baselines/smaller_models.json")
    assert merge(rows, []) == rows


def test_the_projects_own_rows_know_every_setting() -> None:
    """A new setting of a stage needs what older runs did in its place, or these rows would fit no run and be gone."""
    top = Path(__file__).parents[2]
    committed = (top / "params.yaml").read_text()
    params = yaml.safe_load(committed)
    _, recipe = recipe_of(params["download_glue"], params["finetune_backbone"], {"deployed_precision": "fp32"})
    rows = read_smaller(top / "baselines/smaller_models.json")
    assert rows and all(set(row["recipe"]) == set(recipe) for row in rows)


def test_older_runs_did_what_they_did() -> None:
    """A recipe of a time when a setting was not there means the value that was built in."""
    older = {key: value for key, value in RECIPE.items() if key not in ADDED_SETTINGS}
    assert len(older) < len(RECIPE) and recipe_of(older) == (None, RECIPE)
    assert recipe_of({**older, "split_seed": 7}) == (None, {**RECIPE, "split_seed": 7})
