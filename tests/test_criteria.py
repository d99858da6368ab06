"""Exit criteria: live against offline against plain loops, their grids, and thresholds fitted ramp by ramp."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from deebert.calibration import stratified_halves
from deebert.criteria import (
    DROPS_POINTS,
    ConfidentStreak,
    Criterion,
    Entropy,
    LayerThresholds,
    MaxProbability,
    Patience,
    ScoreSums,
    criterion_rows,
    curve_row,
    fit_layer_thresholds,
    layer_threshold_rows,
    probability_grid,
    top_probability,
)
from deebert.errors import UserError
from deebert.exits import answers, entropy, exit_layers
from deebert.scores import METRICS
from deebert.sweep import best_within, sweep_rows, threshold_grid

KINDS = [Entropy, MaxProbability, Patience, ConfidentStreak]
MAX_LAYERS = 6
few = settings(max_examples=60, deadline=None, derandomize=True)

nats = st.just(0.0) | st.floats(0, 1.2)
probabilities = st.just(1.0) | st.floats(0, 1)
criteria = st.one_of(
    st.builds(Entropy, nats),
    st.builds(MaxProbability, probabilities),
    st.builds(Patience, st.integers(1, MAX_LAYERS)),
    st.builds(ConfidentStreak, st.integers(1, 4), probabilities),
    st.builds(LayerThresholds, st.lists(nats, min_size=MAX_LAYERS, max_size=MAX_LAYERS).map(tuple), st.just(1.0)),
)


@st.composite
def logit_tables(draw: st.DrawFn) -> Tensor:
    """Logits (N, L, C) of few different values, so that heads agree and tie often; some are NaN."""
    n, layers, classes = draw(st.integers(1, 7)), draw(st.integers(1, MAX_LAYERS)), draw(st.integers(2, 4))
    values = st.sampled_from([-3.0, -1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 9.0, 1e4, math.nan])
    flat = draw(st.lists(values, min_size=n * layers * classes, max_size=n * layers * classes))
    return torch.tensor(flat).reshape(n, layers, classes)


def heads(seed: int, classes: int = 2, n: int = 40, layers: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, layers, classes) of heads that know the label the better the deeper they are, and the labels (n,)."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, classes, n)
    logits = rng.standard_normal((n, layers, classes))
    logits[np.arange(n), :, wanted] += np.linspace(0, 2.5, layers)
    return logits.astype(np.float32), wanted


def live_exits(criterion: Criterion, logits: Tensor) -> list[int]:
    """Exit layers by going layer by layer, past heads that do not matter, with only those who have not left."""
    n, num_layers, _ = logits.shape
    exits, alive, state = torch.full((n,), num_layers), torch.arange(n), criterion.start(n)
    for layer in range(1, num_layers):
        if not criterion.reads(layer):
            continue
        leaves, state = criterion.step(logits[alive, layer - 1], layer, state)
        assert leaves.dtype == torch.bool and len(leaves) == len(state) == len(alive)
        exits[alive[leaves]] = layer
        alive, state = alive[~leaves], state[~leaves]
    return exits.tolist()


@few
@given(logit_tables(), criteria)
def test_live_is_offline(logits: Tensor, criterion: Criterion) -> None:
    """Layer by layer over a shrinking batch, alone, and all layers at once: the same exit layers, of any batch."""
    offline = criterion.exit_layers(logits)
    assert offline.dtype == torch.int64
    assert live_exits(criterion, logits) == offline.tolist()
    assert [live_exits(criterion, sample[None])[0] for sample in logits] == offline.tolist()
    assert criterion.exit_layers_of(criterion.read(logits)).tolist() == offline.tolist()


def test_full_depth_reads_no_ramp() -> None:
    """Settings by which nobody can leave need no head, all others do, each ramp by its own threshold."""
    assert not any(c.reads(1) for c in (Entropy(0.0), MaxProbability(1.0), ConfidentStreak(2, 1.0)))
    assert all(c.reads(1) for c in (Entropy(1e-4), MaxProbability(0.999), ConfidentStreak(2, 0.999), Patience(1)))
    assert [LayerThresholds((0.0, 0.2, 0.0), 1.0).reads(layer) for layer in (1, 2, 3)] == [False, True, False]


def plain_exit(criterion: Criterion, sample: np.ndarray) -> int:
    """Exit layer of one sample's (L, C) logits by each criterion's definition; skips what rounding would decide."""
    num_layers = len(sample)
    top, nat, answer = [], [], []
    for head in sample.astype(np.float64):
        p = np.exp(head - head.max())
        p /= p.sum()
        top.append(p.max())
        nat.append(-sum(x * math.log(x) for x in p if x > 0))
        answer.append(int(p.argmax()))
    for layer in range(1, num_layers):
        if isinstance(criterion, Entropy | LayerThresholds):
            bar = criterion.threshold_nats if isinstance(criterion, Entropy) else criterion.thresholds_nats[layer - 1]
            assume(abs(nat[layer - 1] - bar) > 1e-5)
            leaves = nat[layer - 1] < bar
        elif isinstance(criterion, Patience):
            window = answer[max(0, layer - criterion.patience - 1) : layer]  # patience comparisons need one head more
            leaves = len(window) == criterion.patience + 1 and len(set(window)) == 1
        else:
            length = criterion.length if isinstance(criterion, ConfidentStreak) else 1
            assume(abs(top[layer - 1] - criterion.threshold) > 1e-5)
            leaves = layer >= length and all(p > criterion.threshold for p in top[layer - length : layer])
        if leaves:
            return layer
    return num_layers


@few
@given(st.integers(0, 10_000), st.integers(2, 4), criteria)
def test_each_criterion_is_its_definition(seed: int, classes: int, criterion: Criterion) -> None:
    """Every sample leaves where a plain float64 loop over its heads says."""
    logits, _ = heads(seed, classes, n=10, layers=MAX_LAYERS)
    assert criterion.exit_layers(torch.from_numpy(logits)).tolist() == [plain_exit(criterion, s) for s in logits]


@few
@given(logit_tables(), nats)
def test_entropy_is_the_rule_of_exits(logits: Tensor, threshold: float) -> None:
    """The entropy criterion, and equal thresholds for all ramps, are `exits.exit_layers`."""
    expected = exit_layers(entropy(logits), threshold).tolist()
    assert Entropy(threshold).exit_layers(logits).tolist() == expected
    equal = LayerThresholds((threshold,) * (logits.shape[1] - 1), 0.0)
    assert equal.exit_layers(logits).tolist() == expected


@few
@given(logit_tables(), probabilities)
def test_a_streak_of_one_is_max_probability(logits: Tensor, threshold: float) -> None:
    """One confident ramp in a row is one confident ramp."""
    assert torch.equal(ConfidentStreak(1, threshold).exit_layers(logits), MaxProbability(threshold).exit_layers(logits))


@pytest.mark.parametrize(
    ("heads_say", "patience", "layer"),
    [
        ([0, 0, 1, 1, 1, 1], 1, 2),  # one agreement: at layer 2 with layer 1
        ([0, 1, 1, 1, 1, 1], 1, 3),
        ([0, 0, 1, 1, 1, 1], 2, 5),  # the count falls to 0 at layer 3, then 1, 2
        ([1, 1, 1, 1, 1, 1], 3, 4),
        ([1, 1, 1, 1, 1, 1], 4, 5),
        ([1, 1, 1, 1, 1, 1], 5, 6),  # layer 6 is L: nobody left early
        ([0, 1, 0, 1, 0, 1], 1, 6),
    ],
)
def test_patience_counts_as_the_paper_does(heads_say: list[int], patience: int, layer: int) -> None:
    """The count starts at 0 at layer 1, so the first possible exit is layer patience + 1."""
    logits = torch.nn.functional.one_hot(torch.tensor([heads_say]), 3).float()
    assert Patience(patience).exit_layers(logits).tolist() == [layer]


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_grid_goes_from_nobody_to_everybody(kind: type[Criterion], classes: int) -> None:
    """By the first setting all stay to L, by the last all leave as early as can be; between, the saving never falls."""
    logits = torch.zeros(3, 5, classes)  # as unsure as can be, always of one mind
    logits[1, :, 1] = 50.0  # as sure as can be
    logits[2] = torch.from_numpy(heads(1, classes, n=1, layers=5)[0][0])
    if kind is Patience:
        logits[2] = logits[1]
    by_name: dict[str, list[Criterion]] = {}
    for criterion in kind.grid(5, classes):
        by_name.setdefault(criterion.name, []).append(criterion)
    earliest = {"entropy": 1, "max_probability": 1, "patience": 2, "confident_streak_2": 2, "confident_streak_3": 3}
    for name, grid in by_name.items():
        assert grid[0].exit_layers(logits).tolist() == [5, 5, 5]
        assert grid[-1].exit_layers(logits).tolist() == [earliest[name]] * 3
        assert all((b.exit_layers(logits) <= a.exit_layers(logits)).all() for a, b in pairwise(grid))
        assert len({criterion.setting for criterion in grid}) == len(grid) == (4 if kind is Patience else len(grid))


def test_two_layers_leave_no_room_for_streaks() -> None:
    """A grid holds only lengths that L-1 ramps can reach."""
    assert ConfidentStreak.grid(2, 3) == []
    assert {criterion.length for criterion in ConfidentStreak.grid(3, 3)} == {2}


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("points", [0, 1, 2, 50, 200])
def test_the_grid_of_probabilities(classes: int, points: int) -> None:
    """At most `points` and 1, falling, of 6 digits, to just below 1/C."""
    grid = probability_grid(classes, points)
    assert grid[0] == 1.0 and grid == sorted(set(grid), reverse=True) and len(grid) <= points + 1
    assert len(grid) >= 0.8 * points and all(value == round(value, 6) for value in grid)
    if points > 1:
        assert 1 / classes - 2e-6 < grid[-1] < 1 / classes and 1 - 1e-4 < grid[1] < 1


@pytest.mark.parametrize(
    "criterion",
    [Entropy(9.0), MaxProbability(0.0), Patience(1), ConfidentStreak(1, 0.0), LayerThresholds((9.0, 9.0, 9.0), 0.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_never_leaves(criterion: Criterion, dtype: torch.dtype) -> None:
    """Whatever the setting, a sample whose heads say NaN stays to L, also where only one class does."""
    logits = torch.zeros(2, 4, 2, dtype=dtype)
    logits[0] = math.nan
    logits[1, :, 0] = math.nan
    assert criterion.exit_layers(logits).tolist() == [4, 4]


def test_equal_is_not_above() -> None:
    """A top probability equal to the threshold stays."""
    logits = torch.zeros(1, 3, 2)
    assert top_probability(logits).tolist() == [[0.5, 0.5, 0.5]]
    assert MaxProbability(0.5).exit_layers(logits).tolist() == [3]
    assert ConfidentStreak(2, 0.5).exit_layers(logits).tolist() == [3]


def test_probabilities_of_large_half_precision_logits() -> None:
    """Top probabilities come in float32 and do not overflow."""
    found = top_probability(torch.tensor([[3e4, -3e4], [3e4, 3e4]], dtype=torch.bfloat16))
    assert found.dtype == torch.float32 and found.tolist() == [1.0, 0.5]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Entropy(-0.1),
        lambda: Entropy(math.nan),
        lambda: MaxProbability(1.1),
        lambda: MaxProbability(math.nan),
        lambda: Patience(0),
        lambda: ConfidentStreak(0, 0.5),
        lambda: ConfidentStreak(2, -0.5),
        lambda: LayerThresholds((0.1, -0.2), 1.0),
    ],
)
def test_a_setting_out_of_range_is_an_error(make: Callable[[], Criterion]) -> None:
    """A setting that no criterion can have is refused in one line that says what is allowed."""
    with pytest.raises(UserError, match="allowed") as error:
        make()
    assert "\n" not in str(error.value)


@few
@given(st.integers(0, 10_000), st.integers(2, 3), st.sampled_from(["accuracy", "f1"]), st.booleans())
def test_sums_give_the_metric(seed: int, classes: int, metric: str, no_positives: bool) -> None:
    """Score by sums over samples, each at a layer of its own, is the metric of the answers there."""
    logits, labels = heads(seed, classes, n=12)
    if no_positives:
        labels, logits[:, :, 1] = np.zeros_like(labels), -9.0
    layers = np.random.default_rng(seed).integers(1, 5, 12)
    sums, at = ScoreSums.of(logits, labels, metric), (np.arange(12), layers - 1)
    predictions = answers(torch.from_numpy(logits), torch.from_numpy(layers)).numpy()
    assert sums.score(sums.hits[at].sum(), sums.claims[at].sum()) == METRICS[metric](labels, predictions)


@pytest.mark.parametrize("metric", ["accuracy", "f1"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(2, 6))
def test_fitted_thresholds_keep_the_floor_and_beat_one_for_all(metric: str, seed: int, n: int, layers: int) -> None:
    """On the fitted samples: no score below its floor, no saving below the best single threshold's, more for more."""
    logits, labels = heads(seed, n=n, layers=layers)
    grid = [0.0, *threshold_grid(2, 30)]
    single = sweep_rows("validation", logits, labels, grid, metric)
    fitted = fit_layer_thresholds(logits, labels, metric, grid)
    assert fitted == fit_layer_thresholds(logits, labels, metric, grid)
    rows = [
        curve_row("validation", (f.name, f.setting), logits, labels, f.exit_layers(torch.from_numpy(logits)), metric)
        for f in fitted
    ]
    assert [row["threshold"] for row in rows] == list(DROPS_POINTS)
    for row, thresholds in zip(rows, fitted, strict=True):
        assert row["score"] >= single[0]["score"] - row["threshold"] / 100 - 1e-9
        assert row["layers_saved_frac"] >= best_within(single, row["threshold"])["layers_saved_frac"] - 1e-12
        assert len(thresholds.thresholds_nats) == layers - 1 and set(thresholds.thresholds_nats) <= set(grid)
    savings = [row["layers_saved_frac"] for row in rows]
    assert all(a <= b + 1e-12 for a, b in pairwise(savings))
    assert savings[-1] == pytest.approx(1 - 1 / layers)  # a drop of 100 points lets everybody go at layer 1


def test_fitting_finds_the_ramp_that_deceives() -> None:
    """Where ramp 1 is surest and wrong and ramp 2 sure and right, only thresholds of their own can save anything."""
    labels = np.zeros(20, dtype=np.int64)
    logits = np.zeros((20, 4, 2), dtype=np.float32)
    logits[:, 0, 1] = 5.0
    logits[:, 1:, 0] = 3.0
    (fitted,) = fit_layer_thresholds(logits, labels, "accuracy", threshold_grid(2, 50), [0.0])
    assert best_within(sweep_rows("v", logits, labels, [0.0, *threshold_grid(2, 50)], "accuracy"), 0.0) == {
        **curve_row("v", ("entropy", 0.0), logits, labels, torch.full((20,), 4), "accuracy")
    }
    assert fitted.exit_layers(torch.from_numpy(logits)).tolist() == [2] * 20


def test_fitting_compares_as_the_rule_does() -> None:
    """A threshold that equals the entropies lets nobody go, so fitting has no use for it."""
    logits, labels = np.zeros((5, 3, 2), dtype=np.float32), np.zeros(5, dtype=np.int64)
    equal = float(entropy(torch.zeros(2)))
    (fitted,) = fit_layer_thresholds(logits, labels, "accuracy", [equal], [0.0])
    assert fitted.thresholds_nats == (0.0, 0.0)


def test_fitting_with_nan() -> None:
    """A sample of NaN stays to L by any fitted thresholds, and spoils no other."""
    logits, labels = heads(3, n=30)
    logits[4] = math.nan
    fitted = fit_layer_thresholds(logits, labels, "accuracy", threshold_grid(2, 30))
    layers = fitted[-1].exit_layers(torch.from_numpy(logits))
    assert layers[4] == 4 and (np.delete(layers.numpy(), 4) == 1).all()


@few
@given(st.integers(0, 10_000), st.floats(0, 1.5), st.sampled_from(["accuracy", "f1"]))
def test_a_curve_row_is_a_sweep_row(seed: int, threshold: float, metric: str) -> None:
    """For entropy, a row made here has the columns and figures of `sweep.sweep_rows`, in its order."""
    logits, labels = heads(seed)
    layers = Entropy(threshold).exit_layers(torch.from_numpy(logits))
    row = curve_row("validation", ("entropy", threshold), logits, labels, layers, metric)
    (expected,) = sweep_rows("validation", logits, labels, [threshold], metric)
    assert list(row.items()) == list(expected.items())


@pytest.mark.parametrize(("classes", "metric"), [(2, "f1"), (3, "accuracy")])
def test_rows_of_all_criteria(classes: int, metric: str) -> None:
    """Every criterion but entropy has its own curve over its own grid; each row is that setting's exits, scored."""
    logits, labels = heads(5, classes)
    rows = criterion_rows("validation", logits, labels, metric, points=20)
    kinds = {
        "max_probability": lambda setting: MaxProbability(setting),
        "patience": lambda setting: Patience(int(setting)),
        "confident_streak_2": lambda setting: ConfidentStreak(2, setting),
        "confident_streak_3": lambda setting: ConfidentStreak(3, setting),
    }
    assert list(dict.fromkeys(row["criterion"] for row in rows)) == [*kinds, "layer_thresholds"]
    for row in rows:
        if row["criterion"] in kinds:
            layers = kinds[row["criterion"]](row["threshold"]).exit_layers(torch.from_numpy(logits))
            assert row == curve_row("validation", (row["criterion"], row["threshold"]), logits, labels, layers, metric)
    assert rows == criterion_rows("validation", logits, labels, metric, points=20)
    assert all(math.isfinite(row["threshold"]) and row["n"] == len(labels) for row in rows)


def test_fitted_thresholds_are_scored_on_other_samples() -> None:
    """In the rows each half of the samples leaves by the thresholds fitted on the other half."""
    logits, labels = heads(7, n=31)
    rows = layer_threshold_rows("validation", logits, labels, "accuracy", points=20, seed=3)
    one, other = stratified_halves(labels, 3)
    for i, row in enumerate(rows):
        layers = np.zeros(31)
        for fit, check in ((one, other), (other, one)):
            thresholds = fit_layer_thresholds(logits[fit], labels[fit], "accuracy", threshold_grid(2, 20))[i]
            layers[check] = thresholds.exit_layers(torch.from_numpy(logits[check])).numpy()
        assert row["mean_exit_layer"] == pytest.approx(layers.mean()) and row["threshold"] == DROPS_POINTS[i]
        assert row["score"] == np.mean(logits[np.arange(31), layers.astype(int) - 1].argmax(axis=1) == labels)
    assert len(rows) == len(DROPS_POINTS)


def test_one_sample_cannot_be_fitted_and_scored() -> None:
    """A single sample has rows of every criterion but the fitted one."""
    logits, labels = heads(1, n=1)
    assert "layer_thresholds" not in {row["criterion"] for row in criterion_rows("v", logits, labels, "accuracy", 5)}
