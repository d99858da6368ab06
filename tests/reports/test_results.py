"""Results that git keeps: a run is taken as it is, seeds are averaged, and what they show is told."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deebert.base.errors import UserError
from deebert.figures.results import Times, draw_results, draw_times
from deebert.reports.results import (
    OBJECTIVE,
    Result,
    at_equal_time,
    by_comparison,
    deepest_table,
    missing,
    read_results,
    results_section,
    take,
    written,
)
from tests.figures.test_evaluation import check_texts

TOP = Path(__file__).parents[2]
HEADER = {"task": "RTE", "model": "bert-base", "metric": "accuracy", "split": "validation"}
USUAL = """dataset: toy
model: default
seed: 42
finetune_backbone:
  objective: alternating
  epochs: default
  truncate_to: default
"""


def make_result(seed: int = 1, truncate_to: int | None = None, lift: float = 0.0, **settings: Any) -> Result:
    """A run of four layers whose score falls in a straight line from 90 % to 80 % at three quarters saved."""
    depth = truncate_to or 4
    curve = [[threshold / 10, 0.075 * threshold, 0.9 + lift - 0.01 * threshold] for threshold in range(11)]
    changed = {"dataset": "RTE", "finetune_backbone.epochs": 3, **settings}
    if truncate_to:
        changed["finetune_backbone.truncate_to"] = truncate_to
    layers = {"validation": [0.8] * depth}
    training = {"torch": "2", "transformers": "5", "device": "cpu", "hardware": "AVX2", "revision": None}
    about = ("RTE", "bert-base", "accuracy", depth, seed, truncate_to, changed, training, {"validation": 277})
    return Result(*about, layers, {"validation": curve})


def with_test(result: Result, scores: list[float]) -> Result:
    """The same with nine samples of a test split, on which thresholds save less."""
    curve = [[point[0], 0.05 * i, scores[i]] for i, point in enumerate(result.curve["validation"])]
    return dataclasses.replace(result, n={**result.n, "test": 9}, curve={**result.curve, "test": curve})


def test_scores_at_a_saving_lie_on_the_curve() -> None:
    """Between two points the line is straight; beyond the last there is none."""
    whole, half = make_result(), make_result(truncate_to=2)

    def score(result: Result, saved: float, num_layers: int = 4) -> float | None:
        return result.score_at(saved, num_layers, "validation")

    assert whole.full_score("validation") == 0.9
    assert score(whole, 0.5) == pytest.approx(0.9 - 0.1 * 0.5 / 0.75)
    assert score(half, 0.25) is None and score(half, 0.5) == 0.9
    assert score(whole, 0.75) == pytest.approx(0.8) and score(whole, 0.76) is None
    assert score(half, 0.75) == score(half, 0.5, 2) == pytest.approx(score(whole, 0.5))
    assert half.curve_of(4, "validation")[0] == (0.5, 0.9)


def test_a_threshold_is_chosen_on_validation_and_judged_on_test() -> None:
    """What test says has no part in the choice, in whichever direction it differs."""
    result = with_test(make_result(), [0.7 - 0.02 * (i % 3) for i in range(11)])
    for points, level in ((0.0, 0), (1.0, 1), (3.5, 3), (50.0, 10)):
        assert result.chosen(points, 4, "validation") == pytest.approx((0.075 * level, 0.9 - 0.01 * level))
        assert result.chosen(points, 4, "test") == pytest.approx((0.05 * level, 0.7 - 0.02 * (level % 3)))
    text = results_section({"a": result})
    assert "accuracy (%) on validation (n = 277):\n\n" in text and "accuracy (%) on test (n = 9):\n\n" in text
    assert " | 0.0 (0.0) | 7.5 (1.0) |" in text and " | 0.0 (0.0) | 5.0 (2.0) |" in text


def test_a_loss_that_is_just_allowed_is_allowed() -> None:
    """Scores are kept to 5 digits: 8 of 1,600 samples are half a point, however full depth's score is rounded."""
    result = make_result()
    for right in range(800, 1601):
        curve = [[0.0, 0.0, round(right / 1600, 5)]]
        curve += [[0.1 * i, 0.2 * i, round((right - lost) / 1600, 5)] for i, lost in ((1, 8), (2, 9))]
        assert dataclasses.replace(result, curve={"validation": curve}).chosen(0.5, 4, "validation")[0] > 0.15


def test_a_deeper_curve_keeps_the_point_that_was_chosen() -> None:
    """Scores may fall and rise again: the boldest threshold within the loss counts."""
    result = make_result()
    curve = [[0.0, 0.0, 0.9], [0.1, 0.2, 0.88], [0.2, 0.4, 0.895], [0.3, 0.6, 0.8]]
    assert dataclasses.replace(result, curve={"validation": curve}).chosen(0.5, 4, "validation") == (0.4, 0.895)


def test_seeds_are_averaged_and_ways_kept_apart() -> None:
    """What differs in the seed alone is one row; other settings, and depths, are rows of their own."""
    runs = [make_result(1), make_result(2, lift=0.02), make_result(1), make_result(1, 2), make_result(1, 1)]
    runs[2] = dataclasses.replace(runs[2], training={**runs[2].training, "objective": "alternating"})
    (groups,) = by_comparison(runs).values()
    assert {how: len(members) for how, members in groups.items()} == {
        "full_depth": 2,
        "alternating": 1,
        "cut to 2 layers": 1,
        "cut to 1 layers": 1,
    }
    text = results_section({str(number): run for number, run in enumerate(runs)})
    assert "| full_depth | 2 | 91.0 ± 1.4 | 84.3 ± 1.4 |" in text
    assert "| cut to 2 layers | 1 |  | 90.0 | 85.6 | 83.3 | 50.0 (1.0) | 53.8 (2.0) |" in text, "of the whole's layers"
    assert "| cut to 1 layers | 1 |  |  |  | 90.0 | 75.0 (1.0) | 76.9 (2.0) |" in text, "against the first row"
    assert "\ndvc exp run --queue -S dataset=RTE -S finetune_backbone.epochs=3 -S seed=1,2\n" in text
    assert "(results/rte-bert-base.svg)" in text and "-time.svg" not in text
    times = Times([(0.0, 9.0), (0.6, 3.0)], {2: 4.0}, 7.0, *("",) * 4)
    raced = results_section({str(number): run for number, run in enumerate(runs)}, {("RTE", "bert-base"): times})
    assert "(results/rte-bert-base-time.svg)" in raced and at_equal_time(groups, times) in raced


def test_the_deepest_model_is_shown_first() -> None:
    """One table, of the model with the most layers."""
    deeper = dataclasses.replace(make_result(), model="bert-large", num_layers=24, n={"validation": 9})
    assert deepest_table({"a": make_result(), "b": deeper}) == deepest_table({"b": deeper})
    assert deepest_table({}) == "Nothing was kept yet."


def test_what_sets_a_run_apart_is_named() -> None:
    """A setting that most share is not told again in each row; one that most have changed is told where it was not."""
    runs = [make_result(1), make_result(1, precision="int8"), make_result(2)]
    (groups,) = by_comparison(runs).values()
    assert [*groups] == ["full_depth", "full_depth, precision int8"]
    longer = [make_result(seed, **{"finetune_backbone.epochs": 6}) for seed in (1, 2)]
    shorter = dataclasses.replace(runs[0], settings={"dataset": "RTE"})
    (groups,) = by_comparison([shorter, *longer]).values()
    assert [*groups] == ["full_depth", "full_depth, epochs default"]


def test_missing_seeds_are_found() -> None:
    """Each way of a comparison should have the seeds of the others; of other comparisons none."""
    runs = [make_result(1), make_result(2), make_result(2, precision="int8"), make_result(1, 2)]
    runs.append(dataclasses.replace(make_result(7), task="MRPC"))
    lacking = [(result.truncate_to, result.settings.get("precision"), seeds) for result, seeds in missing(runs)]
    assert lacking == [(None, "int8", [1]), (2, None, [2])]
    assert not missing(runs[:2])


def test_missing_runs_are_queued_with_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that a result knows by its last name alone is looked up; where it is not, nothing is queued."""
    tool = runpy.run_path(str(TOP / "tools/results.py"))
    started: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "run", lambda command: started.append(command) or subprocess.CompletedProcess(command, 0)
    )
    runs = [make_result(1), make_result(2), make_result(1, precision="int8", model="mpnet")]
    kept = {str(number): run for number, run in enumerate(runs)}
    with pytest.raises(UserError, match=r"model: no folder mpnet in .*, so nothing is queued"):
        tool["tell_missing"](kept, [tmp_path])
    assert not started
    (tmp_path / "mpnet").mkdir()
    tool["tell_missing"](kept, [tmp_path / "elsewhere", tmp_path])
    ((*start, last),) = started
    assert start[:4] == ["dvc", "exp", "run", "--queue"] and last == "seed=2"
    assert f"model={tmp_path / 'mpnet'}" in start and "dataset=RTE" in start, "a known name is no folder"


def write_run(folder: Path, model: str = "/home/me/toy") -> None:
    """The committed run's figures, with a model and parameters that fit them."""
    for name in ("plots/sweep.json", "plots/layers.json", "metrics/layers.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((TOP / name).read_bytes())
    training = {"model": "toy-bert", "task": "toy", "seed": 7}
    (folder / "models/deebert").mkdir(parents=True)
    (folder / "models/deebert/training.json").write_text(json.dumps(training))
    params = USUAL.replace("42", "7").replace("epochs: default", "epochs: 2") + "benchmark:\n  samples: 3\n"
    params = params.replace("model: default", f"model: {model}")
    (folder / "params.yaml").write_text(params)
    lock = {"stages": {"plot": {"params": {"params.yaml": yaml.safe_load(params)}}}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))


@pytest.mark.parametrize("model", ["/home/me/toy", "~/models/toy", "~me/toy"])
def test_a_run_is_taken_as_it_is(model: str, tmp_path: Path) -> None:
    """Scores are the figures'. Settings are those which differ and scores follow from, and what names the run.

    A path loses all but its last name.
    """
    write_run(tmp_path, model)
    result = take(tmp_path, USUAL)
    assert (result.task, result.model, result.seed, result.truncate_to) == ("toy", "toy-bert", 7, None)
    expected = {"dataset": "toy", "model": "toy", OBJECTIVE: "alternating", "finetune_backbone.epochs": 2}
    assert result.settings == expected
    told = "-S model=toy -S finetune_backbone.objective=alternating -S finetune_backbone.epochs=2 -S seed=7"
    command = f"dvc exp run --queue -S dataset=toy {told}"
    assert " ".join(result.command([7])) == command
    layers = json.loads((TOP / "plots/layers.json").read_text())
    expected = [row["score"] for row in layers if (row["split"], row["metric"]) == ("test", "accuracy")]
    np.testing.assert_allclose(result.layers["test"], expected, atol=1e-5)
    assert len(expected) == result.num_layers
    assert result.curve["test"][0][:2] == [0.0, 0.0]
    assert result.full_score("test") == pytest.approx(expected[-1], abs=1e-5)
    assert result.curve["validation"][1][0] > 0, "no small threshold is told as 0"
    assert result.validation == "validation" and result.precision == "fp32"

    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/one.json").write_text(written(result))
    assert read_results(tmp_path / "kept")["one"].command([7]) == result.command([7])


def test_what_is_no_finished_run(tmp_path: Path) -> None:
    """A model of another run, a missing file and a damaged result are one line each."""
    with pytest.raises(UserError, match=r"sweep.json: no such file"):
        take(tmp_path, USUAL)
    write_run(tmp_path)
    told = r"params\.yaml, the model and the metrics are not of one run; expected `dvc repro` first"
    for name, old, new in (
        ("params.yaml", "seed: 7", "seed: 8"),
        ("params.yaml", "truncate_to: default", "truncate_to: 3"),  # edited, and nothing was run
        ("models/deebert/training.json", 'toy", "seed', 'RTE", "seed'),
    ):
        content = (tmp_path / name).read_text()
        assert old in content
        (tmp_path / name).write_text(content.replace(old, new))
        with pytest.raises(UserError, match=told):
            take(tmp_path, USUAL)
        (tmp_path / name).write_text(content)
    take(tmp_path, USUAL)
    (tmp_path / "odd.json").write_text("{}")
    with pytest.raises(UserError, match=r"odd.json: expected the keys command|odd.json: expected the keys curve"):
        read_results(tmp_path)


def test_settings_are_told_against_the_same_parameters_for_ever() -> None:
    """results/params.yaml knows each parameter that there is, so a new one is told, too."""
    kept, now = (yaml.safe_load((TOP / path / "params.yaml").read_text()) for path in ("results", "."))
    assert {name: set(value) if isinstance(value, dict) else None for name, value in kept.items()} == {
        name: set(value) if isinstance(value, dict) else None for name, value in now.items()
    }


def keep(folder: Path, **results: Result) -> Path:
    for name, result in results.items():
        (folder / f"{name}.json").write_text(written(result))
    return folder


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, "b.json: the run of .*a.json once more, with the same settings and seed; expected one file"),
        (
            {"seed": 2, "metric": "f1"},
            r"b.json: f1 on 277 samples of validation; .*a.json: accuracy on 277 samples",
        ),
        ({"seed": 2, "n": {"validation": 9}}, "b.json: accuracy on 9 samples of validation; "),
        ({"seed": 2, "training": {"revision": "ab"}}, r"b.json: revision of the training is 'ab'; .*a.json: None; "),
        (
            {"seed": 2, "n": {"validation": 277, "test": 5}, "curve": {"validation": [[0.0] * 3], "test": [[0.0] * 3]}},
            "on 277 samples of validation, 5 samples of test; ",
        ),
    ],
)
def test_what_cannot_be_averaged_is_told(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    """One run under two names would be two seeds that agree, and means over two metrics or splits are of nothing."""
    keep(tmp_path, a=make_result(), c=dataclasses.replace(make_result(), task="MRPC", metric="f1"))
    assert len(read_results(tmp_path)) == 2
    with pytest.raises(UserError, match=told):
        read_results(keep(tmp_path, b=dataclasses.replace(make_result(), **changed)))


@pytest.mark.parametrize(
    "change",
    [
        {"curve": {}},
        {"curve": {"validation": []}},
        {"curve": {"validation": [[0.0, 0.0]]}},
        {"curve": {"validation": [[0.0, 0.0, None]]}},
        {"n": {"validation": 1, "test": 1}, "curve": {"validation": [[0.0] * 3], "test": [[0.0] * 3] * 2}},
        {"n": None},
        {"n": {}},
        {"truncate_to": "2"},
        {"seed": "1"},
        {"task": None},
    ],
)
def test_a_damaged_result_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    """In one line, before anything is drawn."""
    keep(tmp_path, a=make_result())
    path = tmp_path / "a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=r"a\.json: damaged: [^\n]*$"):
        read_results(tmp_path)


def test_settings_of_one_name_are_kept_apart() -> None:
    """Two sections have epochs; where both were changed, the whole name is told."""
    runs = [make_result(seed) for seed in (1, 2, 3)]
    runs += [make_result(1, **{"finetune_backbone.epochs": 9}), make_result(2, **{"train_ramps.epochs": 9})]
    (groups,) = by_comparison(runs).values()
    assert [*groups] == ["full_depth", "full_depth, finetune_backbone.epochs 9", "full_depth, train_ramps.epochs 9"]


def test_early_exit_is_held_against_models_cut_short_at_equal_time() -> None:
    """Between measured times; where no early exit is as fast it says so, and there is no table without cut models."""
    groups = by_comparison([make_result(1), make_result(2, lift=0.02), make_result(1, 2)])["RTE", "bert-base"]
    measured = [(0.0, 8.0), (0.3, 7.0), (0.3, 5.0), (0.6, 4.0)]
    for cut_ms, told in ((4.0, "+0.0"), (5.0, "+1.2"), (8.0, "+1.0"), (3.9, "not timed")):
        times = Times(measured, {2: cut_ms}, 9.0, *("",) * 4)
        curve = [100 * (0.91 - 0.1 * saved / 0.75) for saved in (0.6, 0.45, 0.0)]
        expected = {4.0: curve[0] - 90, 5.0: curve[1] - 90, 8.0: curve[2] - 90}.get(cut_ms)
        cell = at_equal_time(groups, times).splitlines()[-1].split(" | ")[2].removesuffix(" |")
        assert cell == told if expected is None else float(cell) == pytest.approx(expected, abs=0.1)
    assert at_equal_time(groups, Times(measured, {3: 5.0}, 9.0, *("",) * 4)) == ""


def test_more_saved_takes_no_longer_whatever_the_clock_says() -> None:
    """Of two thresholds in the wrong order both have the longer time: early exit is not told faster than measured."""
    times = Times([(0.4, 5.0), (0.0, 8.0), (0.3, 4.0), (0.6, 3.0)], {}, 9.0, *("",) * 4)
    assert times.of(np.array([0.0, 0.3, 0.35, 0.4, 0.5, 0.6])) == pytest.approx([8, 5, 5, 5, 4, 3])


def test_the_figure_has_a_curve_for_each_way_and_a_band_for_seeds() -> None:
    """Curves are means over seeds, bands their spread; those of cut models start at a mark, where nobody leaves."""
    seeds, cut = (
        [make_result(lift=lift).curve_of(4, "validation") for lift in (0.0, 0.02)],
        [make_result(truncate_to=2).curve_of(4, "validation")],
    )
    figure = draw_results(
        HEADER, {"full_depth": seeds, "alternating": seeds[:1], "cut to 2 layers": cut}, {"cut to 2 layers"}
    )
    (ax,) = figure.axes
    mean, single, shorter = ax.get_lines()
    assert mean.get_ydata()[0] == pytest.approx(91) and single.get_ydata()[0] == pytest.approx(90)
    (band,) = ax.collections
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(91 + 100 * np.std([0, 0.02], ddof=1))
    assert shorter.get_markevery() == [0] and tuple(shorter.get_xydata()[0]) == pytest.approx((50, 90))
    check_texts(figure)


def test_the_figure_of_time_goes_as_far_as_was_measured() -> None:
    """Early exit lies between what was measured, a cut model at its own time, and the whole one at its."""
    whole = [make_result(lift=0.0), make_result(lift=0.02)]
    shown = {"full_depth": whole, "cut to 2 layers": [make_result(1, 2)]}
    shown["cut to 1 layers"] = [make_result(1, 1)]  # of which no time is known
    curves = {how: [run.curve_of(4, "validation") for run in runs] for how, runs in shown.items()}
    times = Times(
        [(0.0, 9.0), (0.3, 6.5), (0.3, 5.5), (0.6, 3.0)], {2: 4.0}, 7.0, "one thread", "ours", "cut", "ONNX Runtime"
    )
    figure = draw_times({**HEADER, "precision": "fp32"}, curves, {"cut to 2 layers": 2, "cut to 1 layers": 1}, times)
    (ax,) = figure.axes
    early, cut, full_depth = ax.get_lines()
    assert tuple(early.get_xydata()[0]) == pytest.approx((9, 91))
    assert tuple(early.get_xydata()[-1]) == pytest.approx((3, 91 - 10 * 0.6 / 0.75))
    assert tuple(cut.get_xydata()[0]) == pytest.approx((4, 90)) and tuple(full_depth.get_xydata()[0]) == (7, 91)
    assert ax.get_ylabel() == "accuracy (%) on validation, fp32"
    check_texts(figure)


def test_the_committed_results_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make results` would change no figure: each is there, byte for byte."""
    monkeypatch.chdir(TOP)
    monkeypatch.setattr(sys, "argv", ["results.py", "--figures", str(tmp_path)])
    runpy.run_path(str(TOP / "tools/results.py"), run_name="__main__")
    figures = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert figures == {path.name: path.read_bytes() for path in (TOP / "docs/results").iterdir()}


def test_missing_seeds_of_the_first_way() -> None:
    """Seeds that another way has are missing in the first way, too."""
    runs = [make_result(1), make_result(1, 2), make_result(2, 2)]
    assert [(run.truncate_to, seeds) for run, seeds in missing(runs)] == [(None, [2])]


def test_the_deepest_model_comes_before_the_most_runs() -> None:
    """README's table is of it."""
    deeper = dataclasses.replace(make_result(), model="bert-large", num_layers=24)
    kept = {"a": make_result(1), "b": make_result(2), "c": deeper}
    assert deepest_table(kept) == deepest_table({"c": deeper})


def test_whole_models_come_first_and_cut_ones_by_depth() -> None:
    """Runs of a way come by their seeds."""
    runs = [make_result(1, 1), make_result(2), make_result(1, 3), make_result(1)]
    (groups,) = by_comparison(runs).values()
    assert list(groups) == ["full_depth", "cut to 3 layers", "cut to 1 layers"]
    assert [member.seed for member in groups["full_depth"]] == [1, 2]


def test_where_each_run_has_a_setting_of_its_own() -> None:
    """The tables are made all the same."""
    changes = ({"precision": "int8"}, {"finetune_backbone.epochs": 6}, {"train_ramps.ramp": "linear"})
    kept = {str(i): make_result(1, **change) for i, change in enumerate(changes)}
    table = deepest_table(kept)
    assert all(told in table for told in ("precision int8", "epochs 6", "ramp linear"))
