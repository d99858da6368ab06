"""Figures say what the rows say, stay inside their frame, and DVC's page works without a network."""

import functools
import json
import math
import re
import tempfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from dvc_render import VegaRenderer
from dvc_render.html import render_html
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox

from deebert.analysis.baseline_table import BASELINES
from deebert.base.errors import UserError
from deebert.exits.grids import NAMED_SHARES, thresholds_at
from deebert.exits.table import CRITERIA
from deebert.figures import decision, evaluation
from deebert.figures.drawing import save, short_model_name

PLOTS = Path(__file__).parents[2] / ".dvc" / "plots"
THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
NAMED_OF_77 = thresholds_at(NAMED_SHARES, 77)


class Rows(NamedTuple):
    header: dict
    layers: list[dict]
    sweep: list[dict]
    exits: list[dict]
    entropy: list[dict]
    depth: list[dict]
    bands: list[dict]
    choice: list[dict]
    certificates: list[dict]
    leavers: list[dict]


def make_rows(
    num_layers: int,
    first: float,
    last: float,
    splits: dict[str, int],
    classes: int = 2,
    metrics: tuple[str, ...] = ("accuracy",),
    graded: bool = False,
    model: str = "bert-base",
    thresholds: tuple[float, ...] = THRESHOLDS,
    least_entropy: float = 0.0,
) -> Rows:
    """Rows of made-up heads whose score goes from `first` to `last` and whose entropy falls with the layer.

    `least_entropy` is a share of ln C; at 1 all heads guess.
    """
    rng = np.random.default_rng(7)
    rows = Rows(
        {
            "task": "RTE",
            "model": model,
            "metric": metrics[0],
            "num_layers": num_layers,
            "splits": [*splits],
            "test_splits": [split for split in splits if split == "test"],
            "n": splits,
        },
        *([] for _ in range(9)),
    )
    layers = np.arange(1, num_layers + 1)
    for split, n in splits.items():
        luck = 0.9 * rng.random((n, 1)) + 0.1 * rng.random((n, num_layers))
        right = luck < np.linspace(first, last, num_layers)  # (n, L)
        unsure = rng.random((n, num_layers)) ** np.linspace(0.7, 4, num_layers) * (0.4 + 0.6 * luck)
        entropy = math.log(classes) * (least_entropy + (1 - least_entropy) * unsure)
        grade = np.digitize(luck[:, 0], (0.3, 0.5, 0.7))
        groups = [right == answer for answer in (True, False)]
        names = ["correct", "wrong"]
        if graded:
            groups += [np.repeat(grade[:, None] == k, num_layers, 1) for k in range(4)]
            names += [f"difficulty {k}" for k in range(4)]
        for layer in layers:
            score = float(right[:, layer - 1].mean())
            rows.layers.extend({"split": split, "layer": int(layer), "metric": m, "score": score} for m in metrics)
            for name, group in zip(names, groups, strict=True):
                members = entropy[group[:, layer - 1], layer - 1]
                if len(members):
                    low, *middle, high = np.quantile(members, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
                    quantiles = dict(zip(("q05", "q25", "q50", "q75", "q95"), (low, *middle, high), strict=True))
                    rows.entropy.append(
                        {"split": split, "layer": int(layer), "group": name, **quantiles, "n": len(members)}
                    )
        grid = np.linspace(least_entropy, 1.02, 60) * math.log(classes)
        for threshold in sorted({0.0, *grid.round(4).tolist(), *thresholds}):
            leaves = entropy < threshold
            leaves[:, -1] = True
            exit_layer = leaves.argmax(1) + 1
            score = float(right[np.arange(n), exit_layer - 1].mean())
            mean = float(exit_layer.mean())
            common = {"split": split, "threshold": threshold}
            row = {
                "score": score,
                "accuracy": score,
                "layers_saved_frac": 1 - mean / num_layers,
                "mean_exit_layer": mean,
            }
            rows.sweep.append({"split": split, "criterion": "entropy", "threshold": threshold, **row, "n": n})
            if split != "test":
                rows.bands.append({**common, **row, "score_low": score - 0.02, "score_high": min(score + 0.02, 1)})
            if threshold in thresholds:
                rows.exits.extend({**common, "layer": int(k), "exits": int((exit_layer == k).sum())} for k in layers)
            if graded:
                rows.depth.extend(
                    {**common, "difficulty": k, "mean_exit_layer": float(exit_layer[grade == k].mean()), "n": n}
                    for k in range(4)
                )
        of_split = [row for row in rows.sweep if row["split"] == split]
        others = "max_probability", "margin", "patience", "confident_streak_2", "layer_thresholds", "consistency"
        for name in (*others, "random_exit"):
            rows.sweep.extend({**row, "criterion": name, "score": 0.98 * row["score"]} for row in of_split[::10])
        for layer in layers[::-1]:
            fixed = {"score": float(right[:, layer - 1].mean()), "layers_saved_frac": float(1 - layer / num_layers)}
            rows.sweep.append({**of_split[0], "criterion": "fixed_layer", "threshold": int(layer), **fixed})
        for name, layer in (("truncated", 2), ("truncated", 2), ("truncated", 1), ("distilled", num_layers // 2)):
            alone = {"score": of_split[0]["score"] - 0.01 / layer, "layers_saved_frac": 1 - layer / num_layers}
            rows.sweep.append({**of_split[0], "criterion": name, "threshold": layer, **alone})
        for name in ("oracle", "oracle_full_depth"):
            ideal = {"score": of_split[0]["score"], "layers_saved_frac": 0.8 * (1 - 1 / num_layers)}
            rows.sweep.append({**of_split[0], "criterion": name, "threshold": None, **ideal})
        if split == "test":
            continue
        for target, row in zip((0.0, 0.5, 1.0, 3.0), of_split[:40:10], strict=True):
            chosen = {"split": split, "target_drop_points": target, "threshold": row["threshold"]}
            drop = 100 * (of_split[0]["score"] - row["score"])
            figures_of = {"layers_saved": row["layers_saved_frac"], "score": row["score"], "drop": drop}
            ends = {f"{key}_{end}": value for key, value in figures_of.items() for end in ("low", "high")}
            chosen |= {"layers_saved_frac": row["layers_saved_frac"], "score": row["score"], "drop_points": drop}
            rows.choice.append(chosen | ends | {"n": n})
            for layer in layers[1:]:
                exits = n // num_layers if layer > 2 else n // 150
                leaver = {"split": split, "threshold": row["threshold"], "layer": int(layer), "exits": exits}
                kind = {"mean_tokens": 20.0 + layer} | ({"mean_difficulty": layer / num_layers} if graded else {})
                rows.leavers.append(leaver | {"error_rate": 0.2, "full_depth_error_rate": 0.1} | kind)
        for loss in ("disagreement", "accuracy_drop"):
            for epsilon, smallest in ((0.01, 0.0231), (0.02, None), (0.05, 0.0231)):
                rows.certificates.append(
                    {
                        **{
                            "split": split,
                            "loss": loss,
                            "epsilon": epsilon,
                            "delta": 0.1,
                            "certified": epsilon == 0.05,
                        },
                        **{
                            "threshold": 0.25,
                            "layers_saved_frac": 0.4,
                            "risk": 0.01,
                            "smallest_epsilon": smallest,
                            "n": n,
                        },
                    }
                )
    return rows


CASES = {
    "graded": make_rows(6, 0.75, 0.97, {"validation": 800, "test": 800}, graded=True, model="toy-bert"),
    "twelve layers": make_rows(12, 0.53, 0.68, {"validation": 277}),
    "three classes": make_rows(
        12, 0.36, 0.86, {"validation_matched": 9815, "validation_mismatched": 9832}, classes=3, model="roberta-base"
    ),
    "two metrics": make_rows(
        24, 0.6, 0.9, {"validation": 408, "test": 1725}, metrics=("f1", "accuracy"), model="FacebookAI/roberta-large"
    ),
    "no better than a coin": make_rows(6, 0.5, 0.5, {"validation": 277}, model="/home/me_too/ca$he$/mini_lm_50%_v2"),
    "all but perfect": make_rows(6, 0.995, 1.0, {"validation": 872}, thresholds=(0.0, *THRESHOLDS[:6], 0.69)),
    "one threshold": make_rows(2, 0.6, 0.9, {"validation": 50}, thresholds=(0.2,)),
    "77 classes": make_rows(
        6, 0.6, 0.93, {"validation": 1003, "test": 3080}, 77, ("macro_f1", "accuracy"), thresholds=NAMED_OF_77
    ),
    "77 classes, hardly learnt": make_rows(
        6, 0.62, 0.07, {"validation": 1003, "test": 3080}, 77, thresholds=NAMED_OF_77, least_entropy=0.97
    ),
    "200 classes that all heads guess": make_rows(12, 0.005, 0.005, {"validation": 900}, 200, least_entropy=1.0),
}


def draw(case: str) -> dict[str, Figure]:
    rows = CASES[case]
    return {
        "tradeoff": evaluation.draw_tradeoff(
            rows.header, rows.sweep, rows.bands, sorted({row["threshold"] for row in rows.exits})
        ),
        "criteria": decision.draw_criteria(rows.header, rows.sweep),
        "choice": decision.draw_choice(rows.header, rows.choice, rows.certificates, rows.sweep),
        "leavers": decision.draw_leavers(rows.header, rows.leavers, rows.choice),
        "layers": evaluation.draw_layers(rows.header, rows.layers),
        "exits": evaluation.draw_exits(rows.header, rows.exits),
        "entropy": evaluation.draw_entropy(rows.header, rows.entropy, rows.depth),
    }


drawn = functools.cache(draw)


def save_all(figures: dict[str, Figure], folder: Path) -> dict[str, bytes]:
    return {name: save(figure, folder / f"{name}.svg").read_bytes() for name, figure in figures.items()}


@functools.cache
def saved(case: str) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return save_all(drawn(case), Path(folder))


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def rows(case: str) -> Rows:
    return CASES[case]


@pytest.fixture
def drawing(case: str) -> dict[str, Figure]:
    return drawn(case)


class TextRecorder(RendererAgg):
    """Draws as usual and keeps every text with its box in pixels from the lower left."""

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        bottom = self.height - y
        if angle == 90:
            box = Bbox.from_bounds(x - height + descent, bottom, height, width)
        else:
            box = Bbox.from_bounds(x, bottom - descent, width, height)
        self.__dict__.setdefault("texts", []).append((s, box))


@functools.cache
def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    width, height = figure.bbox.size
    recorder = TextRecorder(width, height, figure.dpi)
    figure.draw(recorder)
    return recorder.texts


def check_texts(figure: Figure, name: str = "") -> None:
    """No text leaves the figure and no two texts touch."""
    texts = drawn_texts(figure)
    assert len(texts) > 10
    for i, (text, box) in enumerate(texts):
        assert figure.bbox.count_contains(box.corners()) == 4, (name, text)
        for other, other_box in texts[i + 1 :]:
            assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, text, other)


def curve(figure: Figure, label: str) -> np.ndarray:
    (line,) = [line for ax in figure.axes for line in ax.get_lines() if line.get_label().startswith(label)]
    return line.get_xydata()


@pytest.mark.slow
def test_equal_rows_give_equal_bytes_whatever_the_users_settings(tmp_path):
    """Drawing twice, the second time under odd matplotlib settings, writes the same files."""
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "svg.hashsalt": "x"}):
        assert save_all(draw("graded"), tmp_path) == saved("graded")


@pytest.mark.slow
@pytest.mark.parametrize("case", ["graded", "three classes", "two metrics"])
def test_files_are_small_whole_and_need_no_font(case):
    """Each file is SVG under 200 kB whose letters are outlines and which carries no date."""
    for name, content in saved(case).items():
        assert ElementTree.fromstring(content).tag.endswith("svg")
        assert b"<text" not in content and b"<dc:date>" not in content
        assert len(content) < 200_000, name


@pytest.mark.slow
def test_texts_stay_inside_and_apart(drawing):
    """No text leaves the figure and no two texts touch."""
    for name, figure in drawing.items():
        check_texts(figure, name)


def test_legends_cover_nothing(drawing):
    """No legend touches the inside of a panel, wherever boxes and curves lie there."""
    for name, figure in drawing.items():
        drawn_texts(figure)
        legends = [legend for place in (figure, *figure.axes) for legend in place.findobj(Legend)]
        assert legends or name == "choice"
        for legend in legends:
            assert not legend.get_window_extent().count_overlaps([ax.bbox for ax in figure.axes]), name


def test_titles_name_task_and_model_and_axes_their_units(rows, drawing):
    """Every axis label names its unit, or counts layers; tables have heads instead of axes."""
    for name, figure in drawing.items():
        title = figure.get_suptitle()
        assert title.endswith(f": RTE, {short_model_name(rows.header['model'])}")
        labels = [label for ax in figure.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        assert len(labels) >= 2 or name == "choice"
        for label in labels:
            assert label.endswith(("(%)", "(nats)")) or "layer" in label or label.startswith("mean ")


def test_tradeoff_draws_every_split_in_the_order_of_thresholds(rows, drawing):
    """A curve holds a split's rows as percentages from threshold 0 up, and starts on its full-depth line."""
    figure = drawing["tradeoff"]
    heights = [line.get_ydata()[0] for line in figure.axes[0].get_lines() if list(line.get_xdata()) == [0, 1]]
    for split, height in zip(rows.header["splits"], heights, strict=True):
        entropy = [r for r in rows.sweep if (r["split"], r["criterion"]) == (split, "entropy")]
        expected = sorted(entropy, key=lambda row: row["threshold"])
        points = curve(figure, split.replace("_", " "))
        np.testing.assert_allclose(points, [(100 * r["layers_saved_frac"], 100 * r["score"]) for r in expected])
        assert tuple(points[0]) == (0, height)


def test_tradeoff_has_no_other_criteria():
    """Rows of another criterion change nothing."""
    rows = CASES["twelve layers"]
    others = [{**row, "criterion": "patience", "score": 0.1} for row in rows.sweep]
    figure = evaluation.draw_tradeoff(rows.header, [*rows.sweep, *others], rows.bands, THRESHOLDS)
    assert figure.axes[0].get_ylim() == drawn("twelve layers")["tradeoff"].axes[0].get_ylim()


def test_tradeoff_names_each_threshold_beside_its_mark(rows, drawing):
    """The names are the listed thresholds, alone or as ends of a range, and touch neither curve nor mark."""
    ax = drawing["tradeoff"].axes[0]
    listed = [f"{threshold:g}" for threshold in sorted({row["threshold"] for row in rows.exits})]
    named = []
    for text in ax.texts:
        first, *last = text.get_text().split("–")
        named += listed[listed.index(first) : listed.index(last[0]) + 1] if last else [first]
    assert named == listed
    marks = [len(line.get_xdata()) for line in ax.get_lines() if line.get_marker() == "o" and len(line.get_xdata())]
    assert marks == [len(listed)] * sum(split != "test" for split in rows.header["splits"])
    for text in ax.texts:
        box = matplotlib.text.Text.get_window_extent(text)
        for line in ax.get_lines():
            room = 0 if line.get_marker() == "None" else line.get_markersize() / 2 * line.get_figure().dpi / 72
            assert not box.padded(room).count_contains(line.get_transform().transform(line.get_xydata()))


def test_thresholds_at_one_point_share_a_name():
    """Listed thresholds under which the same samples leave are named as a range."""
    rows = CASES["twelve layers"]
    start = next(row for row in rows.sweep if row["threshold"] == 0.0)
    sweep = [{**row, "score": start["score"], "layers_saved_frac": 0.0} for row in rows.sweep]
    (text,) = evaluation.draw_tradeoff(rows.header, sweep, rows.bands, THRESHOLDS).axes[0].texts
    assert text.get_text() == "0.01–0.6"


def test_tradeoff_has_a_band_and_the_baselines_of_the_first_split(rows, drawing):
    """Each validation split's curve lies in its band; baselines stand where their rows say, once."""
    ax = drawing["tradeoff"].axes[0]
    splits = [split for split in rows.header["splits"] if split != "test"]
    bands = [band.get_paths()[0].vertices for band in ax.collections]
    assert len(bands) == len(splits)
    for vertices, split in zip(bands, splits, strict=True):
        mine = [row for row in rows.bands if row["split"] == split]
        assert vertices[:, 1].max() == pytest.approx(100 * max(row["score_high"] for row in mine))
        assert vertices[:, 1].min() == pytest.approx(100 * min(row["score_low"] for row in mine))
    fixed = [r for r in rows.sweep if (r["split"], r["criterion"]) == (splits[0], "fixed_layer")]
    expected = [(100 * row["layers_saved_frac"], 100 * row["score"]) for row in fixed]
    np.testing.assert_allclose(curve(drawing["tradeoff"], "everybody at one layer"), expected)


def test_criteria_has_a_line_per_criterion_in_both_panels(rows, drawing):
    """Both panels hold each criterion that has rows, with all its rows of the first split, and no other."""
    first = rows.header["splits"][0]
    mine = [row for row in rows.sweep if row["split"] == first]
    for ax in drawing["criteria"].axes:
        lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
        names = [name for name in CRITERIA | BASELINES if name != "confident_streak_3"]
        for line, name in zip(lines, names, strict=True):
            expected = [(100 * r["layers_saved_frac"], 100 * r["score"]) for r in mine if r["criterion"] == name]
            np.testing.assert_allclose(line.get_xydata(), expected)


def test_smaller_models_stand_beside_the_curves_where_there_are_any(rows, drawing):
    """Both trade-off figures have a mark per smaller model and seed; without their rows they do not speak of them."""
    smaller = [row for row in rows.sweep if row["criterion"] in ("truncated", "distilled")]
    rest = [row for row in rows.sweep if row not in smaller]
    without = {
        "tradeoff": evaluation.draw_tradeoff(rows.header, rest, rows.bands, [0.0]),
        "criteria": decision.draw_criteria(rows.header, rest),
    }
    for name, figure in without.items():
        ax = drawing[name].axes[0]
        for criterion, label in (("truncated", "cut to its first layers"), ("distilled", "DistilBERT")):
            mine = [r for r in smaller if (r["split"], r["criterion"]) == (rows.header["splits"][0], criterion)]
            expected = [(100 * row["layers_saved_frac"], 100 * row["score"]) for row in mine]
            (line,) = [line for line in ax.get_lines() if line.get_label().startswith(label)]
            np.testing.assert_allclose(line.get_xydata(), expected)
            assert not any(line.get_label().startswith(label) for line in figure.axes[0].get_lines())


def test_a_smaller_model_that_is_better_is_in_the_close_view(rows, drawing):
    """Whatever is nearly as good as full depth and saves more than entropy does is seen in the right panel."""
    first = rows.header["splits"][0]
    close = drawing["criteria"].axes[1]
    for row in (row for row in rows.sweep if (row["split"], row["criterion"]) == (first, "truncated")):
        score, saved = 100 * row["score"], 100 * row["layers_saved_frac"]
        (low, high), (left, right) = close.get_ylim(), close.get_xlim()
        assert score < low or (score <= high and left <= saved <= right)


def test_choice_says_what_is_recommended_and_what_cannot_be_promised(rows, drawing):
    """A line per target with its threshold, whose brackets can be read below zero too; per risk what is certified."""
    upper, lower = drawing["choice"].axes
    said = [text.get_text() for text in upper.texts]
    first = rows.header["splits"][0]
    for row in (row for row in rows.choice if row["split"] == first):
        assert f"{row['target_drop_points']:g}" in said and f"{row['threshold']:g}" in said
        assert f"{row['drop_points']:.2f} ({row['drop_low']:.2f} to {row['drop_high']:.2f})" in said
    assert ("on the test\nsplit loses" in said) == ("test" in rows.header["splits"])
    promised = [text.get_text() for text in lower.texts]
    for promise in ("not certifiable; 2.31 % would be", "no threshold saves a layer", "0.25 nats saves 40.0 %"):
        assert promised.count(promise) == 2
    assert "90 % confidence" in lower.get_title(loc="left")


def test_leavers_has_a_column_per_recommended_threshold(rows, drawing):
    """Bars are the shares of samples leaving, and of all samples the wrong ones, there and at full depth."""
    first = rows.header["splits"][0]
    thresholds = list(dict.fromkeys(row["threshold"] for row in rows.choice if row["split"] == first))
    panels = np.array(drawing["leavers"].axes).reshape(3, len(thresholds))
    assert [ax.get_title().split("\n")[1] for ax in panels[0]] == [f"{threshold:g} nats" for threshold in thresholds]
    for column, threshold in zip(panels.T, thresholds, strict=True):
        mine = [row for row in rows.leavers if (row["split"], row["threshold"]) == (first, threshold)]
        shares = [100 * row["exits"] / rows.header["n"][first] for row in mine]
        np.testing.assert_allclose([bar.get_height() for bar in column[0].patches], shares)
        wrong = [0.2 * share for share in shares] + [0.1 * share for share in shares]
        np.testing.assert_allclose([bar.get_height() for bar in column[1].patches], wrong)
        pale = [bar.get_x() + 0.4 for bar in column[2].patches if bar.get_alpha()]
        np.testing.assert_allclose(pale, [row["layer"] for row, share in zip(mine, shares, strict=True) if share < 1])


def test_layers_has_a_panel_per_metric_and_a_line_per_split(rows, drawing):
    """The main metric comes first; a line holds the scores of layers 1..L."""
    figure = drawing["layers"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows.layers))
    assert [ax.get_ylabel() for ax in figure.axes] == [
        {"f1": "F1", "macro_f1": "macro-F1"}.get(m, m) + " (%)" for m in metrics
    ]
    for ax, metric in zip(figure.axes, metrics, strict=True):
        lines = [line for line in ax.get_lines() if line.get_marker() == "o"]
        for line, split in zip(lines, rows.header["splits"], strict=True):
            scores = [100 * r["score"] for r in rows.layers if r["split"] == split and r["metric"] == metric]
            assert list(line.get_xdata()) == list(range(1, rows.header["num_layers"] + 1))
            np.testing.assert_allclose(line.get_ydata(), scores)
        assert ax.get_xticks()[-1] == rows.header["num_layers"]


def test_score_axes_never_blow_up_noise(drawing):
    """A score axis spans at least 4 points and shows none that cannot be."""
    for name in ("tradeoff", "layers"):
        low, high = drawing[name].axes[0].get_ylim()
        assert high - low >= 4
        assert high <= 100 + (high - low) / 10


def test_exits_has_a_panel_per_threshold_whose_bars_are_all_samples(rows, drawing):
    """A panel's bars are a split's shares per layer, 100 % in all; threshold 0 has none beside others."""
    figure = drawing["exits"]
    thresholds = sorted({row["threshold"] for row in rows.exits} - {0.0})
    assert [ax.get_title().split()[1] for ax in figure.axes] == [f"{threshold:g}" for threshold in thresholds]
    for ax, threshold in zip(figure.axes, thresholds, strict=True):
        for patch, split in zip(ax.patches, rows.header["splits"], strict=True):
            exits = [r["exits"] for r in rows.exits if r["split"] == split and r["threshold"] == threshold]
            heights = patch.get_data().values[:: 1 if split == "test" else 2]
            np.testing.assert_allclose(heights, 100 * np.array(exits) / rows.header["n"][split])


def test_exits_at_threshold_zero_alone_is_drawn():
    """A list of nothing but 0 still makes a figure: all samples at the last layer."""
    rows = make_rows(6, 0.6, 0.9, {"validation": 50}, thresholds=(0.0,))
    (ax,) = evaluation.draw_exits(rows.header, rows.exits).axes
    assert ax.patches[0].get_data().values[::2].tolist() == [0, 0, 0, 0, 0, 100]
    assert "0 % of layers saved" in ax.get_title()


def test_entropy_has_two_boxes_per_layer_and_graded_panels_where_there_are_grades(rows, drawing):
    """Each validation split has its panel of boxes; grades add one of medians and one of exit layers."""
    figure = drawing["entropy"]
    splits = [split for split in rows.header["splits"] if split != "test"]
    assert len(figure.axes) == len(splits) + (2 if rows.depth else 0)
    for ax, split in zip(figure.axes, splits, strict=False):
        rights = [r for r in rows.entropy if r["split"] == split and r["group"] in ("correct", "wrong")]
        assert len(ax.patches) == len(rights)
        middles = sorted(line.get_ydata()[0] for line in ax.get_lines() if line.get_linewidth() == 2)
        np.testing.assert_allclose(middles, sorted(row["q50"] for row in rights))
    if rows.depth:
        by_threshold = figure.axes[-1].get_lines()
        assert [line.get_label() for line in by_threshold] == [f"difficulty {k}" for k in range(4)]
        assert all(line.get_ydata()[0] == rows.header["num_layers"] for line in by_threshold)


def test_a_head_that_is_never_wrong_is_drawn():
    """Without wrong answers there are only boxes of right ones."""
    rows = CASES["twelve layers"]
    right = [row for row in rows.entropy if row["group"] == "correct"]
    assert len(evaluation.draw_entropy(rows.header, right, []).axes[0].patches) == 12


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("bert-base", "bert-base"),
        ("google-bert/bert-base-uncased", "google-bert/bert-base-uncased"),
        ("/models/minilm/", "/models/minilm"),
        ("/home/some_one/experiments/2026/$cache/mini_lm_50%", "…/2026/$cache/mini_lm_50%"),
        ("x" * 20 + "y" * 60, "x" * 17 + "…" + "y" * 17),
        ("two\nlines", "two lines"),
    ],
)
def test_model_names_are_shortened_from_the_left(model, shown):
    """A name that is too long keeps its last folders; a single long word loses its middle."""
    assert short_model_name(model) == shown


def test_dollars_and_underscores_are_letters(tmp_path):
    """Nothing in a task's or model's name is taken for mathematics."""
    rows = CASES["one threshold"]
    header = {**rows.header, "task": r"$\frac{$", "model": "a_b^c"}
    figure = evaluation.draw_layers(header, rows.layers)
    assert r"Score after each layer: $\frac{$, a_b^c" in [text for text, _ in drawn_texts(figure)]
    assert save(figure, tmp_path / "layers.svg").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """Where a file stands in the way, the error is one line that names the path."""
    (tmp_path / "plots").write_text("")
    with pytest.raises(UserError, match=r"plots/layers\.svg: cannot be written"):
        save(Figure(), tmp_path / "plots" / "layers.svg")


TEMPLATES = {
    "tradeoff": ("sweep", "layers_saved_frac", "score"),
    "criteria": ("sweep", "layers_saved_frac", "score"),
    "layers": ("layers", "layer", "score"),
    "exits": ("exits", "layer", "exits"),
}


def fields(spec: object) -> set[str]:
    """All fields a Vega-Lite specification reads, without those it computes itself."""
    if isinstance(spec, list):
        return set().union(*map(fields, spec))
    if not isinstance(spec, dict):
        return set()
    own = {spec["field"]} if isinstance(spec.get("field"), str) else set()
    return own.union(*map(fields, spec.values()))


@pytest.mark.parametrize("name", TEMPLATES)
def test_dvc_fills_the_templates_with_our_rows(name):
    """DVC leaves no anchor open, hands over all rows, and the template reads only what rows hold or it computes."""
    kind, x, y = TEMPLATES[name]
    template = json.loads((PLOTS / f"{name}.json").read_text())
    assert template["data"] == {"values": "<DVC_METRIC_DATA>"}
    rows = [{**row, "rev": rev} for rev in ("workspace", "HEAD") for row in getattr(CASES["graded"], kind)]
    renderer = VegaRenderer(
        rows, name, template=name, template_dir=str(PLOTS), x=x, y=y, title="T", x_label="X", y_label="Y"
    )
    text = renderer.partial_html()
    assert "<DVC_METRIC" not in text
    spec = json.loads(text)
    assert spec["data"]["values"] == rows
    computed = set(re.findall(r'"as": "(\w+)"', text.split('"transform"', 1)[-1]))
    assert fields({**spec, "data": None}) <= set(rows[0]) | computed


def test_a_plot_without_rows_says_so():
    """Of an empty file, such as the curves of a training that was not, DVC makes {}, for which the page has a line."""
    renderer = VegaRenderer([], "finetune", template="training", template_dir=str(PLOTS), x="epoch", y="value")
    assert renderer.partial_html() == "{}"
    assert "no rows, nothing to draw" in (PLOTS / "offline.html").read_text()


def test_page_is_complete_without_a_network(tmp_path):
    """The filled page holds every plot after the scripts it needs and names no outside source."""
    template = PLOTS / "offline.html"
    assert template.read_text().count("{plot_divs}") == 1
    rows = [{**row, "rev": "workspace"} for row in CASES["graded"].layers]
    plot = VegaRenderer(rows, "layers", template="layers", template_dir=str(PLOTS), x="layer", y="score")
    page = Path(render_html([plot], tmp_path / "index.html", html_template=str(template))).read_text()
    assert 0 < page.find("window.vegaEmbed=") < page.find("vegaEmbed('#layers'")
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    outside = [word for word in ("src=", "href=", "@import", "url(", "<script ") if word in markup]
    assert outside == ["<script "]  # DVC's own, around each specification
    assert page.count("cdn.") == 0
    assert page.count("BSD-3-Clause") > 0
