"""The second training: all ramps at once, on the first-token states that one pass of the frozen backbone gives."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from deebert.base.devices import autocast, resolve_precision
from deebert.base.rows import Row
from deebert.data.scores import METRICS
from deebert.ramps import Ramps
from deebert.settings.train_ramps import TrainRamps
from deebert.training import finite
from deebert.training.cpu_step import lean_dropout
from deebert.training.records import curve_points
from deebert.training.states import States
from deebert.training.stops import stop_requests, stopped

log = logging.getLogger(__name__)

STAGE = "train_ramps"
DROPOUT = 0.1  # of a ramp, while it trains; BERT's own figure
MAX_DECAY_PER_STEP = 0.5  # of a weight
CHUNK = 4096  # samples


@dataclass(frozen=True)
class RampPlan:
    """A training of ramps: on what, how, and what is told of it on the way.

    Attributes:
        validation: scored by `metric` (a key of METRICS) after each epoch; nothing depends on the score.
        num_labels: C.
    """

    train: States
    validation: States
    metric: str
    num_labels: int
    settings: TrainRamps
    seed: int


def train_ramps(plan: RampPlan, device: torch.device) -> tuple[Ramps, list[Row]]:
    """Train all ramps at once on cached states, by the sum of their cross-entropies (Xin et al., section 3.2).

    The states are standardised for training, see `Standard`. The ramps that are returned read raw states.

    Returns:
        The ramps; and their curve, rows as `finetune` gives them with a `layer` (1..L-1).

    Raises:
        UserError: the loss is not finite, or SIGTERM.
    """
    settings = plan.settings
    torch.manual_seed(plan.seed)
    standard = Standard(plan.train, device)
    run = _Run(plan, standard)
    bar = tqdm(total=run.steps, desc="ramps", unit="step", disable=None)
    with bar, logging_redirect_tqdm(), stop_requests() as asked_to_stop:
        for epoch in range(1, settings.epochs + 1):
            for rows in run.epoch_batches():
                run.step(rows)
                bar.update()
                if run.done in run.points:
                    bar.set_postfix(loss=f"{run.note_loss():.4f}", refresh=False)
                if reason := asked_to_stop():
                    raise stopped(STAGE, reason, "nothing is written")
            run.end_epoch(epoch)
    finite.check_weights(run.ramps.parameters(), STAGE, "try a lower learning_rate or weight_decay")
    return standard.folded(run.ramps.cpu()), run.rows


def decay_per_rate(weight_decay: float, num_samples: int, learning_rate: float) -> float:
    """What AdamW is given as its decay: `weight_decay`, which is in samples, divided by the number of samples.

    As a prior on the weights counts: one fixed decay either starves ramps of large tasks or lets those of small ones
    overfit states on which the backbone itself was trained. AdamW takes decay times learning rate off a weight in each
    step. Of very few samples that would be more than the weight itself, so it is at most MAX_DECAY_PER_STEP.
    """
    decay, largest = weight_decay / num_samples, MAX_DECAY_PER_STEP / learning_rate
    if decay <= largest:
        return decay
    told = "train_ramps.weight_decay: %g is too much for %d samples; a step takes half of each weight and not more"
    log.warning(told, weight_decay, num_samples)
    return largest


class Standard:
    """States standardised per layer and feature, and ramps that undo it.

    A frozen layer's features differ in scale by orders of magnitude, and the small ones would otherwise hardly move in
    a few epochs. The map is folded into a ramp's first linear map in the end, so that it costs nothing.
    """

    def __init__(self, states: States, device: torch.device) -> None:
        self.mean, self.scale = mean_and_scale(states)
        self.device = device
        arrays = (self.mean, 1.0 / self.scale)
        self._shift, self._factor = (torch.from_numpy(a).float().to(device)[:, None] for a in arrays)  # (L-1, 1, H)

    def read(self, states: States, rows: np.ndarray) -> Tensor:
        """Standardised states (L-1, B, H) of the chosen rows; so scaled, bf16 can tell them apart."""
        batch = torch.from_numpy(states.read(rows)).to(self.device)  # (B, L-1, H)
        return (batch.transpose(0, 1) - self._shift) * self._factor

    def folded(self, ramps: Ramps) -> Ramps:
        """The ramps that give on raw states x what `ramps` gives on (x - mean) / scale; computed in float64."""
        weight = ramps.dense_weight.detach().double() / torch.from_numpy(self.scale)[:, None]  # (L-1, H, H)
        moved = (weight @ torch.from_numpy(self.mean)[:, :, None])[..., 0]
        ramps.dense_bias.data = (ramps.dense_bias.detach().double() - moved).float()
        ramps.dense_weight.data = weight.float()
        return ramps.eval()


class _Run:
    """The ramps on their way: the number of steps done, their losses, and the curve so far."""

    def __init__(self, plan: RampPlan, standard: Standard) -> None:
        self.plan, self.standard, self.device = plan, standard, standard.device
        settings, num_samples = plan.settings, len(plan.train)
        _, num_ramps, hidden_size = plan.train.states.shape
        self.precision = resolve_precision("auto", self.device)  # the trained ramps are float32 in any case
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.ramps = Ramps(num_ramps, hidden_size, plan.num_labels).to(self.device).train()
        decay = decay_per_rate(settings.weight_decay, num_samples, settings.learning_rate)
        self.optimizer = torch.optim.AdamW(
            self.ramps.parameters(), lr=settings.learning_rate, weight_decay=decay, fused=True
        )
        self.steps_per_epoch = math.ceil(num_samples / settings.batch_size)
        self.steps = settings.epochs * self.steps_per_epoch
        self.schedule = torch.optim.lr_scheduler.LinearLR(self.optimizer, 1.0, 0.0, total_iters=self.steps)
        self.targets = torch.tensor(plan.train.labels)
        self.points = curve_points(self.steps)
        self.losses = torch.zeros(self.steps, num_ramps, device=self.device)
        self.done = 0
        self.rows: list[Row] = []

    def epoch_batches(self) -> Iterator[np.ndarray]:
        """Every sample once, in random order; the rows of a batch are sorted, for the disk."""
        order = torch.randperm(len(self.plan.train), generator=self.generator)
        for rows in order.split(self.plan.settings.batch_size):
            yield rows.sort().values.numpy()

    def step(self, rows: np.ndarray) -> None:
        states = self.standard.read(self.plan.train, rows)
        with autocast(self.precision, self.device), lean_dropout(self.device):
            logits = self.ramps(states, dropout=DROPOUT).float()  # (L-1, B, C)
        wanted = self.targets[rows].to(self.device).expand(len(self.ramps), -1)
        each = nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none")
        loss_of_ramp = each.view(len(self.ramps), len(rows)).mean(dim=1)
        self.optimizer.zero_grad()
        loss_of_ramp.sum().backward()
        self.optimizer.step()
        self.schedule.step()
        self.losses[self.done] = loss_of_ramp.detach()
        self.done += 1

    def note_loss(self) -> float:
        """Add each ramp's mean loss since the last point to the curve; returns the sum of the last step's losses."""
        self._note("train", "loss", self.losses[self.points[self.done] : self.done].mean(dim=0).tolist())
        return self.losses[self.done - 1].sum().item()

    def end_epoch(self, epoch: int) -> None:
        """Check the loss, score the validation split, and tell both; `epoch` counts from 1."""
        loss = self.losses[self.done - self.steps_per_epoch : self.done].sum(dim=1).mean().item()
        finite.check_loss(loss, STAGE, f"in epoch {epoch}", "try a lower learning_rate")
        metric = self.plan.metric
        scores = self._scores()
        self._note("validation", metric, scores)
        shown = sorted({0, len(scores) // 2, len(scores) - 1} & set(range(len(scores))))
        told = ", ".join(f"{scores[i]:.4f} after layer {i + 1}" for i in shown)
        epochs = self.plan.settings.epochs
        log.info("epoch %d of %d: training loss %.4f, validation %s %s", epoch, epochs, loss, metric, told)

    def _scores(self) -> list[float]:
        """The score of each ramp on the validation split, in the order of the layers."""
        split = self.plan.validation
        with torch.inference_mode():
            answers = [
                self.ramps(self.standard.read(split, rows)).argmax(dim=2).cpu().numpy() for rows in _chunks(len(split))
            ]
        score = METRICS[self.plan.metric]
        return [score(split.labels, predictions) for predictions in np.concatenate(answers, axis=1)]

    def _note(self, split: str, metric: str, values: list[float]) -> None:
        now = {"epoch": round(self.done / self.steps_per_epoch, 4), "step": self.done}
        told = {"split": split, "metric": metric}
        self.rows += [{**now, "layer": layer, **told, "value": value} for layer, value in enumerate(values, start=1)]


def mean_and_scale(states: States, chunk: int = CHUNK) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over samples, each (L-1, H) float64; a feature that never varies gets scale 1."""
    first = states.states[0].astype(np.float64)  # sums are of differences to it: else a large mean drowns the spread
    total = np.zeros_like(first)
    squares = np.zeros_like(first)
    for rows in _chunks(len(states), chunk):
        part = states.read(rows) - first
        total += part.sum(axis=0)
        squares += (part**2).sum(axis=0)
    shift = total / len(states)
    mean = first + shift
    scale = np.sqrt(np.maximum(squares / len(states) - shift**2, 0.0))
    scale[scale < 1e-6 * np.maximum(1.0, np.abs(mean))] = 1.0  # no more than the rounding of float32
    return mean, scale


def _chunks(count: int, size: int = CHUNK) -> list[np.ndarray]:
    """The numbers 0..count-1, `size` at a time."""
    return np.split(np.arange(count), range(size, count, size))
