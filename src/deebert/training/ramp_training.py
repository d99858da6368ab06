"""The second training: all ramps at once, on the first-token states that one pass of the frozen backbone gives."""

import contextlib
import copy
import logging
import math
import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel

from deebert.base.devices import autocast, pick_device, resolve_precision
from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.data.encoded import Encoded
from deebert.data.scores import METRICS
from deebert.inference.packs import PACK_TOKENS, PackedBackbone, cut_by_tokens
from deebert.model import Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training.checkpoints import stop_requests, stopped
from deebert.training.cpu_step import lean_dropout
from deebert.training.records import curve_points

log = logging.getLogger(__name__)

DROPOUT = 0.1  # of a ramp, while it trains; BERT's own figure


@contextlib.contextmanager
def first_token_states(
    backbone: PreTrainedModel,
    encoded: Encoded,
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
    lengths = encoded.lengths
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
    precision = resolve_precision(settings.precision, device)
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
    points = curve_points(steps)
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
                states = (batch.transpose(0, 1) - shift) * factor  # (L-1, B, H); so scaled, bf16 can tell them apart
                with autocast(precision, device), lean_dropout(device):
                    logits = ramps(states, dropout=DROPOUT).float()  # (L-1, B, C)
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
    if not all(torch.isfinite(weight).all() for weight in ramps.parameters()):  # the loss is of before the last step
        raise UserError("train_ramps: the weights are not finite; try a lower learning_rate or weight_decay")
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
