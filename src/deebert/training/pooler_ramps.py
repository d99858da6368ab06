"""The paper's ramps trained by AdamW: a few epochs over cached states, all ramps at once."""

import logging
import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from deebert.base.devices import autocast, resolve_precision
from deebert.base.rows import Row
from deebert.ramps import PoolerRamps, Ramps
from deebert.training import finite
from deebert.training.cpu_step import lean_dropout
from deebert.training.ramp_plan import STAGE, RampPlan, Standard, curve_rows, shown
from deebert.training.records import curve_points
from deebert.training.stops import stop_requests, stopped

log = logging.getLogger(__name__)

DROPOUT = 0.1  # of a ramp, while it trains; BERT's own figure
MAX_DECAY_PER_STEP = 0.5  # of a weight


def train_pooler_ramps(plan: RampPlan, standard: Standard) -> tuple[Ramps, list[Row]]:
    """Train all ramps at once on standardised states, by the sum of their cross-entropies (Xin et al., section 3.2).

    Returns:
        The ramps, which read standardised states; and their curve.

    Raises:
        UserError: the loss is not finite, or SIGTERM.
    """
    torch.manual_seed(plan.seed)
    run = _Run(plan, standard)
    bar = tqdm(total=run.steps, desc="ramps", unit="step", disable=None)
    with bar, logging_redirect_tqdm(), stop_requests() as asked_to_stop:
        for epoch in range(1, plan.settings.epochs + 1):
            for rows in run.epoch_batches():
                run.step(rows)
                bar.update()
                if run.done in run.points:
                    bar.set_postfix(loss=f"{run.note_loss():.4f}", refresh=False)
                if reason := asked_to_stop():
                    raise stopped(STAGE, reason, "nothing is written")
            run.end_epoch(epoch)
    finite.check_weights(run.ramps.parameters(), STAGE, "try a lower learning_rate or weight_decay")
    return run.ramps.cpu(), run.rows


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


class _Run:
    """The ramps on their way: the number of steps done, their losses, and the curve so far."""

    def __init__(self, plan: RampPlan, standard: Standard) -> None:
        self.plan, self.standard, self.device = plan, standard, standard.device
        settings, num_samples = plan.settings, len(plan.train)
        _, num_ramps, hidden_size = plan.train.states.shape
        self.precision = resolve_precision("auto", self.device)  # the trained ramps are float32 in any case
        self.generator = torch.Generator().manual_seed(plan.seed)
        self.ramps = PoolerRamps(num_ramps, hidden_size, plan.num_labels).to(self.device).train()
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
        scores = self.standard.scores(self.ramps, self.plan.validation, metric)
        self._note("validation", metric, scores)
        log.info(
            "epoch %d of %d: training loss %.4f, validation %s %s",
            *(epoch, self.plan.settings.epochs, loss, metric, shown(scores)),
        )

    def _note(self, split: str, metric: str, values: list[float]) -> None:
        epoch = round(self.done / self.steps_per_epoch, 4)
        self.rows += curve_rows(epoch, self.done, split, metric, values)
