"""The ramps learn, repeat to the bit, tell how they go, leave the frozen backbone alone and stop on a bad loss."""

import copy
import dataclasses
import gc
import logging
import os
import re
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from deebert.base.errors import UserError
from deebert.base.recipe import Recipe
from deebert.data.encoded import encode
from deebert.inference import packs
from deebert.ramps import PoolerRamps, Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training import pooler_ramps
from deebert.training.checkpoints import Checkpoints
from deebert.training.loop import finetune
from deebert.training.objective import find
from deebert.training.plan import Plan, Samples
from deebert.training.pooler_ramps import MAX_DECAY_PER_STEP, decay_per_rate
from deebert.training.ramp_plan import RampPlan, Standard, mean_and_scale
from deebert.training.ramps import settings_read, train_ramps
from deebert.training.records import CURVE_POINTS
from deebert.training.states import States, first_token_states
from tests import tiny

CPU = torch.device("cpu")
RAMPS = TrainRamps(ramp="pooler", epochs=10, learning_rate=0.01, batch_size=32, weight_decay=0.01)
TRAIN = tiny.samples(96)
ENCODED = encode(tiny.tokenizer(), TRAIN, ["sentence"])
LABELS = TRAIN["label"].to_numpy()


@pytest.fixture(scope="module")
def bert() -> PreTrainedModel:
    """A fine-tuned backbone of 2 layers; no test changes it."""
    model = tiny.model("bert", layers=2, initializer_range=0.1)
    samples = Samples(ENCODED, LABELS)
    recipe = Recipe(epochs=10, learning_rate=1e-2, batch_size=16)
    plan = Plan(tiny.tokenizer(), samples, samples, "accuracy", recipe, 1, "fp32", find("full_depth"))
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder, "checkpoints", "home")) as checkpoints:
        finetune(model, plan, CPU, checkpoints)
    return model


def moments(states: np.ndarray, *chunk: int) -> tuple[np.ndarray, np.ndarray]:
    return mean_and_scale(States(states, np.zeros(len(states))), *chunk)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where states go; no file of them has a name, so that none is left when the process is killed."""
    yield tmp_path / "cache" / "home"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_hugging_faces_in_the_samples_order(
    family: str, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row n, column i is sample n's first-token state after layer i+1, whatever the batches; layer L never runs."""
    model = tiny.model(family, layers=3).train()  # with dropout, which the pass must turn off
    (layers,) = [each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == 3]
    hooks = [module.register_forward_hook(lambda *_: pytest.fail("layer L was run")) for module in layers[-1].modules()]
    monkeypatch.setattr(packs, "PACK_TOKENS", 30)
    with first_token_states(model, ENCODED[:10], "fp32", CPU, scratch) as states:
        assert states.shape == (10, 2, 16) and states.dtype == np.float32
        assert str(scratch) in Path("/proc/self/maps").read_text(), "the states are not on disk"
        assert list(scratch.iterdir()) == []
        found = np.array(states)
    for hook in hooks:
        hook.remove()
    model.eval()
    for n in range(10):
        inputs = ENCODED.padded(np.array([n]), tiny.tokenizer().pad_token_id, CPU)
        del inputs["token_type_ids"]
        with torch.inference_mode():
            theirs = model(**inputs, output_hidden_states=True).hidden_states
        expected = np.stack([hidden[0, 0].numpy() for hidden in theirs[1:-1]])
        np.testing.assert_allclose(found[n], expected, atol=1e-5)


def test_states_in_bf16_are_close(bert: PreTrainedModel, scratch: Path) -> None:
    """bf16 gives float32 arrays of the same states up to its three digits."""
    with first_token_states(bert, ENCODED, "fp32", CPU, scratch) as states:
        exact = np.array(states)
    with first_token_states(bert, ENCODED, "bf16", CPU, scratch) as states:
        close = np.array(states)
    assert close.dtype == np.float32 and not np.array_equal(close, exact)
    np.testing.assert_allclose(close, exact, atol=0.05 * exact.std())


def test_training_ramps_leaves_the_backbone_alone(bert: PreTrainedModel, scratch: Path) -> None:
    """The ramps learn, and the frozen backbone has the same bytes as before their training, and no gradient."""
    model = bert
    before = {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()}
    with first_token_states(model, ENCODED, "fp32", CPU, scratch) as states:
        seen = States(states, LABELS)
        ramps, _ = train_ramps(RampPlan(seen, seen, "accuracy", 2, RAMPS, 1), CPU)
        right = ramps(torch.from_numpy(np.array(states)).transpose(0, 1)).argmax(dim=2).numpy() == LABELS
    assert {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()} == before
    assert all(weight.grad is None or not weight.grad.any() for weight in model.parameters())
    assert right.mean() >= 0.9


def made_states(seed: int = 0, n: int = 300, num_ramps: int = 2, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Standard normal states, of which feature 0 of each ramp tells the label."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((n, num_ramps, width)).astype(np.float32)
    labels = np.arange(n) % 2
    states[:, :, 0] = np.where(labels == 1, 1, -1)[:, None] * (0.5 + np.abs(states[:, :, 0]))
    return states, labels


def trained(states: np.ndarray, labels: np.ndarray, seed: int = 1) -> Ramps:
    unseen = States(*made_states(seed=8, n=50))
    return train_ramps(RampPlan(States(states, labels), unseen, "accuracy", 2, RAMPS, seed), CPU)[0]


def logits_of(ramps: Ramps, states: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return ramps(torch.from_numpy(states).transpose(0, 1)).numpy()


def test_ramps_depend_on_the_seed_and_nothing_else() -> None:
    """Twice the same seed gives identical ramps, in memory or memory-mapped, another seed other ones."""
    states, labels = made_states()
    torch.rand(3)
    with tempfile.NamedTemporaryFile() as file:
        mapped = np.memmap(file, dtype=np.float32, mode="w+", shape=states.shape)
        mapped[:] = states
        made = [trained(s, labels, seed) for s, seed in ((states, 1), (mapped, 1), (states, 2))]
    one, same, other = (ramps.state_dict() for ramps in made)
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert not made[0].training


def test_the_scale_of_a_feature_does_not_matter() -> None:
    """Features scaled by 1e-4 to 1e4 and moved far from 0, one of them constant, are learned as well as plain ones.

    That is what standardising is for; the map is folded into the ramp, which reads the states as they are.
    """
    states, labels = made_states()
    states[:, :, 7] = 0.0
    plain = trained(states, labels)
    factor = np.float32([1e-4, 1e-2, 1, 1e2, 1e3, 1e4, 1e-1, 1])
    offset = np.float32([1e-3, 1, -50, 0, 2e4, -1e5, 0, 1234.567])
    moved = states * factor + offset
    wild = trained(moved, labels)
    unseen, their_labels = made_states(seed=9)
    unseen[:, :, 7] = 0.0
    expected, found = logits_of(plain, unseen), logits_of(wild, unseen * factor + offset)
    assert (expected.argmax(axis=2) == their_labels).mean() >= 0.95
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_folding_is_exact() -> None:
    """A ramp folded with (mean, scale) gives on raw states what it gave on standardised ones."""
    states, labels = made_states()
    states = states * np.float32([1e-3, 1, 10, 100, 1, 1, 1, 0]) + np.float32([0, 5, 0, -300, 0, 0, 0, 1234.567])
    mean, scale = moments(states)
    np.testing.assert_allclose(mean, states.mean(axis=0, dtype=np.float64), atol=1e-9)
    expected_scale = states.std(axis=0, dtype=np.float64)
    expected_scale[:, 7] = 1.0  # the feature that never varies
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-9)
    torch.manual_seed(0)
    ramps = PoolerRamps(2, 8, 2).eval()
    expected = logits_of(ramps, ((states - mean) / scale).astype(np.float32))
    folded = Standard(States(states, labels), CPU).fold(ramps)
    np.testing.assert_allclose(logits_of(folded, states), expected, atol=2e-4)


def test_moments_do_not_depend_on_the_chunk() -> None:
    """Mean and scale are those of all samples, however few are read at a time."""
    states, _ = made_states(n=50)
    for chunk in (1, 7, 50, 1000):
        for found, expected in zip(moments(states, chunk), moments(states), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_feature_that_never_varies_has_scale_1() -> None:
    """However many samples and whatever its level, rounding never passes for a spread, be it float32's or ours."""
    levels = np.random.default_rng(0).normal(scale=1000, size=64).astype(np.float32)
    constant = np.tile(levels, (8000, 1, 1))
    mean, scale = moments(constant)
    assert (scale == 1.0).all()
    np.testing.assert_allclose(mean[0], levels, rtol=1e-12)
    constant[::2] = np.nextafter(constant[::2], np.float32(0))
    assert (moments(constant)[1] == 1.0).all()


def test_a_loss_that_is_not_finite_stops_the_ramps() -> None:
    """States that are not finite end the ramps' training with one line."""
    states, labels = made_states()
    states[3, 1, 2] = np.inf
    with pytest.raises(UserError, match=r"^train_ramps: the loss is nan"), np.errstate(invalid="ignore"):
        trained(states, labels)


def test_ramps_that_are_not_finite_are_not_saved() -> None:
    """A last step that overflows ends the ramps' training with one line, although no loss has seen it."""
    one_step = dataclasses.replace(RAMPS, epochs=1, batch_size=1000, learning_rate=1e39)
    with pytest.raises(UserError, match=r"^train_ramps: the weights are not finite; try a lower learning_rate"):
        train_ramps(RampPlan(States(*made_states()), States(*made_states(seed=9)), "accuracy", 2, one_step, 1), CPU)


def test_the_curve_of_the_ramps() -> None:
    """Every ramp's loss falls, every epoch is scored, and the last scores are those of the ramps returned."""
    seen, unseen = States(*made_states()), States(*made_states(seed=9))
    ramps, rows = train_ramps(RampPlan(seen, unseen, "accuracy", 2, RAMPS, 1), CPU)
    right = (logits_of(ramps, unseen.states).argmax(axis=2) == unseen.labels).mean(axis=1)
    for layer in (1, 2):
        losses = [row for row in rows if row["layer"] == layer and row["split"] == "train"]
        scores = [row for row in rows if row["layer"] == layer and row["split"] == "validation"]
        assert len(losses) == CURVE_POINTS and losses[-1]["value"] < 0.8 * losses[0]["value"]
        assert [(row["epoch"], row["step"]) for row in scores] == [(epoch, 10 * epoch) for epoch in range(1, 11)]
        assert scores[-1]["value"] == pytest.approx(right[layer - 1])
    assert rows == train_ramps(RampPlan(seen, unseen, "accuracy", 2, RAMPS, 1), CPU)[1]


def test_a_line_per_epoch(caplog: pytest.LogCaptureFixture) -> None:
    """With no terminal, the ramps' training says one thing per epoch, with the scores of three of them."""
    caplog.set_level(logging.INFO)
    seen = States(*made_states(num_ramps=5))
    train_ramps(RampPlan(seen, seen, "accuracy", 2, dataclasses.replace(RAMPS, epochs=2), 1), CPU)
    told = [record.getMessage() for record in caplog.records]
    for line, epoch in zip(told, "12", strict=True):
        scores = ", ".join(rf"[01]\.\d{{4}} after layer {layer}" for layer in (1, 3, 5))
        assert re.fullmatch(rf"epoch {epoch} of 2: training loss \d\.\d{{4}}, validation accuracy {scores}", line)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref]:
    """References to all that is copied from here on."""
    made: list[weakref.ref] = []
    original = copy.deepcopy

    def noted(thing: Any, *memo: Any) -> Any:
        twin = original(thing, *memo)
        if isinstance(thing, PreTrainedModel):
            made.append(weakref.ref(twin))
        return twin

    monkeypatch.setattr(copy, "deepcopy", noted)
    return made


def test_the_copy_of_the_backbone_is_gone(bert: PreTrainedModel, scratch: Path, copies: list[weakref.ref]) -> None:
    """While ramps train nothing holds the copy that the frozen pass was made with."""
    with first_token_states(bert, ENCODED[:10], "fp32", CPU, scratch):
        gc.collect()
        assert [copied() for copied in copies] == [None]


def test_where_space_cannot_be_taken_at_once(
    bert: PreTrainedModel, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without posix_fallocate, as macOS, has the file filled; the states are the same."""
    with first_token_states(bert, ENCODED, "fp32", CPU, scratch) as states:
        expected = np.array(states)
    monkeypatch.delattr(os, "posix_fallocate")
    with first_token_states(bert, ENCODED, "fp32", CPU, scratch) as states:
        np.testing.assert_array_equal(states, expected)


def test_no_room_for_the_states(bert: PreTrainedModel, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one line that names the folder and the variable which names another; nothing is left there."""

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    told = (
        f"^{re.escape(str(scratch))}: no room for .* GB of states: No space left on device; DEEBERT_CHECKPOINTS names"
    )
    with pytest.raises(UserError, match=told), first_token_states(bert, ENCODED, "fp32", CPU, scratch):
        pass


def test_decay_is_per_sample_and_never_more_than_a_weight(caplog: pytest.LogCaptureFixture) -> None:
    """It falls with the number of samples; with very few a step takes half of a weight, and a line says so."""
    assert decay_per_rate(25_000.0, 50_000, 1e-3) == 0.5
    assert decay_per_rate(25_000.0, 50, 1e-3) == 500.0 and not caplog.records
    for num_samples in (1, 10, 25, 49):
        assert 1e-3 * decay_per_rate(25_000.0, num_samples, 1e-3) == pytest.approx(MAX_DECAY_PER_STEP)
    assert "weight_decay: 25000 is too much for 49 samples" in caplog.messages[-1]


def test_few_samples_do_not_spoil_the_ramps() -> None:
    """With the default decay and 12 samples the weights shrink from step to step instead of overshooting."""
    states, labels = made_states(n=12)
    settings = dataclasses.replace(RAMPS, weight_decay=25_000.0, epochs=40)
    seen = States(states, labels)
    ramps, _ = train_ramps(RampPlan(seen, seen, "accuracy", 2, settings, 1), CPU)
    assert all(weight.abs().max() < 10 for weight in ramps.parameters())


def trained_with(**changed):
    seen = States(*made_states())
    return train_ramps(
        RampPlan(seen, States(*made_states(seed=9)), "accuracy", 2, dataclasses.replace(RAMPS, **changed), 1), CPU
    )[0]


def size_of(ramps) -> float:
    return sum(float(weight.detach().square().sum()) for weight in ramps.parameters())


def test_decay_makes_weights_smaller() -> None:
    """The more of it, the smaller they are."""
    sizes = [size_of(trained_with(weight_decay=decay)) for decay in (0.0, 300.0, 3000.0)]
    assert sizes[0] > 1.1 * sizes[1] > 1.1 * sizes[2]


def test_the_rate_falls_in_a_line_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    rates, original = [], torch.optim.AdamW.step

    def step(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    trained_with()
    np.testing.assert_allclose(rates, 0.01 * (1 - np.arange(100) / 100), atol=1e-9)


def test_ramps_train_with_dropout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which changes what they learn, and is gone afterwards."""
    with_it = trained_with()
    monkeypatch.setattr(pooler_ramps, "DROPOUT", 0.0)
    without = trained_with()
    assert not any(torch.equal(a, b) for a, b in zip(with_it.parameters(), without.parameters(), strict=True))


@pytest.fixture
def run_of_ramps(monkeypatch: pytest.MonkeyPatch):
    """The trainings of ramps, as they begin."""
    begun, original = [], pooler_ramps._Run.__init__
    monkeypatch.setattr(
        pooler_ramps._Run, "__init__", lambda self, *given: (begun.append(self), original(self, *given))[1]
    )
    return begun


def test_an_epoch_has_every_sample_once_in_an_order_of_its_own(run_of_ramps) -> None:
    trained_with(epochs=1)
    orders = [np.concatenate([*run_of_ramps[0].epoch_batches()]) for _ in range(2)]
    assert all(sorted(order) == list(range(300)) for order in orders)
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], np.arange(300))


def test_a_point_is_the_mean_of_the_steps_since_the_one_before(run_of_ramps) -> None:
    seen = States(*made_states())
    _, rows = train_ramps(RampPlan(seen, seen, "accuracy", 2, RAMPS, 1), CPU)  # 100 steps, 50 points
    told = [row["value"] for row in rows if (row["layer"], row["split"]) == (2, "train")]
    np.testing.assert_allclose(told, run_of_ramps[0].losses[:, 1].view(50, 2).mean(dim=1), rtol=1e-6)


@pytest.mark.parametrize(("kind", "has_recipe"), [("linear", False), ("pooler", True), ("of a later version", True)])
def test_the_record_has_the_settings_that_had_a_part(kind: str, has_recipe: bool) -> None:
    """Ramps trained to their optimum have no recipe; any others would lose theirs without a word."""
    read = settings_read(dataclasses.replace(RAMPS, ramp=kind))
    assert read == ({**vars(RAMPS), "ramp": kind} if has_recipe else {"ramp": kind})
