"""Figures say what the rows say, stay inside their frame, and DVC's page works without a network."""

import functools
import json
import math
import re
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
from matplotlib.transforms import Bbox

from deebert import figures
from deebert.drawing import save, short_model_name
from deebert.errors import UserError

PLOTS = Path(__file__).parents[1] / ".dvc" / "plots"
THRESHOLDS = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)


class Rows(NamedTuple):
    header: dict
    layers: list[dict]
    sweep: list[dict]
    exits: list[dict]
    entropy: list[dict]
    depth: list[dict]


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
) -> Rows:
    """Rows of made-up heads whose score goes from `first` to `last` and whose entropy falls with the layer."""
    rng = np.random.default_rng(7)
    rows = Rows(
        {
            "task": "RTE",
            "model": model,
            "metric": metrics[0],
            "num_layers": num_layers,
            "splits": [*splits],
            "n": splits,
        },
        *([] for _ in range(5)),
    )
    layers = np.arange(1, num_layers + 1)
    for split, n in splits.items():
        luck = 0.9 * rng.random((n, 1)) + 0.1 * rng.random((n, num_layers))
        right = luck < np.linspace(first, last, num_layers)  # (n, L)
        entropy = (
            math.log(classes) * rng.random((n, num_layers)) ** np.linspace(0.7, 4, num_layers) * (0.4 + 0.6 * luck)
        )
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
        for threshold in sorted({0.0, *np.linspace(0, 1.02 * math.log(classes), 60).round(4).tolist(), *thresholds}):
            leaves = entropy < threshold
            leaves[:, -1] = True
            exit_layer = leaves.argmax(1) + 1
            score = float(right[np.arange(n), exit_layer - 1].mean())
            mean = float(exit_layer.mean())
            common = {"split": split, "threshold": threshold}
            rows.sweep.append(
                {
                    **common,
                    "criterion": "entropy",
                    "score": score,
                    "accuracy": score,
                    "layers_saved_frac": 1 - mean / num_layers,
                    "mean_exit_layer": mean,
                    "n": n,
                }
            )
            if threshold in thresholds:
                rows.exits.extend({**common, "layer": int(k), "exits": int((exit_layer == k).sum())} for k in layers)
            if graded:
                rows.depth.extend(
                    {**common, "difficulty": k, "mean_exit_layer": float(exit_layer[grade == k].mean()), "n": n}
                    for k in range(4)
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
}


@functools.cache
def drawn(case: str) -> dict[str, Figure]:
    rows = CASES[case]
    return {
        "tradeoff": figures.draw_tradeoff(rows.header, rows.sweep, sorted({row["threshold"] for row in rows.exits})),
        "layers": figures.draw_layers(rows.header, rows.layers),
        "exits": figures.draw_exits(rows.header, rows.exits),
        "entropy": figures.draw_entropy(rows.header, rows.entropy, rows.depth),
    }


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


def drawn_texts(figure: Figure) -> list[tuple[str, Bbox]]:
    width, height = figure.bbox.size
    recorder = TextRecorder(width, height, figure.dpi)
    figure.draw(recorder)
    return recorder.texts


def curve(figure: Figure, label: str) -> np.ndarray:
    (line,) = [line for ax in figure.axes for line in ax.get_lines() if line.get_label().startswith(label)]
    return line.get_xydata()


def test_equal_rows_give_equal_bytes_whatever_the_users_settings(tmp_path):
    """Drawing twice, the second time under odd matplotlib settings, writes the same four files."""
    rows = CASES["graded"]
    first = figures.draw_all(*rows, tmp_path / "first")
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "lines.linewidth": 9, "svg.hashsalt": "x"}):
        second = figures.draw_all(*rows, tmp_path / "second")
    assert [path.name for path in first] == ["tradeoff.svg", "layers.svg", "exits.svg", "entropy.svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@pytest.mark.parametrize("case", ["graded", "three classes", "two metrics"])
def test_files_are_small_whole_and_need_no_font(case, tmp_path):
    """Each file is SVG under 150 kB whose letters are outlines and which carries no date."""
    for path in figures.draw_all(*CASES[case], tmp_path):
        text = path.read_text()
        assert ElementTree.fromstring(text).tag.endswith("svg")
        assert "<text" not in text and "<dc:date>" not in text
        assert len(text) < 150_000, path.name


def test_texts_stay_inside_and_apart(drawing):
    """No text leaves the figure and no two texts touch."""
    for name, figure in drawing.items():
        texts = drawn_texts(figure)
        assert len(texts) > 10
        for i, (text, box) in enumerate(texts):
            assert figure.bbox.count_contains(box.corners()) == 4, (name, text)
            for other, other_box in texts[i + 1 :]:
                assert not box.padded(-1).overlaps(other_box.padded(-1)), (name, text, other)


def test_titles_name_task_and_model_and_axes_their_units(rows, drawing):
    """Every axis label names its unit, or counts layers."""
    for figure in drawing.values():
        title = figure.get_suptitle()
        assert title.endswith(f": RTE, {short_model_name(rows.header['model'])}")
        labels = [label for ax in figure.axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label]
        assert len(labels) >= 2
        for label in labels:
            assert label.endswith(("(%)", "(nats)")) or "layer" in label


def test_tradeoff_draws_every_split_in_the_order_of_thresholds(rows, drawing):
    """A curve holds a split's rows as percentages from threshold 0 up, and starts on its full-depth line."""
    figure = drawing["tradeoff"]
    heights = [line.get_ydata()[0] for line in figure.axes[0].get_lines() if list(line.get_xdata()) == [0, 1]]
    for split, height in zip(rows.header["splits"], heights, strict=True):
        expected = sorted((r for r in rows.sweep if r["split"] == split), key=lambda row: row["threshold"])
        points = curve(figure, split.replace("_", " "))
        np.testing.assert_allclose(points, [(100 * r["layers_saved_frac"], 100 * r["score"]) for r in expected])
        assert tuple(points[0]) == (0, height)


def test_tradeoff_reads_the_entropy_criterion_only():
    """Rows of another criterion change nothing."""
    rows = CASES["twelve layers"]
    others = [{**row, "criterion": "patience", "score": 0.1} for row in rows.sweep]
    figure = figures.draw_tradeoff(rows.header, [*rows.sweep, *others], THRESHOLDS)
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
            assert not box.count_contains(line.get_transform().transform(line.get_xydata()))


def test_thresholds_at_one_point_share_a_name():
    """Listed thresholds under which the same samples leave are named as a range."""
    rows = CASES["twelve layers"]
    start = next(row for row in rows.sweep if row["threshold"] == 0.0)
    sweep = [{**row, "score": start["score"], "layers_saved_frac": 0.0} for row in rows.sweep]
    (text,) = figures.draw_tradeoff(rows.header, sweep, THRESHOLDS).axes[0].texts
    assert text.get_text() == "0.01–0.6"


def test_layers_has_a_panel_per_metric_and_a_line_per_split(rows, drawing):
    """The main metric comes first; a line holds the scores of layers 1..L."""
    figure = drawing["layers"]
    metrics = list(dict.fromkeys(row["metric"] for row in rows.layers))
    assert [ax.get_ylabel() for ax in figure.axes] == [{"f1": "F1"}.get(m, m) + " (%)" for m in metrics]
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
    (ax,) = figures.draw_exits(rows.header, rows.exits).axes
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
    assert len(figures.draw_entropy(rows.header, right, []).axes[0].patches) == 12


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
    figure = figures.draw_layers(header, rows.layers)
    assert r"Score after each layer: $\frac{$, a_b^c" in [text for text, _ in drawn_texts(figure)]
    assert save(figure, tmp_path / "layers.svg").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    """Where a file stands in the way, the error is one line that names the path."""
    (tmp_path / "plots").write_text("")
    with pytest.raises(UserError, match=r"plots/layers\.svg: cannot be written"):
        save(Figure(), tmp_path / "plots" / "layers.svg")


TEMPLATES = {
    "tradeoff": ("sweep", "layers_saved_frac", "score"),
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
