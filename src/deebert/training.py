"""Both trainings: the backbone with its head, then the ramps on cached first-token states of the frozen backbone.

Fine-tuning may be killed at any moment and goes on from its last checkpoint to the same bytes. That is why its loop is
our own and not the library's `Trainer`: the draws of an epoch (order) and of a step (dropout) come from a generator
seeded by their number, so that weights, moments and the number of the step are the whole state.
"""

import contextlib
import copy
import dataclasses
import hashlib
import logging
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deebert import processes
from deebert.backbones import Recipe, family_of
from deebert.checkpoints import Checkpoints, stop_requests, stopped
from deebert.cpu_step import ATTENTION, LeanDropout, WordGradient
from deebert.devices import autocast, pick_device, resolve_precision
from deebert.errors import UserError
from deebert.inputs import ShuffledByLength, batches_by_length, collate, token_counts
from deebert.model import Ramps
from deebert.packed import PACK_TOKENS, PackedBackbone, cut_by_tokens
from deebert.params import TrainRamps
from deebert.scores import METRICS

log = logging.getLogger(__name__)

if not sys.stderr.isatty():  # tqdm's own bars know that by themselves
    transformers.utils.logging.disable_progress_bar()

DROPOUT = 0.1  # of a ramp, while it trains; BERT's own figure
MAX_GRADIENT_NORM = 1.0
CURVE_POINTS = 50  # of the training loss, each the mean over the steps since the one before
EVALUATION_TOKENS = 8192  # padded, per forward pass; bounds the memory
ORDER, STEP = 0, 1  # what a seed is for

Row = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """One split as a model reads it: N encoded samples and their labels, (N,) in 0..C-1."""

    encoded: Sequence[dict[str, Any]]
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


def environment(device: torch.device) -> dict[str, Any]:
    """What the last bits of a result depend on beside seed and settings."""
    is_gpu = device.type == "cuda"
    return {
        "device": device.type,
        "hardware": torch.cuda.get_device_name(device) if is_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes.count(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _train(model: PreTrainedModel, plan: Plan, checkpoints: Checkpoints) -> list[Row]:
    """The loop of `finetune`, from the last checkpoint on; returns the curve."""
    recipe, device, is_first = plan.recipe, model.device, processes.rank() == 0
    counts = token_counts(plan.train.encoded)
    steps_per_epoch = math.ceil(len(counts) / recipe.batch_size)
    steps = math.ceil(recipe.epochs * steps_per_epoch)
    warmup_steps = math.ceil(recipe.warmup_frac * steps)
    points = _curve_points(steps)

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


def _curve_points(steps: int) -> dict[int, int]:
    """CURVE_POINTS numbers of steps, as even as can be, each with the one before it; the last is `steps`."""
    ends = sorted({math.ceil(point * steps / CURVE_POINTS) for point in range(1, CURVE_POINTS + 1)})
    return dict(zip(ends, [0, *ends], strict=False))


def _epoch_batches(counts: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch (from 0), in order."""
    _seed(torch.device("cpu"), seed, ORDER, epoch)
    order = np.fromiter(ShuffledByLength(counts, batch_size), dtype=np.int64)
    return np.split(order, range(batch_size, len(order), batch_size))


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
    inputs = collate(plan.tokenizer, plan.train.encoded, mine, device)
    labels = torch.from_numpy(plan.train.labels[mine]).to(device)
    lean = LeanDropout() if device.type == "cpu" else contextlib.nullcontext()
    with autocast(plan.precision, device), lean:
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
        for rows in batches_by_length(token_counts(encoded), EVALUATION_TOKENS):
            logits = model(**collate(plan.tokenizer, encoded, rows, model.device)).logits
            predictions[rows] = logits.argmax(dim=1).cpu().numpy()
    return METRICS[plan.metric](labels, predictions)


def _key(record: dict[str, Any], model: PreTrainedModel, plan: Plan) -> str:
    """A name for everything that the result of a training depends on, the code of this package included."""
    told = hashlib.sha256(f"{record} {plan.metric} {model.config.to_json_string()}".encode())
    for name, weight in model.named_parameters():
        told.update(f"{name} {tuple(weight.shape)}".encode())
        told.update(weight.detach().cpu().contiguous().numpy())
    for split in (plan.train, plan.validation):
        told.update(np.concatenate([token_counts(split.encoded), split.labels]))
        for name in split.encoded[0]:
            told.update(np.concatenate([sample[name] for sample in split.encoded], dtype=np.int64))
    for name, module in sorted(sys.modules.items()):
        if name.startswith("deebert."):
            told.update(Path(module.__file__).read_bytes())
    return told.hexdigest()[:32]


@contextlib.contextmanager
def first_token_states(
    backbone: PreTrainedModel,
    encoded: Sequence[dict[str, Any]],
    precision: str,
    pack_tokens: int = PACK_TOKENS,
) -> Iterator[np.ndarray]:
    """Yield the first-token state after every layer but the last: (N, L-1, H) float32, from one pass in eval mode.

    The array is a memory map of a temporary file, gone after the block or with the process: at MNLI's size and
    bert-base's it takes 13 GB of disk, but of memory only the part in use.

    Raises:
        UserError: no room on the disk, or SIGTERM.
    """
    device = pick_device()
    packed = PackedBackbone(copy.deepcopy(backbone).to(device), resolve_precision(precision, device))
    *before, last = packed.layers[:-1]  # layer L is never run
    lengths = token_counts(encoded)
    states = _disk_array((len(encoded), len(before) + 1, backbone.config.hidden_size))
    bar = tqdm(total=len(encoded), desc="frozen pass", unit="sample", disable=None)
    with torch.inference_mode(), bar, stop_requests() as asked_to_stop:
        # Longest first, so that a pack too large for the memory fails at once and not at the end.
        for rows in cut_by_tokens(np.argsort(-lengths, kind="stable"), lengths, pack_tokens):
            pack = packed.embed(encoded, rows)
            first = []
            for layer in before:
                pack = layer(pack)
                first.append(pack.first_tokens())
            first.append(last.first_tokens([pack], [last.keys_values(pack)]))
            states[rows] = torch.stack(first, dim=1).cpu().numpy()
            _let_go(states)
            bar.update(len(rows))
            if reason := asked_to_stop():
                raise stopped("train_ramps", reason, "nothing is written")
    yield states


def _disk_array(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array in a file without a name, whose disk space is taken at once and is free when the process ends.

    A full disk is an error here, not a crash later.
    """
    num_bytes = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{tempfile.gettempdir()}: no room for {num_bytes / 1e9:.1f} GB of states: {error.strerror}; set TMPDIR"
        ) from None


def _read(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of the chosen rows."""
    part = states[rows]
    _let_go(states)
    return part


def _let_go(states: np.ndarray) -> None:
    """Take the pages of a memory map out of this process; what was written to them stays in the file.

    The system would drop them only when memory runs short, and until then they count as this process's: all 13 GB.
    """
    if isinstance(states, np.memmap):
        states.base.madvise(mmap.MADV_DONTNEED)


@dataclass(frozen=True)
class States:
    """One split as ramps read it: first-token states (N, L-1, H), maybe a memory map, and labels (N,) in 0..C-1."""

    states: np.ndarray
    labels: np.ndarray


def train_ramps(
    train: States, validation: States, metric: str, num_labels: int, settings: TrainRamps, seed: int
) -> tuple[Ramps, list[Row]]:
    """Train all ramps at once on cached states, by the sum of their cross-entropies (Xin et al., section 3.2).

    The states are standardised per layer and feature for training, because a frozen layer's features differ in scale
    by orders of magnitude and the small ones would otherwise hardly move in a few epochs. The map is then folded into
    the ramp's first linear map, so that the ramp returned reads raw states and costs nothing more.

    The validation split is scored by `metric` after each epoch; nothing depends on the score.

    Returns:
        The ramps; and their curve, rows as `finetune` gives them with a `layer` (1..L-1).

    Raises:
        UserError: the loss is not finite, or SIGTERM.
    """
    num_samples, num_ramps, hidden_size = train.states.shape
    device = pick_device()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mean, scale = _mean_and_scale(train.states)
    ramps = Ramps(num_ramps, hidden_size, num_labels).to(device).train()
    # Per sample, as a prior on the weights counts: one fixed decay either starves ramps of large tasks or lets those of
    # small ones overfit states on which the backbone itself was trained.
    decay = settings.weight_decay / num_samples
    optimizer = torch.optim.AdamW(ramps.parameters(), lr=settings.learning_rate, weight_decay=decay, fused=True)
    steps_per_epoch = math.ceil(num_samples / settings.batch_size)
    steps = settings.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    targets = torch.tensor(train.labels)
    shift, factor = (torch.from_numpy(a).float().to(device)[:, None] for a in (mean, 1.0 / scale))  # (L-1, 1, H)
    points = _curve_points(steps)
    losses = torch.zeros(steps, num_ramps, device=device)
    rows: list[Row] = []

    def note(split: str, metric: str, values: Sequence[float]) -> None:
        now = {"epoch": round(done / steps_per_epoch, 4), "step": done}
        told = {"split": split, "metric": metric}
        rows.extend({**now, "layer": layer, **told, "value": value} for layer, value in enumerate(values, start=1))

    done = 0
    bar = tqdm(total=steps, desc="ramps", unit="step", disable=None)
    with bar, logging_redirect_tqdm(), stop_requests() as asked_to_stop:
        for epoch in range(1, settings.epochs + 1):
            for shuffled in torch.randperm(num_samples, generator=generator).split(settings.batch_size):
                picked = shuffled.sort().values  # for the disk
                batch = torch.from_numpy(_read(train.states, picked.numpy())).to(device)  # (B, L-1, H)
                logits = ramps((batch.transpose(0, 1) - shift) * factor, dropout=DROPOUT)  # (L-1, B, C)
                wanted = targets[picked].to(device).expand(num_ramps, -1)
                each = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
                loss_of_ramp = each.view(num_ramps, len(picked)).mean(dim=1)
                optimizer.zero_grad()
                loss_of_ramp.sum().backward()
                optimizer.step()
                schedule.step()
                losses[done] = loss_of_ramp.detach()
                done += 1
                bar.update()
                if done in points:
                    note("train", "loss", losses[points[done] : done].mean(dim=0).tolist())
                    bar.set_postfix(loss=f"{losses[done - 1].sum():.4f}", refresh=False)
                if reason := asked_to_stop():
                    raise stopped("train_ramps", reason, "nothing is written")
            loss = losses[done - steps_per_epoch : done].sum(dim=1).mean().item()
            if not math.isfinite(loss):
                raise UserError(f"train_ramps: the loss is {loss} in epoch {epoch}; try a lower learning_rate")
            scores = _ramp_scores(ramps, validation, metric, shift, factor)
            note("validation", metric, scores)
            shown = sorted({0, num_ramps // 2, num_ramps - 1} & set(range(num_ramps)))
            told = ", ".join(f"{scores[i]:.4f} after layer {i + 1}" for i in shown)
            log.info("epoch %d of %d: training loss %.4f, validation %s %s", epoch, settings.epochs, loss, metric, told)
    return _folded(ramps.cpu(), mean, scale), rows


def _ramp_scores(
    ramps: Ramps, split: States, metric: str, shift: Tensor, factor: Tensor, chunk: int = 4096
) -> list[float]:
    """The score of each ramp, in the order of the layers, on states standardised by `shift` and `factor`."""
    answers = []
    with torch.inference_mode():
        for rows in _chunks(len(split.states), chunk):
            batch = torch.from_numpy(_read(split.states, rows)).to(shift.device)  # (B, L-1, H)
            answers.append(ramps((batch.transpose(0, 1) - shift) * factor).argmax(dim=2).cpu().numpy())
    return [METRICS[metric](split.labels, predictions) for predictions in np.concatenate(answers, axis=1)]


def _mean_and_scale(states: np.ndarray, chunk: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over samples, each (L-1, H) float64; a feature that never varies gets scale 1."""
    first = states[0].astype(np.float64)  # sums are of differences to it: in others a large mean drowns a small spread
    total = np.zeros_like(first)
    squares = np.zeros_like(first)
    for rows in _chunks(len(states), chunk):
        part = _read(states, rows) - first
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    shift = total / len(states)
    mean = first + shift
    scale = np.sqrt(np.maximum(squares / len(states) - shift**2, 0.0))
    scale[scale < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0  # no more than the rounding of float32
    return mean, scale


def _chunks(count: int, size: int) -> list[np.ndarray]:
    """The numbers 0..count-1, `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))


def _folded(ramps: Ramps, mean: np.ndarray, scale: np.ndarray) -> Ramps:
    """The ramps that give on raw states x what `ramps` gives on (x - mean) / scale; computed in float64."""
    weight = ramps.dense_weight.detach().double() / torch.from_numpy(scale)[:, None]  # (L-1, H, H)
    bias = ramps.dense_bias.detach().double() - (weight @ torch.from_numpy(mean)[:, :, None])[..., 0]
    ramps.dense_weight.data = weight.float()
    ramps.dense_bias.data = bias.float()
    return ramps.eval()
