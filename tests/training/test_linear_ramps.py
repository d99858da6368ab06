"""Linear ramps are where their convex loss is least, with a penalty that validation has no part in."""

import contextlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deebert.base.errors import UserError
from deebert.ramps import LinearRamps
from deebert.settings.train_ramps import TrainRamps
from deebert.training import linear_ramps, logistic, ramp_plan
from deebert.training.linear_ramps import STRENGTHS, choose_strengths, drawn_folds
from deebert.training.logistic import Axes, Batch, Problem
from deebert.training.ramp_plan import RampPlan, Standard, mean_and_scale
from deebert.training.ramps import train_ramps
from deebert.training.states import States
from deebert.training.stops import Stop

CPU = torch.device("cpu")
# Of these none is read but the kind.
SETTINGS = TrainRamps(ramp="linear", epochs=1, learning_rate=1e9, batch_size=1, weight_decay=1e9)
few = settings(max_examples=10, deadline=None, derandomize=True)


def noisy(seed: int, n: int = 200, ramps: int = 2, width: int = 6, labels: int = 3, told: float = 1.0) -> States:
    """Correlated states that tell the label, the deeper the better, but never for certain."""
    rng = np.random.default_rng(seed)
    wanted = rng.integers(0, labels, n)
    states = rng.standard_normal((n, ramps, width)) @ rng.standard_normal((width, width))
    states += told * np.arange(1, ramps + 1)[:, None] * rng.standard_normal((labels, 1, width))[wanted]
    return States(states.astype(np.float32), wanted)


def trained(train: States, validation: States | None = None, seed: int = 1, labels: int = 3) -> LinearRamps:
    plan = RampPlan(train, validation or noisy(99, n=20), "accuracy", labels, SETTINGS, seed)
    ramps, _ = train_ramps(plan, CPU)
    assert isinstance(ramps, LinearRamps) and not ramps.training
    return ramps


def batch_of(states: States) -> Batch:
    rows = np.arange(len(states))
    return Standard(states, CPU).read(states, rows), torch.from_numpy(states.labels)


def penalised(batch: Batch, strengths: np.ndarray, weights: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """The loss of each ramp (R,) by PyTorch's own cross-entropy, in float64."""
    states, labels = batch
    weight, bias = weights
    logits = states.double() @ weight.mT + bias[:, None]
    losses = [nn.functional.cross_entropy(each, labels, reduction="sum") for each in logits]
    return torch.stack(losses) + 0.5 * torch.from_numpy(strengths) * (weight**2).sum(dim=(1, 2))


@few
@given(st.integers(0, 1000), st.integers(2, 5), st.sampled_from(STRENGTHS))
def test_the_optimum_is_one(seed: int, labels: int, strength: float) -> None:
    """The derivatives by PyTorch are next to 0 there, and any step away makes the loss larger, as it is convex."""
    batch = batch_of(noisy(seed, labels=labels))
    strengths = np.array([strength, 3 * strength])
    problem = Problem(lambda: [batch], 200, Axes.of([batch]), strengths, labels)
    weights = tuple(torch.from_numpy(each).requires_grad_() for each in problem.solve(1e-5))
    least = penalised(batch, strengths, weights)
    slopes = torch.autograd.grad(least.sum(), weights)
    assert all(slope.abs().max() < 0.05 for slope in slopes)  # of a sum over 200 samples
    generator = torch.Generator().manual_seed(seed)
    for size in (0.1, 1.0):
        moved = tuple(each + size * torch.randn(each.shape, generator=generator) for each in weights)
        assert (penalised(batch, strengths, moved) > least).all()


def test_an_optimum_that_is_not_reached_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """By the steps that were taken and the derivative that is left; one that is reached is not."""
    batch = batch_of(noisy(0))
    problem = Problem(lambda: [batch], 200, Axes.of([batch]), np.array([1.0, 1.0]), 3)
    problem.solve(3e-4)
    assert not caplog.records
    monkeypatch.setattr(logistic, "MAX_STEPS", 2)
    problem.solve(3e-4)
    assert "not at the optimum after 2 steps" in caplog.text and "expected 0.0003 or less" in caplog.text


def test_derivatives_are_the_losss_own() -> None:
    """Each derivative in the problem's own units is what a small step along it changes."""
    batch = batch_of(noisy(3))
    problem = Problem(lambda: [batch], 200, Axes.of([batch]), np.array([1.0, 30.0]), 3)
    flat = 0.3 * np.random.default_rng(0).standard_normal(2 * 3 * 7)
    _, slopes = problem.value(flat)
    for i, step in enumerate(1e-2 * np.eye(len(flat))):
        change = problem.value(flat + step)[0] - problem.value(flat - step)[0]
        assert change / 2e-2 == pytest.approx(slopes[i], abs=1e-4)


def test_how_samples_are_cut_into_batches_does_not_matter() -> None:
    """Sums over batches are those over all samples at once; ramps beside one another do not touch each other."""
    states, labels = batch_of(noisy(4))
    axes = Axes.of([(states, labels)])
    parts = [(states[:, rows], labels[rows]) for rows in (slice(0, 7), slice(7, 120), slice(120, 200))]
    flat = np.random.default_rng(0).standard_normal(2 * 3 * 7)
    whole, slopes = Problem(lambda: [(states, labels)], 200, axes, 2.0, 3).value(flat)
    cut, cut_slopes = Problem(lambda: iter(parts), 200, axes, 2.0, 3).value(flat)
    assert cut == pytest.approx(whole, rel=1e-6)
    np.testing.assert_allclose(cut_slopes, slopes, atol=1e-5)
    together = Problem(lambda: [(states, labels)], 200, axes, 2.0, 3).solve(1e-5)
    for i in range(2):
        alone = [(states[i : i + 1], labels)]
        weight, _ = Problem(lambda alone=alone: alone, 200, Axes.of(alone), 2.0, 3).solve(1e-5)
        np.testing.assert_allclose(weight[0], together[0][i], atol=1e-3)


def test_folding_is_exact() -> None:
    """The ramps that come back give on raw states what the optimum gives on standardised ones."""
    states = noisy(5)
    wild = States(
        states.states * np.float32([1e-3, 1, 10, 100, 1, 0]) + np.float32([0, 5, 0, -300, 0, 7]), states.labels
    )
    mean, scale = mean_and_scale(wild)
    ramps = LinearRamps(2, 6, 3)
    with torch.inference_mode():
        standardised = torch.from_numpy(((wild.states - mean) / scale).astype(np.float32)).transpose(0, 1)
        expected = ramps(standardised)
        found = Standard(wild, CPU).fold(ramps)(torch.from_numpy(wild.states).transpose(0, 1))
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_the_same_bytes_again() -> None:
    """Trained again, ramps are the same to the bit, whatever the validation samples are."""
    train = noisy(6)
    one, again = trained(train).state_dict(), trained(train, validation=noisy(7, n=33)).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())


@pytest.mark.parametrize("room", [False, True])
def test_a_gpu_with_room_reads_the_states_once(room: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And learns the same of them, to the last bit."""
    states, reads = noisy(0), []
    monkeypatch.setattr(linear_ramps, "BATCH", 150)
    expected = trained(states).state_dict()

    def read(self: Standard, split: States, rows: np.ndarray) -> torch.Tensor:
        reads.append(len(rows))
        return original(self, split, rows)

    original = Standard.read
    monkeypatch.setattr(Standard, "read", read)
    monkeypatch.setattr(ramp_plan, "has_room", lambda device, num_bytes: room and num_bytes > states.states.nbytes)
    found = trained(states).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (reads.count(150) == 1) == room


def test_the_penalty_follows_what_features_tell() -> None:
    """States without a word of the label get the strongest penalty, and states that tell it for certain the weakest."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    nothing, everything = rng.standard_normal((2, 300, 40))
    everything[:, 0] += 20 * labels
    train = States(np.stack([nothing, everything], axis=1).astype(np.float32), labels)
    states, wanted = batch_of(train)
    folds = [(states[:, rows], wanted[rows]) for rows in drawn_folds(300, seed=1)]
    chosen = choose_strengths(folds, Axes.of(folds), num_labels=2)
    assert chosen[0] == max(STRENGTHS) and chosen[1] == min(STRENGTHS)
    ramps = trained(train, validation=train, labels=2)
    weights = ramps.out_weight.detach().numpy() * train.states.std(axis=0)[:, None]
    assert np.abs(weights[0]).max() < 0.05 < np.abs(weights[1]).max()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_samples_and_classes_without_one(n: int) -> None:
    """With next to no samples, and classes that none of them has, ramps are finite and answer something."""
    train = noisy(8, n=n)
    ramps = trained(States(train.states, np.zeros(n, dtype=np.int64)), labels=5)
    assert all(torch.isfinite(tensor).all() for tensor in ramps.parameters())


def test_folds_are_drawn_by_seed_and_share_nothing() -> None:
    """Each sample that chooses is in one fold; the seed draws them; of many samples a bounded number chooses."""
    folds = drawn_folds(100, seed=1)
    assert sorted(np.concatenate(folds)) == list(range(100)) and max(map(len, folds)) - min(map(len, folds)) <= 1
    assert not np.array_equal(folds[0], drawn_folds(100, seed=2)[0])
    many = np.concatenate(drawn_folds(10**6, seed=1))
    assert len(np.unique(many)) == len(many) == linear_ramps.MAX_CHOOSING


def test_the_curve_falls_to_the_optimum() -> None:
    """A row per step, ramp and kind: passes only grow, each loss falls, and the last score is that of the ramps."""
    train, unseen = noisy(9), noisy(9, n=150)
    ramps, rows = train_ramps(RampPlan(train, unseen, "accuracy", 3, SETTINGS, 1), CPU)
    with torch.inference_mode():
        right = ramps(torch.from_numpy(unseen.states).transpose(0, 1)).argmax(dim=2).numpy() == unseen.labels
    for layer in (1, 2):
        losses = [row for row in rows if row["layer"] == layer and row["split"] == "train"]
        scores = [row for row in rows if row["layer"] == layer and row["split"] == "validation"]
        assert [row["step"] for row in losses] == [row["step"] for row in scores] == list(range(1, len(losses) + 1))
        assert all(a["epoch"] < b["epoch"] for a, b in itertools.pairwise(losses))
        assert losses[-1]["value"] < losses[0]["value"] and losses[0]["metric"] == "loss"
        assert scores[-1]["value"] == pytest.approx(right[layer - 1].mean())


@pytest.mark.parametrize("after", [0, 2, 12, 40])
def test_a_stop_between_passes(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """SIGTERM ends the training before the next pass, be it one that chooses or one that trains, with one line."""
    asked = 0

    def reason() -> Stop | None:
        nonlocal asked
        asked += 1
        return Stop.SIGTERM if asked > after else None

    @contextlib.contextmanager
    def requests() -> Iterator[Callable[[], Stop | None]]:
        yield reason

    monkeypatch.setattr(linear_ramps, "stop_requests", requests)
    with pytest.raises(UserError, match=r"^train_ramps: stopped by SIGTERM; nothing is written"):
        trained(noisy(10))
    assert asked == after + 1


@pytest.mark.filterwarnings("ignore:invalid value")
def test_states_that_are_not_finite() -> None:
    """They are one line."""
    states = noisy(11)
    states.states[3, 1, 2] = np.inf
    with pytest.raises(UserError, match=r"^train_ramps: the first tokens' states are not finite"):
        trained(states)


def test_the_optimum_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """To go on until derivatives are a hundred times smaller moves no weight by more than a hundredth."""
    train = noisy(12)
    found = trained(train).state_dict()
    monkeypatch.setattr(linear_ramps, "OPTIMAL", 3e-6)
    exact = trained(train).state_dict()
    for name in exact:
        assert (found[name] - exact[name]).abs().max() < 0.05 * exact[name].abs().max(), (
            found[name] - exact[name]
        ).abs().max() / exact[name].abs().max()


def test_one_strength_that_is_worse_does_not_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two in a row do, for every ramp; each ramp gets its best."""
    told = iter([(5, 5), (6, 6), (4, 7), (5, 8), (6, 9), (0, 0)])
    folds = [batch_of(noisy(1, n=30)), batch_of(noisy(2, n=30))]
    losses = {}

    def losses_on(batches, weights):
        calls.append(1)
        if len(calls) % 2:
            losses["now"] = np.array(next(told), float)
        return losses["now"] / 2

    calls = []
    monkeypatch.setattr(linear_ramps, "losses_on", losses_on)
    chosen = choose_strengths(folds, Axes.of(folds), 3)
    assert list(chosen) == [STRENGTHS[2], STRENGTHS[0]] and len(calls) == 2 * 5


def test_a_strength_is_weighed_against_the_samples_it_is_tried_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three folds two: the penalty counts as it will on all samples."""
    counts, original = [], linear_ramps.Problem.__init__

    def noted(self, batches, count, *more):
        counts.append((count, sum(len(labels) for _, labels in batches())))
        original(self, batches, count, *more)

    monkeypatch.setattr(linear_ramps.Problem, "__init__", noted)
    trained(noisy(3, n=101))
    assert counts and all(told == there for told, there in counts)
