"""The first training, of the backbone: the loop, whatever it is that a step minimises.

A training may be killed at any moment. It goes on from its last checkpoint and, on a CPU, ends with the same bytes.
The library's `Trainer` cannot do that, so the loop is our own. A generator draws the order of an epoch and the dropout
of a step, and its seed is the number of the epoch or step. So the whole state is the weights, the optimizer's moments
and the number of the step.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers import PreTrainedModel

from deebert.base.devices import autocast, resolve_precision
from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.data.batches import batches_by_length, shuffled_batches
from deebert.data.scores import METRICS
from deebert.training import finite, processes
from deebert.training.checkpoints import Checkpoints
from deebert.training.first_token import place_to_cut
from deebert.training.plan import Phase, Plan, key, phases
from deebert.training.records import curve_points, environment, whole_steps
from deebert.training.step import ORDER, STEP, Training, seed
from deebert.training.stops import Stop, stop_requests, stopped

log = logging.getLogger(__name__)

STAGE = "finetune_backbone"
ADVICE = "try a lower learning_rate, or precision: fp32"
EVALUATION_TOKENS = 8192  # padded, per forward pass; bounds the memory


def finetune(
    model: PreTrainedModel, plan: Plan, device: torch.device, checkpoints: Checkpoints
) -> tuple[dict[str, Any], list[Row]]:
    """Train `model` in place: AdamW, linear schedule, batches of similar length, the same however many processes.

    Goes on from the newest of `checkpoints` that was made from the same model, data, settings, versions and code.
    Where it is told to stop, all processes stop after the same step, which is saved.

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
            f"{STAGE}.batch_size: {recipe.batch_size} samples cannot be shared by {size} processes;"
            f" expected a multiple of {size}"
        )
    if recipe.cpu_threads:
        torch.set_num_threads(recipe.cpu_threads)
    with processes.joined(device), stop_requests() as asked_to_stop:
        plan = dataclasses.replace(plan, precision=resolve_precision(plan.precision, device))
        record = {**dataclasses.asdict(recipe), "seed": plan.seed, "precision": plan.precision, **environment(device)}
        if plan.class_weights != "none":
            record["class_weights"] = plan.class_weights
        if plan.is_for_exits:
            record["objective"] = plan.objective.__module__.rpartition(".")[2]
        else:
            del record["full_depth_frac"]
        processes.on_first(lambda: checkpoints.open(key(record, model, plan)))
        rows = _Run(model.to(device), plan, checkpoints).to_the_end(asked_to_stop)
    return record, rows


class _Run:
    """A fine-tuning on its way: the number of steps done, their losses, and the curve so far."""

    training: Training  # of the phase that is under way
    began: tuple[int, float]  # after which step, and when, in seconds

    def __init__(self, model: PreTrainedModel, plan: Plan, checkpoints: Checkpoints) -> None:
        self.model, self.plan, self.checkpoints = model, plan, checkpoints
        self.counts = plan.train.encoded.lengths
        self.steps_per_epoch = math.ceil(len(self.counts) / plan.recipe.batch_size)
        self.steps = whole_steps(plan.recipe.epochs, self.steps_per_epoch)
        self.points = curve_points(self.steps)
        self.losses = torch.zeros(self.steps, device=model.device)  # each the mean over all samples of its step
        self.done = 0
        self.rows: list[Row] = []

    def to_the_end(self, asked_to_stop: Callable[[], Stop | None]) -> list[Row]:
        """Make all steps from the last checkpoint on; returns the curve."""
        norm = place_to_cut(self.model)  # by the weights of the start, whether the training was broken off or not
        saved = self._find()
        self.began = self.done, time.monotonic()
        options = {"desc": "fine-tuning", "unit": "step", "disable": None if processes.rank() == 0 else True}
        with tqdm(total=self.steps, initial=self.done, **options) as bar, logging_redirect_tqdm():
            for phase in phases(self.plan, self.steps):
                if phase.end < self.done:  # of a phase that has just ended, the state is its own: the weights are there
                    continue
                plan = dataclasses.replace(self.plan, objective=phase.objective)
                with Training(self.model, plan, norm) as self.training:
                    if phase.start < self.done:
                        self._take_up(saved)
                        saved = {}
                    self._to_the_end_of(phase, bar, asked_to_stop)
                del self.training  # the next phase has moments of its own, which may need the room
        return self.rows

    def _to_the_end_of(self, phase: Phase, bar: tqdm, asked_to_stop: Callable[[], Stop | None]) -> None:
        batches: list[np.ndarray] = []
        while self.done < phase.end:
            epoch, place = divmod(self.done, self.steps_per_epoch)
            if not batches or place == 0:
                batches = epoch_batches(self.counts, self.plan.recipe.batch_size, self.plan.seed, epoch)
            self._step(batches[place], phase)
            bar.update()
            if self.done in self.points:
                bar.set_postfix(loss=f"{self._note_loss():.4f}", refresh=False)
            if processes.rank() == 0 and (self.done % self.steps_per_epoch == 0 or self.done == self.steps):
                self._note_score(epoch)
            self._save_or_stop(asked_to_stop())

    def _find(self) -> dict[str, Tensor]:
        """The tensors of the newest checkpoint, none where there is none; all processes get the first one's number."""
        saved: dict[str, Tensor] = {}
        if processes.rank() == 0 and (found := self.checkpoints.load()):
            self.done, saved, notes = found
            self.rows = notes["rows"]
            log.info("going on after step %d of %d, from %s", self.done, self.steps, self.checkpoints.folder)
        (self.done,) = processes.agree(self.done)
        return saved

    def _take_up(self, saved: dict[str, Tensor]) -> None:
        """Go on from the state that the first process has `saved`; all others get it."""
        state = self._state()
        if processes.rank() == 0:
            for name, tensor in state.items():
                tensor.data.copy_(saved[name])
        if processes.count() > 1:
            for tensor in state.values():
                distributed.broadcast(tensor.data, src=0)

    def _state(self) -> dict[str, Tensor]:
        return {"losses": self.losses, **self.training.state()}

    def _step(self, batch: np.ndarray, phase: Phase) -> None:
        steps = phase.end - phase.start
        warmup_steps = whole_steps(self.plan.recipe.warmup_frac, steps)
        self.training.set_rate(rate(self.done - phase.start, steps, warmup_steps))
        seed(self.model.device, self.plan.seed, STEP, self.done, processes.rank())
        self.losses[self.done] = self.training.step(batch, self.done)
        self.done += 1

    def _note_loss(self) -> float:
        """Add the mean loss since the last point to the curve, and return it."""
        loss = self.losses[self.points[self.done] : self.done].mean().item()
        try:
            finite.check_loss(loss, STAGE, f"at step {self.done} of {self.steps}", ADVICE)
        except UserError as error:
            raise processes.told_once(error) from None
        self._note("train", "loss", loss)
        return loss

    def _note_score(self, epoch: int) -> None:
        """Score the validation split at the end of `epoch` (from 0), add that to the curve and tell it."""
        value = score(self.model, self.plan)
        self._note("validation", self.plan.metric, value)
        loss = self.losses[epoch * self.steps_per_epoch : self.done].mean().item()
        told = "epoch %.3g of %.3g: training loss %.4f, validation %s %.4f"
        log.info(told, self.rows[-1]["epoch"], self.plan.recipe.epochs, loss, self.plan.metric, value)

    def _note(self, split: str, metric: str, value: float) -> None:
        now = {"epoch": round(self.done / self.steps_per_epoch, 4), "step": self.done}
        self.rows.append({**now, "split": split, "metric": metric, "value": value})

    def _save_or_stop(self, asked: Stop | None) -> None:
        """Save the state when it is time to; the processes agree on that, and on whether to go on."""
        is_due = processes.rank() == 0 and self.checkpoints.due()
        stop, is_due = processes.agree(asked or 0, is_due)
        if stop or is_due or self.done == self.steps:
            processes.on_first(self._save)
        if is_due and self.done < self.steps and processes.rank() == 0:  # a log has no progress bar
            start, began = self.began
            minutes = (time.monotonic() - began) / (self.done - start) * (self.steps - self.done) / 60
            log.info("step %d of %d is saved, about %.0f minutes left", self.done, self.steps, minutes)
        if stop:
            state = f"step {self.done} of {self.steps} is saved, and the next run goes on from there"
            raise stopped(STAGE, Stop(stop), state)

    def _save(self) -> None:
        finite.check_weights(self.training.weights, STAGE, ADVICE)
        self.checkpoints.save(self.done, self._state(), {"rows": self.rows})


def epoch_batches(counts: np.ndarray, batch_size: int, plan_seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch (from 0), in order; `counts` (N,) are the tokens of each sample."""
    seed(torch.device("cpu"), plan_seed, ORDER, epoch)
    return shuffled_batches(counts, batch_size)


def rate(step: int, steps: int, warmup_steps: int) -> float:
    """Share of the peak learning rate in `step` (from 0): up in a line to 1, then down to 0."""
    if step < warmup_steps:
        return step / warmup_steps
    return (steps - step) / (steps - warmup_steps)


def score(model: PreTrainedModel, plan: Plan) -> float:
    """What the classifier scores on the validation split, at full depth."""
    encoded, labels = plan.validation.encoded, plan.validation.labels
    predictions = np.empty(len(labels), dtype=np.int64)
    was_training = model.training
    model.eval()
    with torch.inference_mode(), autocast(plan.precision, model.device):
        for rows in batches_by_length(encoded.lengths, EVALUATION_TOKENS):
            logits = model(**encoded.padded(rows, plan.tokenizer.pad_token_id, model.device)).logits
            predictions[rows] = logits.argmax(dim=1).cpu().numpy()
    model.train(was_training)
    return METRICS[plan.metric](labels, predictions)
