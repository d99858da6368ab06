"""Runs over several seeds: which belong together, and what their mean and spread are."""

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deebert.reports.seeds import draw_seeds, losses_on_test, over_seeds, runs_like_this, table
from deebert.settings.params import read_params
from tests.heads import entropy_rows_of, heads

ROOT = Path(__file__).parents[2]
CONFIDENCE = {"certified_confidence": 0.9}


def revision(name: str, seed: int, score: float | None, epochs: int = 3) -> dict[str, Any]:
    """A commit or experiment as `dvc exp show --json` tells of it; without a score it has not finished."""
    metrics = {
        "metrics/layers.json": {"data": {"task": "toy", "full_score": score}},
        "metrics/sweep.json": {"data": {"task": "toy", "layers_saved_at": {"drop_1_0": score / 2}}} if score else {},
        "metrics/choice.json": {"data": {"task": "toy", **CONFIDENCE}},
    }
    params = {"params.yaml": {"data": {"seed": seed, "finetune_backbone": {"epochs": epochs}}}}
    return {"rev": name, "data": {"params": params, "metrics": metrics if score else None}, "experiments": None}


def shown(*experiments: dict[str, Any]) -> list[dict[str, Any]]:
    commit = revision("commit", 42, 0.9) | {"experiments": [{"revs": [experiment]} for experiment in experiments]}
    return [revision("workspace", 42, 0.1), commit]


def runs_of(
    *experiments: dict[str, Any], ran: dict[str, int] | None = None, **origin: dict[str, str]
) -> tuple[dict[int, Any], list[int]]:
    """What is made of `experiments` beside a commit.

    Each was run with its own seed, but those named in `ran`; and by the same code and data, but those named there.
    """
    entries = {entry["rev"]: entry for entry in (*shown(), revision("commit", 42, 0.9), *experiments)}

    def read_file(name: str, path: str) -> str:
        assert path == "dvc.lock"
        params = entries[name]["data"]["params"]["params.yaml"]["data"]
        params = params | {"seed": (ran or {}).get(name, params["seed"])}
        paths = {"code": "src/code.py", "data": "data/glue"}
        deps = [{"path": path, "md5": origin.get(key, {}).get(name, "this")} for key, path in paths.items()]
        sweep = {"deps": deps, "outs": [{"path": "data/sweep", "md5": "1"}], "params": {"params.yaml": params}}
        return yaml.safe_dump({"stages": {"entropy_sweep": sweep, "plot": {"deps": sweep["outs"]}}})

    return runs_like_this(shown(*experiments), read_file)


def test_runs_differ_in_the_seed_alone() -> None:
    """Of commits and experiments, one finished run per seed with the workspace's parameters; not that itself."""
    runs, _ = runs_of(
        revision("b", 2, 0.8),
        revision("a", 1, 0.7),
        revision("again", 1, 0.2),
        revision("other", 3, 0.6, epochs=4),
        revision("running", 4, None),
        revision("edited", 5, 0.5),
        {"rev": "broken", "data": None},
        ran={"edited": 42},
    )
    assert runs == {
        1: ("a", {"full_score": 0.7, "layers_saved_at.drop_1_0": 0.35, **CONFIDENCE}),
        2: ("b", {"full_score": 0.8, "layers_saved_at.drop_1_0": 0.4, **CONFIDENCE}),
        42: ("commit", {"full_score": 0.9, "layers_saved_at.drop_1_0": 0.45, **CONFIDENCE}),
    }


@pytest.mark.parametrize("what", ["code", "data"])
def test_runs_of_other_code_or_data_are_left_out(what: str) -> None:
    """Seeds that only they have are told."""
    other = {what: {name: "other" for name in ("a", "b")}}
    runs, left_out = runs_of(revision("a", 1, 0.7), revision("b", 2, 0.8), revision("c", 2, 0.6), **other)
    assert ({seed: name for seed, (name, _) in runs.items()}, left_out) == ({2: "c", 42: "commit"}, [1])


def test_the_table_has_mean_spread_and_each_seed() -> None:
    """A line per figure: mean and sample standard deviation of the seeds' values, which stand beside them."""
    lines = table(runs_of(revision("a", 1, 0.7), revision("b", 2, 0.8))[0]).splitlines()
    assert lines[0] == "| figure | mean | spread | seed 1 | seed 2 | seed 42 |"
    spread = f"{statistics.stdev([0.7, 0.8, 0.9]):.4f}".rstrip("0").rstrip(".")
    assert lines[2] == f"| full_score | 0.8 | {spread} | 0.7 | 0.8 | 0.9 |"
    assert len(lines) == 5 and len({line.count("|") for line in lines}) == 1


def test_small_thresholds_are_not_0_and_large_numbers_are_whole() -> None:
    """At 0 nobody leaves, at 1.5e-33 somebody may; 123,456 samples stay so many."""
    figures = {
        "threshold_at.drop_0_0": (1.5e-33, 2.5e-9),
        "threshold_at.drop_1_0": (0.0, 0.12344),
        "n": (123456, 123456),
    }
    runs = {seed: (str(seed), {name: values[seed] for name, values in figures.items()}) for seed in (0, 1)}
    cells = [[cell.strip() for cell in line.strip("|").split("|")][-2:] for line in table(runs).splitlines()[2:]]
    assert cells == [["1.5e-33", "2.5e-09"], ["0", "0.1234"], ["123456", "123456"]]


def test_losses_on_test_are_of_the_recommended_thresholds() -> None:
    """Full depth's score on the test split less that at each threshold, in points; none without a test split."""
    sweep = [
        {"split": split, "criterion": criterion, "threshold": threshold, "score": score}
        for split, criterion, threshold, score in (
            ("validation", "entropy", 0.0, 0.5),
            ("test", "entropy", 0.0, 0.9),
            ("test", "entropy", 0.3, 0.88),
            ("test", "patience", 0.3, 0.1),
        )
    ]
    figures = {"full_score": 0.5, "threshold_at.drop_1_0": 0.3, "threshold_at.drop_0_0": 0.0}
    losses = losses_on_test(figures, sweep)
    assert losses == pytest.approx({"test_loss_points_at.drop_1_0": 2.0, "test_loss_points_at.drop_0_0": 0.0})
    assert losses_on_test(figures, sweep[:1]) == {}


def test_the_figure_has_every_seed_and_their_mean() -> None:
    """A thin line per seed, and at each threshold the mean of score and saving."""
    thresholds = [0.0, 0.2, 0.4, 0.7]
    sweeps = {seed: entropy_rows_of(*heads(seed), thresholds, "accuracy") for seed in (1, 2, 3)}
    *seeds, mean = draw_seeds(read_params(ROOT / "params.yaml"), sweeps).axes[0].get_lines()
    points = [[(100 * r["layers_saved_frac"], 100 * r["score"]) for r in rows] for rows in sweeps.values()]
    for line, expected in zip(seeds, points, strict=True):
        np.testing.assert_allclose(line.get_xydata(), expected)
    assert mean.get_xydata() == pytest.approx(np.mean(points, axis=0))


def test_over_seeds() -> None:
    """Mean and sample standard deviation of each group, in order of appearance; one run has no spread."""
    rows = [{"threshold": threshold, "score": score} for threshold, score in [(1, 0.8), (0, 0.9), (1, 0.9), (1, 0.7)]]
    first, second = over_seeds(rows, "threshold", ["score"])
    assert first == {
        "threshold": 1,
        "score_mean": pytest.approx(0.8),
        "score_std": pytest.approx(0.1),
        "seeds": 3,
    }
    assert second == {"threshold": 0, "score_mean": 0.9, "score_std": None, "seeds": 1}
