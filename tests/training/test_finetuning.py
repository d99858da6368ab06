"""Both trainings learn, repeat to the bit, tell how they go, leave the frozen backbone alone and stop on a bad loss."""

import dataclasses
import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from deebert.encoders.backbones import Recipe, family_of
from safetensors.torch import load_file
from transformers import PreTrainedModel

from deebert.base.devices import autocast, resolve_precision
from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.data.encoded import encode
from deebert.model import DeeBert, Ramps, all_logits
from deebert.settings.train_ramps import TrainRamps
from deebert.training import processes
from deebert.training.checkpoints import Checkpoints
from deebert.training.cpu_step import WordGradient
from deebert.training.finetuning import Plan, Samples, _adamw, _epoch_batches, _key, _rate, _step, finetune
from deebert.training.ramp_training import States, _folded, _mean_and_scale, first_token_states, train_ramps
from deebert.training.records import CURVE_POINTS, curve_points
from tests import tiny

ROOT = Path(__file__).parents[2]

RECIPE = Recipe(epochs=10, learning_rate=1e-2, batch_size=16)
RAMPS = TrainRamps(epochs=10, learning_rate=0.01, batch_size=32, weight_decay=0.01, precision="fp32")
TOKENIZER = tiny.tokenizer()
TRAIN = tiny.samples(96)
ENCODED = encode(TOKENIZER, TRAIN, ["sentence"])
LABELS = TRAIN["label"].to_numpy()
UNSEEN = tiny.samples(64, seed=5)
PLAN = Plan(
    TOKENIZER,
    train=Samples(ENCODED, LABELS),
    validation=Samples(encode(TOKENIZER, UNSEEN, ["sentence"]), UNSEEN["label"].to_numpy()),
    metric="accuracy",
    recipe=RECIPE,
    seed=1,
    precision="fp32",
)
Tuned = tuple[PreTrainedModel, dict[str, Any], list[dict[str, Any]]]


def tuned(plan: Plan = PLAN, family: str = "bert") -> Tuned:
    """A tiny model after fine-tuning, and what `finetune` returned."""
    model = tiny.model(family, layers=2, initializer_range=0.1)
    model.config.id2label = {0: "no", 1: "yes"}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder, "checkpoints", "home")) as checkpoints:
        return model, *finetune(model, plan, checkpoints)


@pytest.fixture(scope="module")
def bert() -> Tuned:
    """A fine-tuned model; no test changes it."""
    return tuned()


def accuracy(model: PreTrainedModel) -> float:
    """Of the model's own head, on samples not seen in training."""
    with_ramps = DeeBert(model, Ramps(model.config.num_hidden_layers - 1, 16, 2))
    logits = all_logits(with_ramps, PLAN.validation.encoded, TOKENIZER.pad_token_id, 1000)
    return float((logits[:, -1].argmax(axis=1) == PLAN.validation.labels).mean())


def test_finetuning_learns(bert: Tuned) -> None:
    """A separable task is learned to the point of being right on unseen samples, and the label names stay."""
    model, how, _ = bert
    assert accuracy(model) >= 0.95
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert {"seed": 1, "precision": "fp32", "learning_rate": 1e-2, "epochs": 10}.items() <= how.items()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn(family: str) -> None:
    """RoBERTa and DistilBERT are fine-tuned by the same lines; here with bf16 products and float32 weights."""
    products = set()

    def note(module: torch.nn.Module, _inputs: object, product: object) -> None:
        if isinstance(module, torch.nn.Linear):
            products.add(product.dtype)

    hook = torch.nn.modules.module.register_module_forward_hook(note)
    model, how, _ = tuned(dataclasses.replace(PLAN, precision="bf16"), family)
    hook.remove()
    assert products == {torch.bfloat16} and how["precision"] == "bf16"
    assert accuracy(model) >= 0.95
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_the_seed_decides_the_weights(bert: Tuned) -> None:
    """The same seed gives identical weights whatever ran before, another seed other ones."""
    torch.rand(7)
    again, other = (tuned(dataclasses.replace(PLAN, seed=seed))[0].state_dict() for seed in (1, 2))
    assert all(torch.equal(weight, again[name]) for name, weight in bert[0].state_dict().items())
    assert any(not torch.equal(weight, other[name]) for name, weight in bert[0].state_dict().items())


@pytest.mark.parametrize("epochs", [1, 9])
def test_a_loss_that_is_not_finite_stops_finetuning(epochs: int) -> None:
    """Seen at the next point of the curve: one line that says what to change."""
    recipe = Recipe(epochs=epochs, learning_rate=1e30, batch_size=16)
    with pytest.raises(UserError, match=r"^finetune_backbone: the loss is (nan|inf), .*not finite.*learning_rate"):
        tuned(dataclasses.replace(PLAN, recipe=recipe))


def test_weights_that_are_not_finite_are_not_saved() -> None:
    """A step that spoils the weights leaves a finite loss behind it; they are looked at before they are saved."""
    recipe = Recipe(epochs=0.1, learning_rate=float("inf"), batch_size=16)
    with pytest.raises(UserError, match=r"^finetune_backbone: the weights are not finite; try a lower learning_rate"):
        tuned(dataclasses.replace(PLAN, recipe=recipe))


def test_the_curve_of_finetuning(bert: Tuned) -> None:
    """The loss falls over CURVE_POINTS points, each epoch is scored, and the last score is the model's own."""
    model, _, rows = bert
    losses = [row for row in rows if row["split"] == "train"]
    scores = [row for row in rows if row["split"] == "validation"]
    assert {(row["metric"], type(row["value"])) for row in losses} == {("loss", float)}
    assert len(losses) == CURVE_POINTS and losses[-1]["value"] < 0.5 * losses[0]["value"]
    assert [row["step"] for row in losses] == sorted(curve_points(60)) and losses[-1]["epoch"] == 10.0
    assert [(row["epoch"], row["step"], row["metric"]) for row in scores] == [
        (epoch, 6 * epoch, "accuracy") for epoch in range(1, 11)
    ]
    assert scores[-1]["value"] == accuracy(model)
    assert rows == tuned()[2]


def test_a_line_per_epoch(caplog: pytest.LogCaptureFixture) -> None:
    """With no terminal, fine-tuning says one thing per epoch, the last part of one included; so do the ramps."""
    caplog.set_level(logging.INFO)
    tuned(dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, epochs=2.5)))
    told = [record.getMessage() for record in caplog.records]
    for line, epoch in zip(told, ("1", "2", "2.5"), strict=True):
        assert re.fullmatch(
            rf"epoch {epoch} of 2\.5: training loss \d\.\d{{4}}, validation accuracy [01]\.\d{{4}}", line
        )
    caplog.clear()
    seen = States(*made_states(num_ramps=5))
    train_ramps(seen, seen, "accuracy", 2, dataclasses.replace(RAMPS, epochs=2), seed=1)
    told = [record.getMessage() for record in caplog.records]
    for line, epoch in zip(told, "12", strict=True):
        scores = ", ".join(rf"[01]\.\d{{4}} after layer {layer}" for layer in (1, 3, 5))
        assert re.fullmatch(rf"epoch {epoch} of 2: training loss \d\.\d{{4}}, validation accuracy {scores}", line)


@pytest.mark.parametrize("steps", [1, 7, CURVE_POINTS, 149, 1000])
def test_points_of_the_curve(steps: int) -> None:
    """At most CURVE_POINTS spans, as even as can be, that cover every step once."""
    points = curve_points(steps)
    covered = [step for end, start in points.items() for step in range(start, end)]
    assert covered == list(range(steps))
    assert len(points) == min(steps, CURVE_POINTS)
    lengths = [end - start for end, start in points.items()]
    assert max(lengths) - min(lengths) <= 1


def test_an_epoch_has_every_sample_once() -> None:
    """Batches are full but for the last, differ by epoch and seed, and do not depend on what was drawn before."""
    counts = np.random.default_rng(0).integers(3, 20, 100)
    batches = _epoch_batches(counts, 16, 1, 0)
    assert [len(batch) for batch in batches] == [16] * 6 + [4]
    assert sorted(np.concatenate(batches)) == list(range(100))
    torch.rand(5)
    again = np.concatenate(_epoch_batches(counts, 16, 1, 0))
    assert np.array_equal(again, np.concatenate(batches))
    for seed, epoch in ((1, 1), (2, 0)):
        assert not np.array_equal(again, np.concatenate(_epoch_batches(counts, 16, seed, epoch)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_buffer_of_the_words_gradient_changes_no_bit(family: str) -> None:
    """Steps with it leave the bytes that steps with PyTorch's own dense gradient leave."""
    weights = []
    for has_buffer in (False, True):
        model = tiny.model(family, layers=2).train()
        optimizer = _adamw(model, RECIPE)
        words = WordGradient(model) if has_buffer else None
        for step, rows in enumerate(_epoch_batches(np.ones(96), 16, 1, 0)):
            torch.manual_seed(step)
            _step(model, PLAN, rows, optimizer, words)
        weights.append(model.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_learning_rate() -> None:
    """Up in a line over the warm-up, then down in a line to 0 at the end; without warm-up only down."""
    assert [_rate(step, 10, 4) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose([_rate(step, 10, 4) for step in range(4, 11)], np.linspace(1, 0, 7))
    assert [_rate(step, 2, 0) for step in range(3)] == [1, 0.5, 0]


def other_weights(model: PreTrainedModel) -> None:
    model.classifier.bias.data[0] += 1e-3


def other_config(model: PreTrainedModel) -> None:
    model.config.hidden_dropout_prob = 0.2


def test_key_of_the_checkpoints() -> None:
    """Any change of what weights or curve depend on gives another key, and the same gives the same."""

    def key(change: Callable[[PreTrainedModel], None] | None = None, record: int = 1, **changed: Any) -> str:
        model = tiny.model("bert", layers=2)
        if change:
            change(model)
        return _key({"seed": record}, model, dataclasses.replace(PLAN, **changed))

    swapped = ENCODED.take(np.array([1, 0, *range(2, len(ENCODED))]))
    keys = [
        key(),
        key(record=2),
        key(other_weights),
        key(other_config),
        key(metric="f1"),
        key(train=Samples(ENCODED[:-1], LABELS[:-1])),
        key(train=Samples(swapped, LABELS)),
        key(train=Samples(ENCODED, 1 - LABELS)),
        key(validation=Samples(ENCODED, LABELS)),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]


@pytest.fixture(scope="module")
def without_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model has no dropout, which draws other numbers in each process; not yet fine-tuned."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "data" / "glue").mkdir(parents=True)
    tiny.data(sizes=(65, 16, 16)).save(folder / "data" / "glue")  # a last batch of 1, too few for 2 processes
    tiny.write_model(folder / "start", layers=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["model"] = "./start"
    settings = {"epochs": 2, "learning_rate": 1e-3, "max_length": 24, "batch_size": 16, "precision": "fp32"}
    content["finetune_backbone"] |= settings
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return folder


def run_finetuning(folder: Path, out: str, count: int) -> subprocess.CompletedProcess[str]:
    """Run the stage's script in `folder`, with outputs in `out`, as `DEEBERT_PROCESSES=... dvc repro` does."""
    command = [sys.executable, str(ROOT / "stages/finetune_backbone.py"), "data/glue", f"{out}/backbone", f"{out}/rows"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "DEEBERT_PROCESSES": str(count),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_two_processes_train_as_one(without_dropout: Path) -> None:
    """The batch is the whole of all processes': losses, scores and weights agree with one process' up to rounding."""
    for out, count in (("one", 1), ("two", 2)):
        done = run_finetuning(without_dropout, out, count)
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("epoch 2 of 2") == 1, "not only the first process tells how it goes"
    assert not (without_dropout / ".cache").exists()
    one, two = (read_json(without_dropout / out / "rows") for out in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["value"] == pytest.approx(theirs["value"], rel=1e-5)
        assert {**ours, "value": 0} == {**theirs, "value": 0}
    one, two = (load_file(without_dropout / out / "backbone" / "model.safetensors") for out in ("one", "two"))
    for name, weight in one.items():
        if name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding, which AdamW scales up to a step
            continue
        torch.testing.assert_close(weight, two[name], rtol=1e-3, atol=1e-5)
    hows = [read_json(without_dropout / out / "backbone" / "training.json") for out in ("one", "two")]
    assert [how.pop("processes") for how in hows] == [1, 2] and hows[0] == hows[1]


@pytest.mark.parametrize("wanted", ["0", "two", "-1", "1.5", ""])
def test_wrong_number_of_processes(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    """What is no number of processes is one line that names the variable."""
    monkeypatch.setenv("DEEBERT_PROCESSES", wanted)
    with pytest.raises(UserError, match=f"^DEEBERT_PROCESSES: '{wanted}' is not allowed; expected a whole number"):
        processes.launch()


def test_a_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is no multiple of the number of processes is one line that names both, before any work."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = "^finetune_backbone.batch_size: 16 samples cannot be shared by 3 processes; expected a multiple of 3$"
    with pytest.raises(UserError, match=told):
        tuned()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary files go; none of them has a name, so that none is left when the process is killed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_hugging_faces_in_the_samples_order(family: str, scratch: Path) -> None:
    """Row n, column i is sample n's first-token state after layer i+1, whatever the batches; layer L never runs."""
    model = tiny.model(family, layers=3).train()  # with dropout, which the pass must turn off
    last = family_of(model).layers(model)[-1]
    hooks = [module.register_forward_hook(lambda *_: pytest.fail("layer L was run")) for module in last.modules()]
    with first_token_states(model, ENCODED[:10], "fp32", pack_tokens=30) as states:
        assert states.shape == (10, 2, 16) and states.dtype == np.float32
        assert str(scratch) in Path("/proc/self/maps").read_text(), "the states are not on disk"
        assert list(scratch.iterdir()) == []
        found = np.array(states)
    for hook in hooks:
        hook.remove()
    model.eval()
    for n in range(10):
        inputs = ENCODED.padded(np.array([n]), TOKENIZER.pad_token_id, torch.device("cpu"))
        del inputs["token_type_ids"]
        with torch.inference_mode():
            theirs = model(**inputs, output_hidden_states=True).hidden_states
        expected = np.stack([hidden[0, 0].numpy() for hidden in theirs[1:-1]])
        np.testing.assert_allclose(found[n], expected, atol=1e-5)


def test_states_in_bf16_are_close(bert: Tuned) -> None:
    """bf16 gives float32 arrays of the same states up to its three digits."""
    with first_token_states(bert[0], ENCODED, "fp32") as states:
        exact = np.array(states)
    with first_token_states(bert[0], ENCODED, "bf16") as states:
        close = np.array(states)
    assert close.dtype == np.float32 and not np.array_equal(close, exact)
    np.testing.assert_allclose(close, exact, atol=0.05 * exact.std())


def test_training_ramps_leaves_the_backbone_alone(bert: Tuned) -> None:
    """The ramps learn, and the frozen backbone has the same bytes as before their training, and no gradient."""
    model = bert[0]
    before = {name: weight.numpy().tobytes() for name, weight in model.state_dict().items()}
    with first_token_states(model, ENCODED, "fp32") as states:
        seen = States(states, LABELS)
        ramps, _ = train_ramps(seen, seen, "accuracy", 2, RAMPS, seed=1)
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
    return train_ramps(States(states, labels), unseen, "accuracy", 2, RAMPS, seed)[0]


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
        trained(states, labels)


def test_ramps_that_are_not_finite_are_not_saved() -> None:
    """A last step that overflows ends the ramps' training with one line, although no loss has seen it."""
    one_step = dataclasses.replace(RAMPS, epochs=1, batch_size=1000, learning_rate=1e30, weight_decay=1e30)
    with pytest.raises(UserError, match=r"^train_ramps: the weights are not finite; try a lower learning_rate"):
        train_ramps(States(*made_states()), States(*made_states(seed=9)), "accuracy", 2, one_step, 1)


def test_the_curve_of_the_ramps() -> None:
    """Every ramp's loss falls, every epoch is scored, and the last scores are those of the ramps returned."""
    seen, unseen = States(*made_states()), States(*made_states(seed=9))
    ramps, rows = train_ramps(seen, unseen, "accuracy", 2, RAMPS, seed=1)
    right = (logits_of(ramps, unseen.states).argmax(axis=2) == unseen.labels).mean(axis=1)
    for layer in (1, 2):
        losses = [row for row in rows if row["layer"] == layer and row["split"] == "train"]
        scores = [row for row in rows if row["layer"] == layer and row["split"] == "validation"]
        assert len(losses) == CURVE_POINTS and losses[-1]["value"] < 0.8 * losses[0]["value"]
        assert [(row["epoch"], row["step"]) for row in scores] == [(epoch, 10 * epoch) for epoch in range(1, 11)]
        assert scores[-1]["value"] == pytest.approx(right[layer - 1])
    assert rows == train_ramps(seen, unseen, "accuracy", 2, RAMPS, seed=1)[1]


def test_precision() -> None:
    """A precision asked for is the one in use; auto is one of the two; bf16 is of products, not of weights."""
    device = torch.device("cpu")
    assert [resolve_precision(wanted, device) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto", device) in ("fp32", "bf16")
    one = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, device):
            assert (one @ one).dtype == dtype
