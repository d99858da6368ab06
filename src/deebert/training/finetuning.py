"""The first training: the backbone with its head, as if there were no early exit.

It may be killed at any moment and goes on from its last checkpoint to the same bytes. That is why its loop is our own
and not the library's `Trainer`: the draws of an epoch (order) and of a step (dropout) come from a generator seeded by
their number, so that weights, moments and the number of the step are the whole state.
"""

import dataclasses
import hashlib
import logging
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deebert.base.devices import autocast, pick_device, resolve_precision
from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.data.batches import batches_by_length, shuffled_batches
from deebert.data.encoded import Encoded
from deebert.data.scores import METRICS
from deebert.encoders.backbones import Recipe, family_of
from deebert.training import processes
from deebert.training.checkpoints import Checkpoints, stop_requests, stopped
from deebert.training.cpu_step import ATTENTION, WordGradient, lean_dropout
from deebert.training.records import curve_points, environment

log = logging.getLogger(__name__)

MAX_GRADIENT_NORM = 1.0
EVALUATION_TOKENS = 8192  # padded, per forward pass; bounds the memory
ORDER, STEP = 0, 1  # what a seed is for


@dataclass(frozen=True)
class Samples:
    """One split as a model reads it: N encoded samples and their labels, (N,) in 0..C-1."""

    encoded: Encoded
    labels: np.ndarray


@dataclass(frozen=True)
class Plan:
    """A fine-tuning: what is learned, how, and what is told of it on the way.

    Attributes:
        validation: scored by `metric` (a key of METRICS) after each epoch; nothing depends on the score.
        precision: auto, fp32 or bf16.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Samples
    validation: Samples
    metric: str
    recipe: Recipe
    seed: int
    precision: str


def finetune(model: PreTrainedModel, plan: Plan, checkpoints: Checkpoints) -> tuple[dict[str, Any], list[Row]]:
    """Train `model` in place: AdamW, linear schedule, batches of similar length, the same however many processes.

    Goes on from the newest of `checkpoints` that was made from the same model, data, settings, versions and code.

    Returns:
        What the weights depend on beside the data, to be kept with them; and the curve, rows of `epoch`, `step`,
        `split` (train, validation), `metric` and `value`.

    Raises:
        UserError: the loss is not finite, the batch cannot be shared by the processes, no checkpoint can be written,
            or SIGTERM.
    """
    recipe, size = plan.recipe, processes.count()
    if recipe.batch_size % size:
        raise UserError(
            f"finetune_backbone.batch_size: {recipe.batch_size} samples cannot be shared by {size} processes;"
            f" expected a multiple of {size}"
        )
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)
    with processes.joined():
        device = pick_device()
        plan = dataclasses.replace(plan, precision=resolve_precision(plan.precision, device))
        record = {**dataclasses.asdict(recipe), "seed": plan.seed, "precision": plan.precision, **environment(device)}
        if device.type == "cpu":
            model.set_attn_implementation(ATTENTION)
        if processes.rank() == 0:
            checkpoints.open(_key(record, model, plan))
        with _first_token_only(model):
            rows = _train(model.to(device), plan, checkpoints)
    model.set_attn_implementation("sdpa")
    return record, rows


def _first_token_only(model: PreTrainedModel) -> RemovableHandle:
    """Let the last layer go on from its attention with the first token alone, until the handle's block ends.

    The head reads no other, so answers and gradients stay as they are, and two thirds of a layer's work are saved.
    """
    family = family_of(model)
    attended = family.parts(family.layers(model)[-1]).attention_norm
    return attended.register_forward_hook(lambda module, args, output: output[:, :1])  # (B, T, H) to (B, 1, H)


def _train(model: PreTrainedModel, plan: Plan, checkpoints: Checkpoints) -> list[Row]:
    """The loop of `finetune`, from the last checkpoint on; returns the curve."""
    recipe, device, is_first = plan.recipe, model.device, processes.rank() == 0
    counts = plan.train.encoded.lengths
    steps_per_epoch = math.ceil(len(counts) / recipe.batch_size)
    steps = math.ceil(recipe.epochs * steps_per_epoch)
    warmup_steps = math.ceil(recipe.warmup_frac * steps)
    points = curve_points(steps)

    optimizer = _adamw(model, recipe)
    losses = torch.zeros(steps, device=device)  # each the mean over all samples of its step
    changing = _changing(model, optimizer, losses)
    done, rows = 0, []
    if is_first and (found := checkpoints.load()):
        done, tensors, notes = found
        rows = notes["rows"]
        for name, tensor in changing.items():
            tensor.data.copy_(tensors[name])
        log.info("going on after step %d of %d, from %s", done, steps, checkpoints.folder)
    done = _from_first(done, changing)
    trained = DistributedDataParallel(model) if processes.count() > 1 else model
    # A GPU zeroes a gradient in no time, and adds up equal rows in no fixed order; DDP wants dense ones.
    words = WordGradient(model) if device.type == "cpu" and processes.count() == 1 else None

    bar = tqdm(total=steps, initial=done, desc="fine-tuning", unit="step", disable=None if is_first else True)
    with bar, logging_redirect_tqdm(), stop_requests() as asked_to_stop:
        batches: list[np.ndarray] = []
        while done < steps:
            epoch, place = divmod(done, steps_per_epoch)
            if not batches or place == 0:
                batches = _epoch_batches(counts, recipe.batch_size, plan.seed, epoch)
                model.train()
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(done, steps, warmup_steps)
            _seed(device, plan.seed, STEP, done, processes.rank())
            losses[done] = _step(trained, plan, batches[place], optimizer, words)
            done += 1
            bar.update()

            now = {"epoch": round(done / steps_per_epoch, 4), "step": done}
            if done in points:
                loss = _finite_loss(losses[points[done] : done], done, steps)
                rows.append({**now, "split": "train", "metric": "loss", "value": loss})
                bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if is_first and (done % steps_per_epoch == 0 or done == steps):
                score = _score(model, plan)
                rows.append({**now, "split": "validation", "metric": plan.metric, "value": score})
                loss = losses[epoch * steps_per_epoch : done].mean().item()
                told = "epoch %.3g of %.3g: training loss %.4f, validation %s %.4f"
                log.info(told, now["epoch"], recipe.epochs, loss, plan.metric, score)
            reason = asked_to_stop()
            if is_first and (reason or done == steps or checkpoints.due()):
                _check_weights(model)
                checkpoints.save(done, changing, {"rows": rows})
            if reason:
                state = f"step {done} of {steps} is saved, and the next run goes on from there"
                raise stopped("finetune_backbone", reason, state)
    model.eval()
    model.get_input_embeddings().sparse = False
    return rows


def _adamw(model: PreTrainedModel, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with its moments in place; matrices decay, biases and normalisations do not."""
    weights = list(model.parameters())
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, recipe.adam_beta2), fused=True)
    for weight in weights:
        optimizer.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
        }
    return optimizer


def _changing(model: PreTrainedModel, optimizer: torch.optim.Optimizer, losses: Tensor) -> dict[str, Tensor]:
    """Every tensor that a step changes, by name: together with the number of the step, the state of the training."""
    changing = {"losses": losses}
    for name, weight in model.named_parameters():
        changing[f"weight.{name}"] = weight
        changing |= {f"{kind}.{name}": tensor for kind, tensor in optimizer.state[weight].items()}
    return changing


def _from_first(done: int, changing: Mapping[str, Tensor]) -> int:
    """Give all processes the first one's state and its number of steps, which is returned."""
    if processes.count() == 1:
        return done
    step = torch.tensor(done, device=changing["losses"].device)
    for tensor in (step, *changing.values()):
        distributed.broadcast(tensor.data, src=0)
    return int(step)


def _epoch_batches(counts: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch (from 0), in order."""
    _seed(torch.device("cpu"), seed, ORDER, epoch)
    return shuffled_batches(counts, batch_size)


def _seed(device: torch.device, *words: int) -> None:
    """Seed torch for what comes next on `device`, by what that is and not by what came before."""
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # Not torch.manual_seed, which takes many times as long to reach every kind of device there may be.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def _rate(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate in `step` (from 0): up in a line to 1, then down to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    return (steps - step) / (steps - warmup_steps)


def _step(
    model: nn.Module,
    plan: Plan,
    rows: np.ndarray,
    optimizer: torch.optim.Optimizer,
    words: WordGradient | None = None,
) -> Tensor:
    """One step on a batch, of which each process takes its share; returns the mean loss over the whole batch."""
    size, rank = processes.count(), processes.rank()
    device = optimizer.param_groups[0]["params"][0].device
    mine, weight = rows[rank::size], 1.0 / len(rows)
    if not len(mine):  # more processes than samples in the last batch: DDP still waits for everyone
        mine, weight = rows[:1], 0.0
    inputs = plan.train.encoded.padded(mine, plan.tokenizer.pad_token_id, device)
    labels = torch.from_numpy(plan.train.labels[mine]).to(device)
    with autocast(plan.precision, device), lean_dropout(device):
        logits = model(**inputs).logits
    loss = nn.functional.cross_entropy(logits.float(), labels, reduction="sum") * weight
    (loss * size).backward()  # DDP takes the mean over processes
    if words:
        words.fill()
    nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
    optimizer.step()
    optimizer.zero_grad()
    if words:
        words.clear()
    loss = loss.detach()
    if size > 1:
        distributed.all_reduce(loss)
    return loss


def _finite_loss(losses: Tensor, done: int, steps: int) -> float:
    """The mean of `losses`. One that is not finite never recovers: stop instead of burning hours and saving NaN."""
    loss = losses.mean().item()
    if not math.isfinite(loss):
        raise UserError(
            f"finetune_backbone: the loss is {loss}, which is not finite, at step {done} of {steps};"
            " try a lower learning_rate, or precision: fp32"
        )
    return loss


def _check_weights(model: PreTrainedModel) -> None:
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise UserError("finetune_backbone: the weights are not finite; try a lower learning_rate, or precision: fp32")


def _score(model: PreTrainedModel, plan: Plan) -> float:
    """What the classifier scores on the validation split, at full depth."""
    model.eval()
    encoded, labels = plan.validation.encoded, plan.validation.labels
    predictions = np.empty(len(labels), dtype=np.int64)
    with torch.inference_mode(), autocast(plan.precision, model.device):
        for rows in batches_by_length(encoded.lengths, EVALUATION_TOKENS):
            logits = model(**encoded.padded(rows, plan.tokenizer.pad_token_id, model.device)).logits
            predictions[rows] = logits.argmax(dim=1).cpu().numpy()
    return METRICS[plan.metric](labels, predictions)


def _key(record: dict[str, Any], model: PreTrainedModel, plan: Plan) -> str:
    """A name for everything that the result of a training depends on, the code of this package included."""
    told = hashlib.sha256(f"{record} {plan.metric} {model.config.to_json_string()}".encode())
    for name, weight in model.named_parameters():
        told.update(f"{name} {tuple(weight.shape)}".encode())
        told.update(weight.detach().cpu().contiguous().numpy())
    for split in (plan.train, plan.validation):
        encoded = split.encoded
        for array in (encoded.offsets, encoded.input_ids, encoded.token_type_ids, split.labels):
            if array is not None:
                told.update(np.ascontiguousarray(array))
    for name, module in sorted(sys.modules.items()):
        if name.startswith("deebert."):
            told.update(Path(module.__file__).read_bytes())
    return told.hexdigest()[:32]
