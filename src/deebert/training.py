"""Both trainings: the backbone with its head, then the ramps on cached first-token states of the frozen backbone."""

import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from tqdm import tqdm
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from deebert.backbones import Recipe
from deebert.devices import autocast, pick_device, resolve_precision
from deebert.errors import UserError
from deebert.inputs import ShuffledByLength, batches_by_length, collate, token_counts
from deebert.model import Ramps, walk
from deebert.params import TrainRamps

log = logging.getLogger(__name__)

DROPOUT = 0.1  # of a ramp, while it trains; BERT's own figure


class _StopOnBadLoss(TrainerCallback):
    """A loss that is not finite never recovers: stop instead of burning hours and saving NaN."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is not None and not np.isfinite(loss):
            raise UserError(
                f"finetune_backbone: the loss is {loss} at step {state.global_step} of {state.max_steps}; "
                "try a lower learning_rate, or precision: fp32"
            )


class _Trainer(Trainer):
    """The library's trainer with our order of the samples."""

    def _get_train_sampler(self, train_dataset: Any = None) -> ShuffledByLength:
        return ShuffledByLength(token_counts(self.train_dataset), self.args.train_batch_size)


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[dict[str, Any]],
    labels: np.ndarray,
    recipe: Recipe,
    seed: int,
    precision: str,
) -> dict[str, Any]:
    """Train `model` in place on the encoded samples: AdamW, linear schedule, batches of similar length.

    Returns what the weights depend on beside the data, to be kept with them.

    Raises:
        UserError: the loss is not finite.
    """
    device = pick_device()
    precision = resolve_precision(precision, device)
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)
    if device.type == "cpu":
        # With dropout on, SDPA has no fused path on a CPU and took up to 1.7 times as long as plain attention.
        model.set_attn_implementation("eager")
    samples = [{**sample, "labels": int(label)} for sample, label in zip(encoded, labels, strict=True)]
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            per_device_train_batch_size=recipe.batch_size,
            warmup_steps=recipe.warmup_frac,  # below 1 it is a share of all steps
            weight_decay=recipe.weight_decay,
            adam_beta2=recipe.adam_beta2,
            lr_scheduler_type="linear",
            bf16=precision == "bf16",
            use_cpu=device.type == "cpu",
            seed=seed,
            logging_steps=50,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=not sys.stderr.isatty(),
            dataloader_pin_memory=device.type == "cuda",
        )
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[_StopOnBadLoss()],
        )
        trainer.train()
    model.set_attn_implementation("sdpa")
    if not all(torch.isfinite(weight).all() for weight in model.parameters()):
        raise UserError("finetune_backbone: the weights are not finite at the end; try a lower learning_rate")
    return {
        **dataclasses.asdict(recipe),
        "seed": seed,
        "precision": precision,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@contextlib.contextmanager
def first_token_states(
    backbone: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: Sequence[dict[str, Any]],
    precision: str,
    batch_tokens: int = 8192,
) -> Iterator[np.ndarray]:
    """Yield the first-token state after every layer but the last: (N, L-1, H) float32, from one pass in eval mode.

    The array is a memory map of a temporary file, gone after the block: at MNLI's size and bert-base's it takes
    13 GB of disk, but of memory only the part in use.
    """
    device = pick_device()
    precision = resolve_precision(precision, device)
    config = backbone.config
    num_ramps = config.num_hidden_layers - 1
    backbone.to(device).eval()
    with tempfile.TemporaryDirectory() as scratch:
        shape = (len(encoded), num_ramps, config.hidden_size)
        states = _disk_array(Path(scratch) / "states", shape)
        bar = tqdm(total=len(encoded), desc="frozen pass", unit="sample", disable=None)
        with torch.inference_mode(), autocast(precision, device), bar:
            for rows in batches_by_length(token_counts(encoded), batch_tokens):
                layers = walk(backbone, collate(tokenizer, encoded, rows, device))
                for i, hidden in zip(range(num_ramps), layers, strict=False):  # layer L is never run
                    states[rows, i] = hidden[:, 0].float().cpu().numpy()
                bar.update(len(rows))
        yield states


def _disk_array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array in a file whose disk space is taken at once: a full disk is an error here, not a crash later."""
    num_bytes = int(np.prod(shape)) * np.dtype(np.float32).itemsize
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError as error:
        raise UserError(
            f"{path}: no room for {num_bytes / 1e9:.1f} GB of states: {error.strerror}; set TMPDIR"
        ) from None
    return np.memmap(path, dtype=np.float32, mode="r+", shape=shape)


def train_ramps(states: np.ndarray, labels: np.ndarray, num_labels: int, settings: TrainRamps, seed: int) -> Ramps:
    """Train all ramps at once on cached states, by the sum of their cross-entropies (Xin et al., section 3.2).

    The states are standardised per layer and feature for training, because a frozen layer's features differ in scale
    by orders of magnitude and the small ones would otherwise hardly move in a few epochs. The map is then folded into
    the ramp's first linear map, so that the ramp returned reads raw states and costs nothing more.

    Args:
        states: (N, L-1, H) first-token states; may be a memory map, read in batches.
        labels: (N,) in 0..C-1.

    Raises:
        UserError: the loss is not finite.
    """
    num_samples, num_ramps, hidden_size = states.shape
    device = pick_device()
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    mean, scale = _mean_and_scale(states)
    ramps = Ramps(num_ramps, hidden_size, num_labels).to(device).train()
    # Per sample, as a prior on the weights counts: one fixed decay either starves ramps of large tasks or lets those of
    # small ones overfit states on which the backbone itself was trained.
    decay = settings.weight_decay / num_samples
    optimizer = torch.optim.AdamW(ramps.parameters(), lr=settings.learning_rate, weight_decay=decay)
    steps = settings.epochs * -(-num_samples // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    targets = torch.tensor(labels)
    shift, factor = (torch.from_numpy(a).float().to(device)[:, None] for a in (mean, 1.0 / scale))  # (L-1, 1, H)
    bar = tqdm(total=steps, desc="ramps", unit="step", disable=None)
    with bar:
        for _ in range(settings.epochs):
            for rows in torch.randperm(num_samples, generator=generator).split(settings.batch_size):
                batch = torch.from_numpy(states[rows.sort().values.numpy()])  # (B, L-1, H); sorted for the disk
                logits = ramps((batch.to(device).transpose(0, 1) - shift) * factor, dropout=DROPOUT)  # (L-1, B, C)
                wanted = targets[rows.sort().values].to(device).expand(num_ramps, -1)
                loss = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum") / len(rows)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
    if not torch.isfinite(loss):
        raise UserError(f"train_ramps: the loss is {loss.item()} at the end; try a lower learning_rate")
    return _folded(ramps.cpu(), mean, scale)


def _mean_and_scale(states: np.ndarray, chunk: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over samples, each (L-1, H) float64; a feature that never varies gets scale 1."""
    first = states[0].astype(np.float64)  # sums are of differences to it: in others a large mean drowns a small spread
    total = np.zeros_like(first)
    squares = np.zeros_like(first)
    for start in range(0, len(states), chunk):
        part = states[start : start + chunk] - first
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    shift = total / len(states)
    mean = first + shift
    scale = np.sqrt(np.maximum(squares / len(states) - shift**2, 0.0))
    scale[scale < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0  # no more than the rounding of float32
    return mean, scale


def _folded(ramps: Ramps, mean: np.ndarray, scale: np.ndarray) -> Ramps:
    """The ramps that give on raw states x what `ramps` gives on (x - mean) / scale; computed in float64."""
    weight = ramps.dense_weight.detach().double() / torch.from_numpy(scale)[:, None]  # (L-1, H, H)
    bias = ramps.dense_bias.detach().double() - (weight @ torch.from_numpy(mean)[:, :, None])[..., 0]
    ramps.dense_weight.data = weight.float()
    ramps.dense_bias.data = bias.float()
    return ramps.eval()
