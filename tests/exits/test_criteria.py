"""Exit criteria: live against offline against plain loops, their grids, and thresholds fitted ramp by ramp."""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from deebert import criteria as public
from deebert.base.errors import UserError
from deebert.exits import criteria as all_of_them
from deebert.exits.criteria import (
    ConfidentStreak,
    Consistency,
    Criterion,
    Entropy,
    LayerThresholds,
    Margin,
    MaxProbability,
    Patience,
    lead,
    top_probability,
)
from deebert.exits.grids import (
    NAMED_SHARES,
    NEXT_TO_NOBODY,
    TIMED_SHARES,
    _up_to_two_that_count,
    chance_grid,
    margin_grid,
    probability_grid,
    threshold_grid,
    thresholds_at,
)
from deebert.exits.rule import entropy
from deebert.exits.table import CRITERIA, Grid
from tests.heads import heads

GRIDS = {name: entry.grid for name, entry in CRITERIA.items() if entry.grid}
MAX_LAYERS = 6
WEIGHTS = ((-0.1, -1.0, 0.0), (0.2, -0.5, -0.5), (0.0, -1.0, 0.3))  # of 3 ramps
few = settings(max_examples=60, deadline=None, derandomize=True)

nats = st.just(0.0) | st.floats(0, 1.2)
probabilities = st.just(1.0) | st.floats(0, 1)
margins = st.just(1.0) | st.just(-1e-6) | st.floats(0, 1) | st.floats(0, 0.05)  # small ones are what many classes have
criteria = st.one_of(
    st.builds(Entropy, nats),
    st.builds(MaxProbability, probabilities),
    st.builds(Margin, margins),
    st.builds(Patience, st.integers(1, MAX_LAYERS)),
    st.builds(ConfidentStreak, st.integers(1, 4), probabilities),
    st.builds(
        LayerThresholds, st.lists(nats, min_size=MAX_LAYERS - 1, max_size=MAX_LAYERS - 1).map(tuple), st.just(1.0)
    ),
    st.builds(Consistency, st.tuples(*[st.tuples(*[st.floats(-2, 2)] * 3)] * (MAX_LAYERS - 1)), probabilities),
)


@st.composite
def logit_tables(draw: st.DrawFn) -> Tensor:
    """Logits (N, L, C) of few different values, so that heads agree and tie often; some are NaN."""
    n, layers, classes = draw(st.integers(1, 7)), draw(st.integers(1, MAX_LAYERS)), draw(st.integers(2, 4))
    values = st.sampled_from([-3.0, -1.0, 0.0, 0.0, 0.5, 1.0, 2.0, 9.0, 1e4, math.nan])
    flat = draw(st.lists(values, min_size=n * layers * classes, max_size=n * layers * classes))
    return torch.tensor(flat).reshape(n, layers, classes)


def at_depth(criterion: Criterion, num_layers: int) -> Criterion:
    """`criterion`, with as many thresholds, or weights, as the model has ramps."""
    if isinstance(criterion, Consistency):
        return replace(criterion, weights=criterion.weights[: num_layers - 1])
    if not isinstance(criterion, LayerThresholds):
        return criterion
    return replace(criterion, thresholds_nats=criterion.thresholds_nats[: num_layers - 1])


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
    criterion = at_depth(criterion, logits.shape[1])
    offline = criterion.exit_layers(logits)
    assert offline.dtype == torch.int64
    assert live_exits(criterion, logits) == offline.tolist()
    assert [live_exits(criterion, sample[None])[0] for sample in logits] == offline.tolist()
    assert criterion.exit_layers_of(criterion.read(logits)).tolist() == offline.tolist()


def test_full_depth_reads_no_ramp() -> None:
    """Settings by which nobody can leave need no head, all others do, each ramp by its own threshold."""
    none = Entropy(0.0), MaxProbability(1.0), Margin(1.0), ConfidentStreak(2, 1.0), Consistency(WEIGHTS, 0.0)
    most = Entropy(1e-4), MaxProbability(0.999), Margin(0.999), ConfidentStreak(2, 0.999), Consistency(WEIGHTS, 1e-4)
    assert not any(criterion.reads(1) for criterion in none)
    assert all(criterion.reads(1) for criterion in (*most, Patience(1)))
    assert [LayerThresholds((0.0, 0.2, 0.0), 1.0).reads(layer) for layer in (1, 2, 3)] == [False, True, False]


def plain_log_odds(head: np.ndarray, answer: int) -> float:
    """Of one class by one head's (C,) logits."""
    others = sum(math.exp(x - head[answer]) for i, x in enumerate(head.astype(np.float64)) if i != answer)
    return min(max(-math.log(others), -30.0), 30.0)


def plain_exit(criterion: Criterion, sample: np.ndarray) -> int:
    """Exit layer of one sample's (L, C) logits by each criterion's definition; skips what rounding would decide."""
    num_layers = len(sample)
    top, margin, nat, answer = [], [], [], []
    for head in sample.astype(np.float64):
        p = np.exp(head - head.max())
        p /= p.sum()
        top.append(p.max())
        margin.append(p.max() - sorted(p)[-2])
        nat.append(-sum(x * math.log(x) for x in p if x > 0))
        answer.append(int(p.argmax()))
    for layer in range(1, num_layers):
        if isinstance(criterion, Entropy | LayerThresholds):
            bar = criterion.threshold_nats if isinstance(criterion, Entropy) else criterion.thresholds_nats[layer - 1]
            assume(abs(nat[layer - 1] - bar) > 1e-5)
            leaves = nat[layer - 1] < bar
        elif isinstance(criterion, Margin):
            assume(abs(margin[layer - 1] - criterion.threshold) > 1e-6)
            leaves = margin[layer - 1] > criterion.threshold
        elif isinstance(criterion, Consistency):
            before = sample[layer - 2] if layer > 1 else None
            seconded = 0.0 if before is None else plain_log_odds(before, answer[layer - 1])
            told = (1.0, plain_log_odds(sample[layer - 1], answer[layer - 1]), seconded)
            odds = sum(weight * x for weight, x in zip(criterion.weights[layer - 1], told, strict=True))
            chance = 1 / (1 + math.exp(-odds))
            assume(criterion.threshold in (0, 1) or abs(chance - criterion.threshold) > 1e-5)
            leaves = chance < criterion.threshold
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
@given(st.integers(0, 10_000), st.integers(2, 4) | st.sampled_from([20, 77, 200]), criteria)
def test_each_criterion_is_its_definition(seed: int, classes: int, criterion: Criterion) -> None:
    """Every sample leaves where a plain float64 loop over its heads says."""
    logits, _ = heads(seed, classes, n=10, layers=MAX_LAYERS)
    assert criterion.exit_layers(torch.from_numpy(logits)).tolist() == [plain_exit(criterion, s) for s in logits]


@few
@given(logit_tables(), nats)
def test_equal_thresholds_are_one_threshold(logits: Tensor, threshold: float) -> None:
    """Thresholds ramp by ramp that are all equal are the entropy criterion."""
    equal = LayerThresholds((threshold,) * (logits.shape[1] - 1), 0.0)
    assert torch.equal(equal.exit_layers(logits), Entropy(threshold).exit_layers(logits))


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


@pytest.mark.parametrize(
    ("threshold", "layers"),
    [
        (0.0, [4, 4]),
        (0.08, [4, 3]),
        (0.12, [4, 2]),
        (0.15, [2, 2]),
        (0.2, [2, 1]),
        (0.43, [1, 1]),
        (1.0, [1, 1]),
    ],
)
def test_consistency_by_hand(threshold: float, layers: list[int]) -> None:
    """The ramp before is asked about the answer of this ramp, not about its own."""
    leads = torch.tensor([[0.3, -2.0, -1.0, 9.0], [1.5, 1.5, 3.0, 9.0]])  # of class 1 over class 0
    logits = torch.stack([torch.zeros_like(leads), leads], dim=2)
    weights = ((0.0, -1.0, 9.0), (0.0, -1.0, -0.5), (0.0, -1.0, 0.1))
    # The first sample has u = 0.3, 2, 1 and v = 0, -0.3, 2. So its log-odds are -0.3, -1.85, -0.8, and its chances
    # 0.426, 0.136, 0.310. The other has u = 1.5, 1.5, 3 and v = 0, 1.5, 1.5, log-odds -1.5, -2.25, -2.85, and chances
    # 0.182, 0.095, 0.055.
    assert Consistency(weights, threshold).exit_layers(logits).tolist() == layers


def test_far_logits_leave_consistency_finite() -> None:
    """However sure a head is, be it infinitely, it counts as 30; so at 1 everybody leaves at layer 1, at 0 nobody."""
    logits = torch.tensor([[math.inf, 0.0, -math.inf], [1e38, -1e38, 0.0], [0.0, 0.0, 0.0]])[:, None].repeat(1, 4, 1)
    for slope in (-50.0, 50.0):  # chances that round to 0 and to 1
        weights = ((0.0, slope, slope),) * 3
        assert Consistency(weights, 1.0).exit_layers(logits).tolist() == [1, 1, 1]
        assert Consistency(weights, 0.0).exit_layers(logits).tolist() == [4, 4, 4]
    assert Consistency(((-29.5, 1.0, 0.0),) * 3, 0.7).exit_layers(logits).tolist() == [1, 1, 1]
    assert Consistency(((-29.5, 1.0, 0.0),) * 3, 0.6).exit_layers(logits).tolist() == [4, 4, 1]


@few
@given(logit_tables(), st.floats(0, 1))
def test_with_two_classes_the_margin_is_the_top_probability(logits: Tensor, threshold: float) -> None:
    """It is 2p - 1, so it lets the same samples go, and has no curve of its own there."""
    logits = logits[..., :2]
    margin, top = lead(logits), top_probability(logits)
    torch.testing.assert_close(margin, 2 * top - 1, equal_nan=True, atol=1e-6, rtol=0)
    assume(not ((margin - threshold).abs() < 1e-6).any())
    twin = MaxProbability((threshold + 1) / 2)
    assert torch.equal(Margin(threshold).exit_layers(logits), twin.exit_layers(logits))
    assert Margin.grid(logits.shape[1], 2, 50) == []


def test_the_margin_does_not_see_how_the_rest_is_spread() -> None:
    """Of two heads with the same top two, the one whose rest is spread over more classes is as sure by it."""
    probabilities = torch.tensor([[0.5, 0.1, 0.4 - 3e-6, 1e-6, 1e-6, 1e-6], [0.5, 0.1, 0.1, 0.1, 0.1, 0.1]])
    crowded, spread = lead(probabilities.log()).tolist()
    assert (crowded, spread) == (pytest.approx(0.1, abs=1e-5), pytest.approx(0.4, abs=1e-5))
    assert top_probability(probabilities.log()).tolist() == pytest.approx([0.5, 0.5], abs=1e-5)


@pytest.mark.parametrize("classes", [3, 7, 77, 200])
@pytest.mark.parametrize("points", [0, 1, 2, 50, 200])
def test_the_grid_of_margins(classes: int, points: int) -> None:
    """At most `points`, an eighth more and 1, falling, of 6 digits and among the surest of 8, to just below 0."""
    grid = margin_grid(classes, points)
    assert grid[0] == 1.0 and grid == sorted(set(grid), reverse=True) and len(grid) <= points + points // 8 + 1
    assert len(grid) >= 0.8 * points and all(value == round(value, 8) for value in grid)
    assert all(value == round(value, 6) for value in grid[points // 8 + 1 :])
    if points > 1:
        assert grid[-1] == -1e-6 and 1 - 1e-2 < grid[1] < 1


@pytest.mark.parametrize("classes", [2, 3, 77])
@pytest.mark.parametrize(("grid_of", "criterion"), [(probability_grid, MaxProbability), (margin_grid, Margin)])
def test_the_surest_can_be_told_apart(
    grid_of: Callable[[int, int], list[float]], criterion: type[Criterion], classes: int
) -> None:
    """Heads that are as sure as a deep model's are for most samples are parted by some settings of the grid."""
    leads = torch.tensor([12.1, 13.0, 14.0, 15.0]) + math.log(classes - 1)
    logits = torch.zeros(len(leads), 2, classes)
    logits[:, 0, 0] = leads
    exits = {tuple(criterion(setting).exit_layers(logits).tolist()) for setting in grid_of(classes, 200)}
    assert len(exits) == len(leads) + 1


def test_numbers_of_numpy_make_the_same_criterion() -> None:
    """It looks the same, too, which is how a monitor knows that a threshold is the one that it began with."""
    for plain, made in (
        (Entropy(0.25), Entropy(np.float64(0.25))),
        (Margin(0.25), Margin(np.float32(0.25))),
        (MaxProbability(0.75), MaxProbability(np.float64(0.75))),
        (Patience(2), Patience(np.int64(2))),
        (ConfidentStreak(2, 0.75), ConfidentStreak(np.int64(2), np.float64(0.75))),
        (LayerThresholds((0.25,), 1.0), LayerThresholds(tuple(np.array([0.25])), 1.0)),
        (Consistency(((0.0, 1.0, 2.0),), 0.5), Consistency((tuple(np.arange(3.0)),), np.float64(0.5))),
    ):
        assert made == plain and repr(made) == repr(plain)


@pytest.mark.parametrize("classes", [2, 3, 5, 77, 200])
@pytest.mark.parametrize(("name", "grid_of"), GRIDS.items(), ids=GRIDS)
def test_the_grid_goes_from_nobody_to_everybody(name: str, grid_of: Grid, classes: int) -> None:
    """By the first setting all stay to L, by the last all leave as early as can be; between, the saving never falls."""
    logits = torch.zeros(3, 5, classes)  # as unsure as can be, always of one mind
    logits[1, :, 1] = 50.0  # as sure as can be
    logits[2] = torch.from_numpy(heads(1, classes, n=1, layers=5)[0][0])
    if name == "patience":
        logits[2] = logits[1]
    grid = grid_of(5, classes, 200)
    if (name, classes) == ("margin", 2):
        assert grid == []
        return
    earliest = {"patience": 2, "confident_streak_2": 2, "confident_streak_3": 3}.get(name, 1)
    assert {criterion.name for criterion in grid} == {name}
    assert all(math.isfinite(criterion.setting) for criterion in grid), "JSON has no infinity"
    assert grid[0].exit_layers(logits).tolist() == [5, 5, 5]
    assert grid[-1].exit_layers(logits).tolist() == [earliest] * 3
    assert all((b.exit_layers(logits) <= a.exit_layers(logits)).all() for a, b in pairwise(grid))
    assert len({criterion.setting for criterion in grid}) == len(grid)
    assert name != "patience" or len(grid) == 4


def test_programs_import_every_criterion() -> None:
    """Under the name that stays, wherever the code lives."""
    there = vars(all_of_them).items()
    kinds = {name for name, each in there if isinstance(each, type) and issubclass(each, Criterion)}
    assert {name for name in kinds if not name.startswith("_")} == set(public.__all__) <= set(vars(public))


def test_few_layers_leave_no_room_for_streaks() -> None:
    """A length that L-1 ramps cannot reach has no grid."""
    assert ConfidentStreak.grid(2, 2, 3, 10) == ConfidentStreak.grid(3, 3, 3, 10) == []
    assert {criterion.length for criterion in ConfidentStreak.grid(2, 3, 3, 10)} == {2}


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("points", [0, 1, 2, 50, 200])
def test_the_grid_of_probabilities(classes: int, points: int) -> None:
    """At most `points`, an eighth more and 1, falling, of 6 digits and among the surest of 8, to just below 1/C."""
    grid = probability_grid(classes, points)
    assert grid[0] == 1.0 and grid == sorted(set(grid), reverse=True) and len(grid) <= points + points // 8 + 1
    assert len(grid) >= 0.8 * points and all(value == round(value, 8) for value in grid)
    assert all(value == round(value, 6) for value in grid[points // 8 + 1 :])
    if points > 1:
        assert 1 / classes - 2e-6 < grid[-1] < 1 / classes and 1 - 1e-4 < grid[1] < 1


@pytest.mark.parametrize(
    "criterion",
    [
        Entropy(9.0),
        MaxProbability(0.0),
        Margin(-1.0),
        Patience(1),
        ConfidentStreak(1, 0.0),
        LayerThresholds((9.0, 9.0, 9.0), 0.0),
        Consistency(((0.0, 0.0, 0.0),) * 3, 1.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_never_leaves(criterion: Criterion, dtype: torch.dtype) -> None:
    """Whatever the setting, a sample whose heads say NaN stays to L, also where only one class does."""
    logits = torch.zeros(2, 4, 2, dtype=dtype)
    logits[0] = math.nan
    logits[1, :, 0] = math.nan
    assert criterion.exit_layers(logits).tolist() == [4, 4]


def test_equal_is_not_above() -> None:
    """A top probability, a margin, or a chance of another answer equal to the threshold stays."""
    logits = torch.zeros(1, 3, 2)
    assert top_probability(logits).tolist() == [[0.5, 0.5, 0.5]]
    assert MaxProbability(0.5).exit_layers(logits).tolist() == [3]
    assert ConfidentStreak(2, 0.5).exit_layers(logits).tolist() == [3]
    assert Margin(0.0).exit_layers(logits).tolist() == [3]
    assert Consistency(((0.0, 0.0, 0.0),) * 2, 0.5).exit_layers(logits).tolist() == [3]


def test_probabilities_of_large_half_precision_logits() -> None:
    """Top probabilities and margins come in float32 and do not overflow."""
    logits = torch.tensor([[3e4, -3e4], [3e4, 3e4]], dtype=torch.bfloat16)
    for read, expected in ((top_probability, [1.0, 0.5]), (lead, [1.0, 0.0])):
        assert read(logits).dtype == torch.float32 and read(logits).tolist() == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Entropy(-0.1),
        lambda: Entropy(math.nan),
        lambda: MaxProbability(1.1),
        lambda: MaxProbability(math.nan),
        lambda: Margin(1.1),
        lambda: Margin(-1.1),
        lambda: Margin(math.nan),
        lambda: Entropy("0.1"),
        lambda: Entropy(True),
        lambda: MaxProbability(None),
        lambda: Margin("a"),
        lambda: LayerThresholds(("a", 0.1), 1.0),
        lambda: Consistency(WEIGHTS, "a"),
        lambda: Patience(0),
        lambda: Patience(2.5),
        lambda: ConfidentStreak("2", 0.5),
        lambda: ConfidentStreak(0, 0.5),
        lambda: ConfidentStreak(2, -0.5),
        lambda: ConfidentStreak(2, 1.5),
        lambda: LayerThresholds((0.1, -0.2), 1.0),
        lambda: Consistency(WEIGHTS, 1.1),
        lambda: Consistency(WEIGHTS, math.nan),
        lambda: Consistency((*WEIGHTS, (0.0, math.nan, 0.0)), 0.5),
        lambda: Consistency((*WEIGHTS, (0.0, 0.0)), 0.5),
        lambda: Consistency((0.1, 0.2, 0.3), 0.5),
    ],
)
def test_a_setting_out_of_range_is_an_error(make: Callable[[], Criterion]) -> None:
    """A setting that no criterion can have is refused in one line that says what is allowed."""
    with pytest.raises(UserError, match="allowed") as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("points", [0, 1, 2, 50, 200, 999])
def test_the_grid_of_chances(points: int) -> None:
    """0, then `points` of 6 digits from near 0 to well above 1/2, then 1; rising."""
    grid = chance_grid(points)
    assert (grid[0], grid[-1]) == (0.0, 1.0) and grid == sorted(set(grid)) and len(grid) == points + 2
    assert all(value == round(value, 6) for value in grid)
    if points > 1:
        assert grid[1] == pytest.approx(1 / (1 + math.exp(8)), abs=1e-6)
        assert grid[-2] == pytest.approx(1 / (1 + math.exp(-2)), abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("points", [0, 1, 2, 50, 200, 999])
def test_the_grid_of_thresholds(classes: int, points: int) -> None:
    """About as many thresholds as asked for, and a quarter more below, from 1e-33 or so to above ln C, always alike."""
    grid = threshold_grid(classes, points)
    assert 0.8 * min(points, 200) <= len(grid) <= points + 2 * (points // 8)
    assert grid == sorted(set(grid)) == threshold_grid(classes, points)
    assert all(0 < threshold <= math.log(classes) + 1e-4 for threshold in grid)
    assert all(threshold == float(f"{threshold:.1e}") or threshold == round(threshold, 4) for threshold in grid)
    if points > 1:
        assert grid[-1] > math.log(classes) and grid[0] < 1e-3
    if points > 100:
        small = np.array([threshold for threshold in grid if threshold < 1e-4])
        steps = small[1:] / small[:-1]
        assert (steps[small[1:] > 3e-9] < 3).all() and (steps < 12).all()


def test_small_thresholds_are_rounded_up() -> None:
    """To two digits: whoever is as sure as the lead that makes one leaves below it."""
    assert [_up_to_two_that_count(nats) for nats in (1.01e-20, 9.91e-9, 4e-9)] == [1.1e-20, 1e-8, 4e-9]


@pytest.mark.parametrize("classes", [2, 3, 77, 1000])
def test_the_surest_leads_are_told_apart(classes: int) -> None:
    """In float32, too, samples whose leads are 24 to 80 leave one after the other; none leaves at next to nobody's."""
    leads = torch.arange(24.0, 80.0, 4.0)
    entropies = entropy(torch.stack([leads, *[torch.zeros_like(leads)] * (classes - 1)], dim=1))
    grid = threshold_grid(classes, 200)
    leaving = [int((entropies < threshold).sum()) for threshold in grid]
    assert set(leaving) == set(range(len(leads) + 1))
    assert torch.finfo(torch.float32).tiny < NEXT_TO_NOBODY < grid[0]


@pytest.mark.parametrize("classes", [2, 3, 93, 112, 169, 308, 1000])
def test_the_last_threshold_lets_everybody_go(classes: int) -> None:
    """Also the ramps that know nothing, whose entropy float32 may make a little larger than ln C."""
    equal = torch.zeros(3, classes)
    equal[1:] += 1e-4 * torch.randn(2, classes, generator=torch.Generator().manual_seed(0))
    assert (entropy(equal) < threshold_grid(classes, 50)[-1]).all()


def test_thresholds_of_another_depth_are_refused() -> None:
    """What is fitted ramp by ramp is for one depth: with any other number of layers it is an error of one line."""
    thresholds = LayerThresholds((0.1, 0.2, 0.3), 1.0)
    assert thresholds.exit_layers(torch.zeros(2, 4, 2)).tolist() == [4, 4]
    for layers in (3, 5):
        with pytest.raises(
            UserError, match=f"thresholds of 3 ramps for a model of {layers} layers; allowed: .*, {layers - 1}$"
        ):
            thresholds.exit_layers(torch.zeros(2, layers, 2))
        with pytest.raises(
            UserError, match=f"weights of 3 ramps for a model of {layers} layers; allowed: .*{layers - 1}$"
        ):
            Consistency(WEIGHTS, 0.5).exit_layers(torch.zeros(2, layers, 2))


def test_usual_thresholds_are_shares_of_the_largest_entropy() -> None:
    """For two classes they are round numbers; for any number they rise from 0 to below ln C, as sure as for two."""
    assert thresholds_at(NAMED_SHARES, 2) == (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    assert thresholds_at(TIMED_SHARES, 2) == (0.05, 0.2, 0.6)
    for labels in (3, 10, 77, 200):
        nats = thresholds_at(NAMED_SHARES, labels)
        assert list(nats) == sorted(set(nats)) and nats[0] == 0 and nats[-1] < math.log(labels)
        assert nats[-1] / math.log(labels) == pytest.approx(0.6 / math.log(2), abs=0.01)
