"""Fine-tuning learns, repeats to the bit, tells how it goes, stops on a bad loss, and minimises what it is told to."""

import dataclasses
import logging
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import PreTrainedModel

from deebert.base.devices import autocast, resolve_precision
from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.base.recipe import Recipe
from deebert.data.encoded import encode
from deebert.training.checkpoints import Checkpoints
from deebert.training.launch import VARIABLE, launch
from deebert.training.loop import epoch_batches, finetune, rate
from deebert.training.objective import find
from deebert.training.plan import Plan, Samples, key
from deebert.training.records import CURVE_POINTS, curve_points, whole_steps
from deebert.training.step import Training
from tests import tiny
from tests.starting import write_start

ROOT = Path(__file__).parents[2]

RECIPE = Recipe(epochs=10, learning_rate=1e-2, batch_size=16)
CPU = torch.device("cpu")
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
    objective=find("full_depth"),
)
Tuned = tuple[PreTrainedModel, dict[str, Any], list[dict[str, Any]]]


def tuned(plan: Plan = PLAN, family: str = "bert") -> Tuned:
    """A tiny model after fine-tuning, and what `finetune` returned."""
    model = tiny.model(family, layers=2, initializer_range=0.1)
    model.config.id2label = {0: "no", 1: "yes"}
    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder, "checkpoints", "home")) as checkpoints:
        return model, *finetune(model, plan, CPU, checkpoints)


@pytest.fixture(scope="module")
def bert() -> Tuned:
    """A fine-tuned model; no test changes it."""
    return tuned()


def accuracy(model: PreTrainedModel) -> float:
    """Of the model's own head, on samples not seen in training."""
    encoded = PLAN.validation.encoded
    with torch.inference_mode():
        logits = model.eval()(**encoded.padded(np.arange(len(encoded)), TOKENIZER.pad_token_id, CPU)).logits
    return float((logits.argmax(dim=1).numpy() == PLAN.validation.labels).mean())


def test_finetuning_learns(bert: Tuned) -> None:
    """A separable task is learned to the point of being right on unseen samples, and the label names stay."""
    model, how, _ = bert
    assert accuracy(model) >= 0.95
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert {"seed": 1, "precision": "fp32", "learning_rate": 1e-2, "epochs": 10}.items() <= how.items()
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


def test_a_recipe_may_have_its_own_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order round otherwise: so what has to be the same on every machine names the number."""
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    for cpu_threads in (None, 1):
        tuned(dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, epochs=0.2, cpu_threads=cpu_threads)))
    assert threads == [1]


@pytest.mark.parametrize("family", ["roberta", "distilbert"])
def test_other_families_learn(family: str) -> None:
    """RoBERTa and DistilBERT are fine-tuned by the same lines; here with bf16 products and float32 weights."""
    products = set()

    def note(module: torch.nn.Module, _inputs: object, product: object) -> None:
        is_probe = not torch.is_grad_enabled() and not torch.is_inference_mode_enabled()  # for the last layer's cut
        if isinstance(module, torch.nn.Linear) and not is_probe:
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
    """With no terminal, fine-tuning says one thing per epoch, the last part of one included."""
    caplog.set_level(logging.INFO)
    tuned(dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, epochs=2.5)))
    told = [record.getMessage() for record in caplog.records]
    for line, epoch in zip(told, ("1", "2", "2.5"), strict=True):
        assert re.fullmatch(
            rf"epoch {epoch} of 2\.5: training loss \d\.\d{{4}}, validation accuracy [01]\.\d{{4}}", line
        )


def test_a_line_per_checkpoint(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a log tells how far it is, and when it will end."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("DEEBERT_CHECKPOINT_EVERY_S", "0")
    tuned(dataclasses.replace(PLAN, recipe=dataclasses.replace(RECIPE, epochs=0.7)))
    *told, last = [record.getMessage() for record in caplog.records]
    for line, step in zip(told, range(1, 5), strict=True):
        assert re.fullmatch(rf"step {step} of 5 is saved, about \d+ minutes left", line)
    assert last.startswith("epoch 0.833 of 0.7")


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
    batches = epoch_batches(counts, 16, 1, 0)
    assert [len(batch) for batch in batches] == [16] * 6 + [4]
    assert sorted(np.concatenate(batches)) == list(range(100))
    torch.rand(5)
    again = np.concatenate(epoch_batches(counts, 16, 1, 0))
    assert np.array_equal(again, np.concatenate(batches))
    for seed, epoch in ((1, 1), (2, 0)):
        assert not np.array_equal(again, np.concatenate(epoch_batches(counts, 16, seed, epoch)))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_buffer_of_the_words_gradient_changes_no_bit(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps with it leave the bytes that steps with PyTorch's own dense gradient leave."""
    weights = []
    for is_buffered in (True, False):
        if not is_buffered:
            monkeypatch.setattr("deebert.training.step.WordGradient", mock.Mock())
        model = tiny.model(family, layers=2)
        with Training(model, PLAN) as training:
            assert model.get_input_embeddings().sparse is is_buffered
            for step, rows in enumerate(epoch_batches(np.ones(96), 16, 1, 0)):
                torch.manual_seed(step)
                training.step(rows)
        weights.append(model.state_dict())
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_learningrate() -> None:
    """Up in a line over the warm-up, then down in a line to 0 at the end; without warm-up only down."""
    assert [rate(step, 10, 4) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose([rate(step, 10, 4) for step in range(4, 11)], np.linspace(1, 0, 7))
    assert [rate(step, 2, 0) for step in range(3)] == [1, 0.5, 0]


def other_weights(model: PreTrainedModel) -> None:
    model.classifier.bias.data[0] += 1e-3


def other_config(model: PreTrainedModel) -> None:
    model.config.hidden_dropout_prob = 0.2


def test_key_of_the_checkpoints() -> None:
    """Any change of what weights or curve depend on gives another key, and the same gives the same."""

    def key_of(change: Callable[[PreTrainedModel], None] | None = None, record: int = 1, **changed: Any) -> str:
        model = tiny.model("bert", layers=2)
        if change:
            change(model)
        return key({"seed": record}, model, dataclasses.replace(PLAN, **changed))

    swapped = ENCODED.take(np.array([1, 0, *range(2, len(ENCODED))]))
    keys = [
        key_of(),
        key_of(record=2),
        key_of(other_weights),
        key_of(other_config),
        key_of(metric="f1"),
        key_of(train=Samples(ENCODED[:-1], LABELS[:-1])),
        key_of(train=Samples(swapped, LABELS)),
        key_of(train=Samples(ENCODED, 1 - LABELS)),
        key_of(validation=Samples(ENCODED, LABELS)),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of() == keys[0]


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
    content["finetune_backbone"] |= {**settings, "objective": "alternating", "full_depth_frac": 0.5}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    write_start(folder)
    return folder


def run_finetuning(python: Path, folder: Path, out: str, count: int) -> subprocess.CompletedProcess[str]:
    """Run the stage's script in `folder`, with outputs in `out`, as `DEEBERT_PROCESSES=... dvc repro` does."""
    script, inputs = str(ROOT / "stages/finetune_backbone.py"), ("data/glue", "data/start.json")
    command = [python, script, *inputs, f"{out}/backbone", f"{out}/rows"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "src"),
        "DEEBERT_PROCESSES": str(count),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "PYTHON_EXEC": str(python),  # what torchrun starts
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_two_processes_train_as_one(without_dropout: Path, warm_python: Path) -> None:
    """The batch is the whole of all processes': losses, scores and weights agree with one process' up to rounding."""
    for out, count in (("one", 1), ("two", 2)):
        done = run_finetuning(warm_python, without_dropout, out, count)
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
        launch()


@pytest.mark.parametrize("under_nohup", [False, True])
def test_processes_under_nohup_outlive_the_terminal(under_nohup: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun passes SIGHUP on only where the program itself is not deaf to it."""
    given = []
    monkeypatch.setattr("torch.distributed.run.main", given.extend)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv(VARIABLE, "2")
    monkeypatch.delenv("RANK", raising=False)
    wanted = {
        signal.SIGHUP: signal.SIG_IGN if under_nohup else signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        with pytest.raises(SystemExit):
            launch()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        logging.disable(logging.NOTSET)
    (heeded,) = [option.partition("=")[2].split(",") for option in given if option.startswith("--signals")]
    assert ("SIGHUP" in heeded) != under_nohup and {"SIGTERM", "SIGINT"} <= set(heeded)


def test_several_processes_end_with_dvc(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun outlives DVC, so whoever has started it ends it, by what it passes on to all."""
    parents, ended = iter((7, 7, 7, 1)), threading.Event()
    monkeypatch.setattr("torch.distributed.run.main", lambda _: ended.wait(60))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("deebert.training.launch.time", SimpleNamespace(sleep=lambda _: None))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    told = []
    monkeypatch.setattr(os, "kill", lambda *given: (told.append(given), ended.set()))
    monkeypatch.delenv("RANK", raising=False)
    for name, value in ((VARIABLE, "2"), ("DVC_STAGE", "finetune_backbone")):
        monkeypatch.setenv(name, value)
    try:
        with pytest.raises(SystemExit):
            launch()
    finally:
        logging.disable(logging.NOTSET)
    assert told == [(os.getpid(), signal.SIGTERM)] and not [*parents]


def test_a_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that is no multiple of the number of processes is one line that names both, before any work."""
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = "^finetune_backbone.batch_size: 16 samples cannot be shared by 3 processes; expected a multiple of 3$"
    with pytest.raises(UserError, match=told):
        tuned()


def test_precision() -> None:
    """A precision asked for is the one in use; auto is one of the two; bf16 is of products, not of weights."""
    device = torch.device("cpu")
    assert [resolve_precision(wanted, device) for wanted in ("fp32", "bf16")] == ["fp32", "bf16"]
    assert resolve_precision("auto", device) in ("fp32", "bf16")
    one = torch.ones(2, 2)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocast(precision, device):
            assert (one @ one).dtype == dtype


@pytest.mark.parametrize(
    ("share", "steps", "expected"),
    [
        (1.1, 100, 110),
        (0.2, 15, 3),
        (0.7, 10, 7),
        (1.15, 100, 115),
        (3, 7, 21),
        (0.5, 7, 4),
        (1e-5, 10, 1),
        (0.0, 9, 0),
    ],
)
def test_whole_steps(share: float, steps: int, expected: int) -> None:
    """Shares of steps are rounded up as they are written in decimals, not as a float happens to hold them."""
    assert whole_steps(share, steps) == expected


def test_epochs_that_are_no_whole_number() -> None:
    """1.1 epochs of 100 steps are 110 steps."""
    samples = Samples(ENCODED.take(np.tile(np.arange(50), 2)), np.tile(LABELS[:50], 2))
    recipe = Recipe(epochs=1.1, learning_rate=1e-4, batch_size=1)
    rows = tuned(dataclasses.replace(PLAN, train=samples, recipe=recipe))[2]
    assert rows[-1]["step"] == 110 and rows[-1]["epoch"] == 1.1


def test_the_model_computes_afterwards_as_before() -> None:
    """Attention, mode, gradients and the word embeddings' kind of gradient are as they were; no hook is left."""
    for attention in ("eager", "sdpa"):
        model = tiny.model("bert", layers=2, attention=attention)
        with pytest.raises(UserError, match="broken off"), Training(model, PLAN) as training:
            assert model.training and model.config._attn_implementation not in ("eager", "sdpa")
            training.step(np.arange(4))
            raise UserError("broken off")
        assert model.config._attn_implementation == attention
        assert not model.training and not model.get_input_embeddings().sparse
        assert not any(module._forward_hooks for module in model.modules())
