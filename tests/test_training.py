"""Both trainings learn, repeat to the bit, leave the frozen backbone alone and stop on a loss that is not finite."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from deebert.backbones import Recipe, family_of
from deebert.devices import autocast, resolve_precision
from deebert.errors import UserError
from deebert.inputs import encode
from deebert.model import DeeBert, Ramps, all_logits
from deebert.params import TrainRamps
from deebert.training import _folded, _mean_and_scale, finetune, first_token_states, train_ramps
from tests import tiny

RECIPE = Recipe(epochs=10, learning_rate=1e-2, batch_size=16)
RAMPS = TrainRamps(epochs=10, learning_rate=0.01, batch_size=32, weight_decay=0.01, precision="fp32")
TOKENIZER = tiny.tokenizer()
TRAIN = tiny.samples(96)
ENCODED = encode(TOKENIZER, TRAIN, ["sentence"])
LABELS = TRAIN["label"].to_numpy()


def tuned(seed: int) -> tuple[PreTrainedModel, dict[str, Any]]:
    model = tiny.model("bert", layers=2, initializer_range=0.1)
    model.config.id2label = {0: "no", 1: "yes"}
    return model, finetune(model, TOKENIZER, ENCODED, LABELS, RECIPE, seed, "fp32")


@pytest.fixture(scope="module")
def bert() -> tuple[PreTrainedModel, dict[str, Any]]:
    """A fine-tuned model; no test changes it."""
    return tuned(seed=1)


def accuracy(model: PreTrainedModel) -> float:
    """Of the model's own head, on samples not seen in training."""
    unseen = tiny.samples(64, seed=5)
    with_ramps = DeeBert(model, Ramps(model.config.num_hidden_layers - 1, 16, 2))
    logits = all_logits(with_ramps, TOKENIZER, encode(TOKENIZER, unseen, ["sentence"]), 1000)
    return float((logits[:, -1].argmax(axis=1) == unseen["label"]).mean())


def test_finetuning_learns(bert: tuple[PreTrainedModel, dict[str, Any]]) -> None:
    """A separable task is learned to the point of being right on unseen samples, and the label names stay."""
    model, how = bert
    assert accuracy(model) >= 0.95
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert {"seed": 1, "precision": "fp32", "learning_rate": 1e-2, "epochs": 10}.items() <= how.items()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn(family: str) -> None:
    """RoBERTa and DistilBERT are fine-tuned by the same lines; here with bf16 products and float32 weights."""
    model = tiny.model(family, layers=2, initializer_range=0.1)
    products = set()
    linear = next(module for module in model.modules() if isinstance(module, torch.nn.Linear))
    hook = linear.register_forward_hook(lambda *arguments: products.add(arguments[-1].dtype))
    how = finetune(model, TOKENIZER, ENCODED, LABELS, RECIPE, 1, "bf16")
    hook.remove()
    assert products == {torch.bfloat16} and how["precision"] == "bf16"
    assert accuracy(model) >= 0.95
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_seed_decides_the_weights(bert: tuple[PreTrainedModel, dict[str, Any]]) -> None:
    """The same seed gives identical weights whatever ran before, another seed other ones."""
    torch.rand(7)
    again, other = (tuned(seed)[0].state_dict() for seed in (1, 2))
    assert all(torch.equal(weight, again[name]) for name, weight in bert[0].state_dict().items())
    assert any(not torch.equal(weight, other[name]) for name, weight in bert[0].state_dict().items())


@pytest.mark.parametrize("epochs", [1, 9])
def test_a_loss_that_is_not_finite_stops_finetuning(epochs: int) -> None:
    """Seen at the next report of the loss or, in a short run, at the end: one line that says what to change."""
    recipe = Recipe(epochs=epochs, learning_rate=1e30, batch_size=16)
    with pytest.raises(
        UserError, match=r"^finetune_backbone: the .* not finite.*learning_rate|the loss is nan at step"
    ):
        finetune(tiny.model("bert", layers=2), TOKENIZER, ENCODED, LABELS, recipe, 1, "fp32")


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; left empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_hugging_faces_in_the_samples_order(family: str, scratch: Path) -> None:
    """Row n, column i is sample n's first-token state after layer i+1, whatever the batches; layer L never runs."""
    model = tiny.model(family, layers=3).train()  # with dropout, which the pass must turn off
    last = family_of(model).layers(model)[-1]
    last.register_forward_hook(lambda *_: pytest.fail("layer L was run"))
    with first_token_states(model, TOKENIZER, ENCODED[:10], "fp32", batch_tokens=30) as states:
        assert states.shape == (10, 2, 16) and states.dtype == np.float32
        assert list(scratch.iterdir()), "the states are not on disk"
        found = np.array(states)
    last._forward_hooks.clear()
    for n, sample in enumerate(ENCODED[:10]):
        inputs = {name: torch.tensor([values]) for name, values in sample.items() if name != "token_type_ids"}
        with torch.inference_mode():
            theirs = model(**inputs, output_hidden_states=True).hidden_states
        expected = np.stack([hidden[0, 0].numpy() for hidden in theirs[1:-1]])
        np.testing.assert_allclose(found[n], expected, atol=1e-5)


def test_states_in_bf16_are_close(bert: tuple[PreTrainedModel, dict[str, Any]]) -> None:
    """bf16 gives float32 arrays of the same states up to its three digits."""
    with first_token_states(bert[0], TOKENIZER, ENCODED, "fp32") as states:
        exact = np.array(states)
    with first_token_states(bert[0], TOKENIZER, ENCODED, "bf16") as states:
        close = np.array(states)
    assert close.dtype == np.float32 and not np.array_equal(close, exact)
    np.testing.assert_allclose(close, exact, atol=0.05 * exact.std())


def test_training_ramps_leaves_the_backbone_alone(bert: tuple[PreTrainedModel, dict[str, Any]]) -> None:
    """The ramps learn, and the frozen backbone has the same bytes as before their training, and no gradient."""
    model = bert[0]
    before = {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()}
    with first_token_states(model, TOKENIZER, ENCODED, "fp32") as states:
        ramps = train_ramps(states, LABELS, 2, RAMPS, seed=1)
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
        made = [train_ramps(s, labels, 2, RAMPS, seed) for s, seed in ((states, 1), (mapped, 1), (states, 2))]
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
    plain = train_ramps(states, labels, 2, RAMPS, seed=1)
    factor = np.float32([1e-4, 1e-2, 1, 1e2, 1e3, 1e4, 1e-1, 1])
    offset = np.float32([1e-3, 1, -50, 0, 2e4, -1e5, 0, 1234.567])
    moved = states * factor + offset
    wild = train_ramps(moved, labels, 2, RAMPS, seed=1)
    unseen, their_labels = made_states(seed=9)
    unseen[:, :, 7] = 0.0
    expected, found = logits_of(plain, unseen), logits_of(wild, unseen * factor + offset)
    assert (expected.argmax(axis=2) == their_labels).mean() >= 0.95
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_folding_is_exact() -> None:
    """A ramp folded with (mean, scale) gives on raw states what it gave on standardised ones."""
    states, _ = made_states()
    states = states * np.float32([1e-3, 1, 10, 100, 1, 1, 1, 0]) + np.float32([0, 5, 0, -300, 0, 0, 0, 1234.567])
    mean, scale = _mean_and_scale(states)
    np.testing.assert_allclose(mean, states.mean(axis=0, dtype=np.float64), atol=1e-9)
    expected_scale = states.std(axis=0, dtype=np.float64)
    expected_scale[:, 7] = 1.0  # the feature that never varies
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-9)
    torch.manual_seed(0)
    ramps = Ramps(2, 8, 2).eval()
    expected = logits_of(ramps, ((states - mean) / scale).astype(np.float32))
    np.testing.assert_allclose(logits_of(_folded(ramps, mean, scale), states), expected, atol=2e-4)


def test_moments_do_not_depend_on_the_chunk() -> None:
    """Mean and scale are those of all samples, however few are read at a time."""
    states, _ = made_states(n=50)
    for chunk in (1, 7, 50, 1000):
        for found, expected in zip(_mean_and_scale(states, chunk), _mean_and_scale(states), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_a_feature_that_never_varies_has_scale_1() -> None:
    """However many samples and whatever its level, rounding never passes for a spread, be it float32's or ours."""
    levels = np.random.default_rng(0).normal(scale=1000, size=64).astype(np.float32)
    constant = np.tile(levels, (8000, 1, 1))
    mean, scale = _mean_and_scale(constant)
    assert (scale == 1.0).all()
    np.testing.assert_allclose(mean[0], levels, rtol=1e-12)
    constant[::2] = np.nextafter(constant[::2], np.float32(0))
    assert (_mean_and_scale(constant)[1] == 1.0).all()


def test_a_loss_that_is_not_finite_stops_the_ramps() -> None:
    """States that are not finite end the ramps' training with one line."""
    states, labels = made_states()
    states[3, 1, 2] = np.inf
    with pytest.raises(UserError, match=r"^train_ramps: the loss is nan"), np.errstate(invalid="ignore"):
        train_ramps(states, labels, 2, RAMPS, seed=1)


def test_precision() -> None:
    """A precision asked for is the one in use; auto is one of the two; bf16 is of products, not of weights."""
    device = torch.device("cpu")
    assert [resolve_precision(wanted, device) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto", device) in ("fp32", "bf16")
    one = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, device):
            assert (one @ one).dtype == dtype
