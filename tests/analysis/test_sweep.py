"""The tables of a split, against plain loops over random logits, and what the stage makes of them."""

import math
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from deebert.analysis.curves import entropy_curve
from deebert.analysis.logits import SplitLogits
from deebert.analysis.sweep import (
    choice_metrics,
    choice_tables,
    compute_metrics,
    depth_rows,
    entropy_rows,
    exit_rows,
    leaver_rows,
    scored_curve,
    split_tables,
    sweep_metrics,
)
from deebert.base.errors import UserError
from deebert.base.files import read_json, write_json
from deebert.base.rows import Row
from deebert.settings.entropy_sweep import EntropySweep, Risk
from deebert.settings.params import read_params
from tests.heads import best_within, check_metrics, heads, naive_entropy, naive_exit

ROOT = Path(__file__).parents[2]
N, LAYERS = 40, 4
few = settings(max_examples=25, deadline=None, derandomize=True)
SETTINGS = EntropySweep(1, (0.0, 0.2, 0.5), 40, (0.0, 0.5, 1.0, 3.0), Risk((0.05, 0.2), 0.1), 0.1)


def saved_logits(seed: int, labels: int = 2, n: int = N, difficulty: bool = True) -> SplitLogits:
    """A split of made-up heads, with token counts and, if asked for, grades."""
    logits, wanted = heads(seed, labels, n)
    return SplitLogits(logits, wanted, np.arange(n), np.arange(n) % 7 + 3, np.arange(n) % 3 if difficulty else None)


@few
@given(st.integers(0, 10_000), st.lists(st.floats(0, 1.5), min_size=1, max_size=4, unique=True))
def test_everybody_leaves_once(seed: int, thresholds: list[float]) -> None:
    """At each threshold the exits of layers 1..L are those of a plain loop and sum to n."""
    logits, _ = heads(seed)
    rows = exit_rows("validation", entropy_curve(logits, thresholds), thresholds)
    for threshold in thresholds:
        mine = {row["layer"]: row["exits"] for row in rows if row["threshold"] == threshold}
        layers = [naive_exit(sample, threshold) for sample in logits]
        assert mine == {layer: layers.count(layer) for layer in range(1, LAYERS + 1)}
    assert len(rows) == LAYERS * len(thresholds)


@few
@given(st.integers(0, 10_000), st.floats(0, 1.0))
def test_leavers_are_what_a_plain_loop_finds(seed: int, threshold: float) -> None:
    """Each layer's leavers: their number, errors there and at full depth, tokens and grades; none, no row."""
    saved = saved_logits(seed)
    curve = entropy_curve(saved.logits, [0.0, threshold] if threshold else [0.0])
    rows = {row["layer"]: row for row in leaver_rows("validation", curve, [threshold, threshold], saved)}
    layers = np.array([naive_exit(sample, threshold) for sample in saved.logits])
    assert list(rows) == sorted(set(layers.tolist()))
    for layer, row in rows.items():
        of = layers == layer
        wrong = saved.logits[of].argmax(axis=2) != saved.labels[of, None]
        assert row == {
            "split": "validation",
            "threshold": threshold,
            "layer": layer,
            "exits": of.sum(),
            "error_rate": pytest.approx(wrong[:, layer - 1].mean()),
            "full_depth_error_rate": pytest.approx(wrong[:, -1].mean()),
            "mean_tokens": pytest.approx(saved.token_counts[of].mean()),
            "mean_difficulty": pytest.approx(saved.difficulty[of].mean()),
        }
    assert sum(row["exits"] for row in rows.values()) == N


def test_ungraded_leavers_have_no_difficulty() -> None:
    """Data without grades has leavers without them."""
    saved = saved_logits(1, difficulty=False)
    rows = leaver_rows("validation", entropy_curve(saved.logits, [0.0, 0.5]), [0.5], saved)
    assert rows and not any("mean_difficulty" in row for row in rows)


def test_entropies_by_right_and_wrong_and_by_difficulty() -> None:
    """Each layer's groups are complete: right and wrong make up all samples, so do the grades; quantiles rise."""
    logits, labels = heads(5)
    difficulty = np.arange(N) % 3
    rows = entropy_rows("validation", logits, labels, difficulty)
    for layer in range(1, LAYERS + 1):
        groups = {row["group"]: row for row in rows if row["layer"] == layer}
        right = logits[:, layer - 1].argmax(axis=1) == labels
        assert groups["correct"]["n"] == right.sum() and groups["wrong"]["n"] == (~right).sum()
        assert sum(groups[f"difficulty {grade}"]["n"] for grade in range(3)) == N
        expected = np.median([naive_entropy(head) for head in logits[right, layer - 1]])
        assert groups["correct"]["q50"] == pytest.approx(expected, abs=1e-5)
        for row in groups.values():
            quantiles = [row[name] for name in ("q05", "q25", "q50", "q75", "q95")]
            assert quantiles == sorted(quantiles) and quantiles[0] >= 0 and quantiles[-1] <= math.log(2) + 1e-5


def test_a_group_without_samples_has_no_row() -> None:
    """Heads that are always right have no row of wrong answers, and data without grades none of difficulty."""
    logits = np.zeros((5, LAYERS, 2), dtype=np.float32)
    logits[:, :, 1] = 9
    rows = entropy_rows("validation", logits, np.ones(5, dtype=np.int64), None)
    assert {row["group"] for row in rows} == {"correct"}
    assert depth_rows("validation", entropy_curve(logits, [0.1]), None) == []


def test_depth_by_difficulty() -> None:
    """The mean exit layer of each grade is that of its own samples."""
    logits, _ = heads(6)
    difficulty = np.arange(N) % 3
    rows = depth_rows("validation", entropy_curve(logits, [0.2, 0.6]), difficulty)
    for row in rows:
        members = [naive_exit(sample, row["threshold"]) for sample in logits[difficulty == row["difficulty"]]]
        assert (row["mean_exit_layer"], row["n"]) == (pytest.approx(np.mean(members)), len(members))
    assert [(row["threshold"], row["difficulty"]) for row in rows] == [(t, g) for t in (0.2, 0.6) for g in range(3)]


def tables_of(split: str, saved: SplitLogits, metric: str, settings: EntropySweep) -> dict[str, list[Row]]:
    """All tables of a validation split."""
    given = (scored_curve(split, saved, metric, settings), saved, settings)
    return split_tables(*given) | choice_tables(*given)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
def test_tables_of_a_split(metric: str) -> None:
    """Entropy's curve comes first, at all thresholds; every table speaks of the split; equal input, equal tables."""
    saved = saved_logits(1)
    tables = tables_of("validation", saved, metric, SETTINGS)
    assert {row["split"] for rows in tables.values() for row in rows} == {"validation"} and all(tables.values())
    names = list(dict.fromkeys(row["criterion"] for row in tables["sweep"]))
    assert names[0] == "entropy" and set(names) == {
        *("entropy", "max_probability", "patience", "confident_streak_2", "confident_streak_3", "layer_thresholds"),
        *("consistency", "fixed_layer", "random_exit", "oracle", "oracle_full_depth"),
    }
    assert len({tuple(row) for row in tables["sweep"]}) == 1
    thresholds = [row["threshold"] for row in tables["sweep"] if row["criterion"] == "entropy"]
    assert thresholds == sorted(thresholds) and set(SETTINGS.thresholds) <= set(thresholds) and thresholds[0] == 0.0
    assert [row["threshold"] for row in tables["bands"]] == thresholds
    assert {row["threshold"] for row in tables["leavers"]} == {row["threshold"] for row in tables["choice"]}
    assert [row["layer"] for row in tables["calibration"]] == [1, 2, 3, 4]
    assert [row["epsilon"] for row in tables["certificates"]] == [0.05, 0.2, 0.05, 0.2]
    assert tables == tables_of("validation", saved, metric, SETTINGS)


def test_with_more_classes_the_margin_has_a_curve() -> None:
    """With two it would be maximum probability's; from three on the sweep has both."""
    names = [
        {row["criterion"] for row in tables_of("validation", saved_logits(1, classes), "accuracy", SETTINGS)["sweep"]}
        for classes in (2, 3, 77)
    ]
    assert ["margin" in each for each in names] == [False, True, True] and names[1] == names[2] == names[0] | {"margin"}


def test_the_band_lies_around_the_curve() -> None:
    """Each threshold's band has the curve's own score and saving, and holds them."""
    tables = tables_of("validation", saved_logits(2, n=200), "accuracy", SETTINGS)
    for row, band in zip(tables["sweep"], tables["bands"], strict=False):
        assert (row["threshold"], row["score"]) == (band["threshold"], pytest.approx(band["score"]))
        assert row["layers_saved_frac"] == pytest.approx(band["layers_saved_frac"])
        assert band["score_low"] - 1e-9 <= band["score"] <= band["score_high"] + 1e-9


def test_one_sample_is_enough() -> None:
    """A split of one sample has all tables but what needs two: fitted criteria and temperatures."""
    tables = tables_of("validation", saved_logits(1, n=1), "accuracy", SETTINGS)
    assert tables["calibration"] == [] and len(tables["choice"]) == 4


def test_sweep_metrics() -> None:
    """Per target what was chosen and its cross-fitted score, per risk what is certified; keys by the targets alone."""
    tables = tables_of("validation", saved_logits(1), "accuracy", SETTINGS)
    other = tables_of("other", saved_logits(2), "accuracy", SETTINGS)
    both = {name: other[name] + rows for name, rows in tables.items()}
    content, choice = (made("toy", "validation", both) for made in (sweep_metrics, choice_metrics))
    turned = {name: rows + other[name] for name, rows in tables.items()}
    assert (content, choice) == tuple(made("toy", "validation", turned) for made in (sweep_metrics, choice_metrics))
    check_metrics(content)
    check_metrics(choice)
    for target_figures in (content["layers_saved_at"], content["threshold_at"], choice["cross_fitted_score_at"]):
        assert list(target_figures) == ["drop_0_0", "drop_0_5", "drop_1_0", "drop_3_0"]
    certified = [row for row in tables["certificates"] if row["loss"] == "accuracy_drop"]
    for name in ("certified_layers_saved_at", "certified_threshold_at"):
        assert list(choice[name]) == ["risk_0_05", "risk_0_2"]
    assert list(choice["certified_threshold_at"].values()) == [row["threshold"] for row in certified]
    assert any(row["certified"] for row in certified)
    assert choice["certified_confidence"] == 0.9
    curve = [row for row in tables["sweep"] if row["criterion"] == "entropy"]
    best = best_within(curve, 1.0)
    assert content["layers_saved_at"]["drop_1_0"] == round(best["layers_saved_frac"], 4)
    assert content["threshold_at"]["drop_1_0"] == best["threshold"]
    assert (content["full_score"], content["n"], choice["n"]) == (round(curve[0]["score"], 4), N, N)
    scores = [round(row["score"], 4) for row in tables["choice"]]
    assert list(choice["cross_fitted_score_at"].values()) == scores
    assert list(sweep_metrics("RTE", "other", both)) == list(content)


def test_saved_logits_come_back(tmp_path: Path) -> None:
    """Every array is read back as it was saved; a grade of difficulty that is not there stays away."""
    logits, labels = heads(1)
    for difficulty in (None, np.arange(N)):
        saved = SplitLogits(logits, labels, np.arange(N), np.full(N, 7), difficulty)
        saved.save(tmp_path / "it.safetensors")
        loaded = SplitLogits.load(tmp_path / "it.safetensors")
        for name, array in vars(saved).items():
            np.testing.assert_array_equal(getattr(loaded, name), array)


def test_a_file_of_something_else_is_told(tmp_path: Path) -> None:
    """In one line, be it damaged or of other arrays."""
    path = tmp_path / "it.safetensors"
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"it\.safetensors: not readable as saved logits"):
        SplitLogits.load(path)
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(UserError, match=r"it\.safetensors: not readable as saved logits"):
        SplitLogits.load(path)


def test_two_validation_splits_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As MNLI has them: the stage writes both splits' tables, each from its own logits, and metrics of the first.

    Thresholds, guarantees and temperatures come from validation. A test split, whatever its name, only has curves and
    exits.
    """
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    splits = {"validation_matched": saved_logits(30, 3, 30), "validation_mismatched": saved_logits(20, 3, 20)}
    held_out = {"held_out": saved_logits(25, 3, 25)}
    (tmp_path / "logits").mkdir()
    about = {"task": "MNLI", "metric": "accuracy", "splits": [*splits, *held_out], "test_splits": [*held_out]}
    write_json(tmp_path / "logits" / "about.json", about)
    for split, saved in (splits | held_out).items():
        saved.save(tmp_path / "logits" / f"{split}.safetensors")

    main = runpy.run_path(str(ROOT / "stages" / "entropy_sweep.py"))["main"]
    main(Path("logits"), Path("sweep"), Path("sweep.json"), Path("choice.json"), Path("compute.json"))

    settings = read_params(Path("params.yaml")).entropy_sweep
    expected = [tables_of(split, saved, "accuracy", settings) for split, saved in splits.items()]
    scored = scored_curve("held_out", held_out["held_out"], "accuracy", settings)
    for name, rows in split_tables(scored, held_out["held_out"], settings).items():
        expected[-1][name] += rows
    written = {file.stem: read_json(file) for file in Path("sweep").iterdir()}
    assert written == {name: [row for tables in expected for row in tables[name]] for name in expected[0]}
    assert read_json(Path("sweep.json")) == sweep_metrics("MNLI", "validation_matched", expected[0])
    assert read_json(Path("choice.json")) == choice_metrics("MNLI", "validation_matched", expected[0])
    compute = read_json(Path("compute.json"))
    assert compute == compute_metrics("MNLI", "validation_matched", expected[0], settings.ramp_cost_layers)
    check_metrics(compute)


def test_a_full_depth_that_never_says_yes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can be lost against an F1 of 0, so what it recommends is worth nothing: the log says so."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "logits").mkdir()
    labels = (np.arange(100) % 20 == 0).astype(np.int64)
    logits = np.tile(np.float32([3.0, 0.0]), (100, LAYERS, 1))
    write_json(Path("logits/about.json"), {"task": "mine", "metric": "f1", "splits": ["validation"], "test_splits": []})
    SplitLogits(logits, labels, np.arange(100), np.full(100, 7)).save(Path("logits/validation.safetensors"))
    main = runpy.run_path(str(ROOT / "stages" / "entropy_sweep.py"))["main"]
    main(Path("logits"), Path("sweep"), Path("sweep.json"), Path("choice.json"), Path("compute.json"))
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "validation: full depth scores 0.0 %, one answer to all samples 9.5 %" in line


def test_what_is_saved_once_ramps_are_paid() -> None:
    """The choice and the metrics have the curve's own compute at the threshold chosen, and less than layers saved."""
    tables = tables_of("validation", saved_logits(1), "accuracy", SETTINGS)
    curve = {row["threshold"]: row for row in tables["sweep"] if row["criterion"] == "entropy"}
    for row in tables["choice"]:
        assert row["compute_saved_frac"] == curve[row["threshold"]]["compute_saved_frac"]
    assert any(row["compute_saved_frac"] < row["layers_saved_frac"] for row in tables["choice"])
    metrics = compute_metrics("toy", "validation", tables, SETTINGS.ramp_cost_layers)
    for name, column in (
        ("compute_saved_at", "compute_saved_frac"),
        ("kept_compute_saved_at", "kept_compute_saved_frac"),
    ):
        assert list(metrics[name].values()) == [round(row[column], 4) for row in tables["choice"]]


def test_certified_is_what_accuracy_loses() -> None:
    """The metrics are of the accuracy's drop, not of how often answers change, for which other thresholds hold."""
    tables = tables_of("validation", saved_logits(3, n=400), "accuracy", SETTINGS)
    of = {
        loss: [row for row in tables["certificates"] if row["loss"] == loss]
        for loss in ("accuracy_drop", "disagreement")
    }
    metrics = choice_metrics("toy", "validation", tables)
    assert list(metrics["certified_threshold_at"].values()) == [row["threshold"] for row in of["accuracy_drop"]]
    assert list(metrics["certified_layers_saved_at"].values()) == [
        round(row["layers_saved_frac"], 4) for row in of["accuracy_drop"]
    ]
    assert [row["threshold"] for row in of["accuracy_drop"]] != [row["threshold"] for row in of["disagreement"]]


def test_an_oracle_pays_for_the_ramps_before_its_exit() -> None:
    """The last head is no ramp: who gets there was put to L-1 of them."""
    saved = saved_logits(4)
    tables = tables_of("validation", saved, "accuracy", SETTINGS)
    answers = saved.logits.argmax(axis=2)
    right = np.column_stack([answers == saved.labels[:, None], np.ones(len(answers), bool)]).argmax(axis=1)
    exits = np.minimum(right + 1, 4)
    assert 4 in exits
    (row,) = [row for row in tables["sweep"] if row["criterion"] == "oracle"]
    assert row["compute_saved_frac"] == pytest.approx(1 - (exits + 0.1 * np.minimum(exits, 3)).mean() / 4)


def test_a_threshold_that_two_targets_choose_is_told_once() -> None:
    """Its leavers would stand twice in the figure."""
    saved = saved_logits(1)
    curve = entropy_curve(saved.logits, [0.0, 0.5])
    rows = leaver_rows("validation", curve, [0.5, 0.0, 0.5], saved)
    assert rows == leaver_rows("validation", curve, [0.0, 0.5], saved)
