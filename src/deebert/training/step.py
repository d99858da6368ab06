"""One step of fine-tuning, and all that it changes."""

import contextlib
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import PreTrainedModel

from deebert.base.devices import autocast
from deebert.base.errors import UserError
from deebert.base.recipe import Recipe
from deebert.training import processes
from deebert.training.cpu_step import ATTENTION, WordGradient, lean_dropout
from deebert.training.first_token import first_token_only
from deebert.training.objective import Objective, Trained
from deebert.training.plan import Plan

MAX_GRADIENT_NORM = 1.0
ORDER, STEP, START = 0, 1, 2  # what a seed is for


class Joint(nn.Module):
    """A model and its objective as one module, so that DDP sees all their parameters and one pass through them."""

    def __init__(self, model: PreTrainedModel, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, inputs: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        return self.objective.loss(self.model, inputs, labels)


class Training:
    """A model under training, on the device where it is; use it as a context manager around the steps.

    Within the block the model is in training mode and computes as is cheapest for training. Afterwards it is in eval
    mode and computes as before, with the weights of the last step.

    Args:
        plan: its precision is fp32 or bf16, no longer auto.
        norm: the model's `first_token.place_to_cut`, cut for objectives that read first tokens alone. None = none is.
    """

    def __init__(self, model: PreTrainedModel, plan: Plan, norm: nn.Module | None = None) -> None:
        self.model, self.plan, self.device = model, plan, model.device
        self._norm = norm
        seed(self.device, plan.seed, START)
        self.joint = Joint(model, plan.objective(model).to(self.device))
        if (weights := class_weights(plan.class_weights, plan.train.labels, model.config.num_labels)) is not None:
            self.joint.objective.class_weights = torch.from_numpy(weights).to(self.device)
        groups = self.joint.objective.trained(model)
        self.weights = [weight for group in groups for weight in group.parameters]
        self.optimizer = _adamw(groups, plan.recipe)
        self._module: nn.Module = self.joint
        self._words: WordGradient | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            self._freeze_others(undo)
            undo.callback(self.joint.eval)
            # MPNet and DeBERTa have an attention of their own, and no other.
            if self.device.type == "cpu" and self.model._can_set_attn_implementation():
                undo.callback(self.model.set_attn_implementation, self.model.config._attn_implementation)
                self.model.set_attn_implementation(ATTENTION)
            if self._norm is not None and self.joint.objective.reads_first_token_alone:
                undo.enter_context(first_token_only(self._norm))
            if processes.count() > 1:
                self._module = DistributedDataParallel(self.joint)
                undo.callback(setattr, self, "_module", self.joint)  # DDP must not outlive the group of processes
            elif self.device.type == "cpu" and self._trains_words():
                # A GPU zeroes a gradient in no time, and adds up equal rows in no fixed order; DDP wants dense ones.
                self._words = WordGradient(self.model)
                undo.callback(self._words.close)
            self.joint.train()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def set_rate(self, share: float) -> None:
        """Have the next steps take `share` of the peak learning rates."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share

    def step(self, rows: np.ndarray, number: int = 0) -> Tensor:
        """One step on a batch, of which each process takes its share; returns the mean loss over the whole batch.

        `number` is the step's in the whole fine-tuning, from 0.
        """
        size, rank = processes.count(), processes.rank()
        mine, weight = rows[rank::size], size / len(rows)  # DDP takes the mean over processes
        if not len(mine):  # more processes than samples in the last batch: DDP still waits for everyone
            mine, weight = rows[:1], 0.0
        inputs = self.plan.train.encoded.padded(mine, self.plan.tokenizer.pad_token_id, self.device)
        labels = torch.from_numpy(self.plan.train.labels[mine]).to(self.device)
        self.joint.objective.step = number
        with autocast(self.plan.precision, self.device), lean_dropout(self.device):
            loss = self._module(inputs, labels) * weight
        loss.backward()
        loss = loss.detach()
        if self._words:
            self._words.fill()
        nn.utils.clip_grad_norm_(self.weights, MAX_GRADIENT_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self._words:
            self._words.clear()
        if size > 1:
            processes.all_reduce(loss)
        return loss / size

    def state(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by name: together with the number of the step, the training's state.

        Weights that are not trained here are of it, too: a phase before may have trained them.
        """
        state = {}
        for name, weight in self.joint.named_parameters():
            state[f"weight.{name}"] = weight
            moments = self.optimizer.state.get(weight, {})
            state |= {f"{kind}.{name}": tensor for kind, tensor in moments.items()}
        return state

    def _freeze_others(self, undo: contextlib.ExitStack) -> None:
        """Have no gradient made for parameters that are not trained."""
        trained = set(self.weights)
        for weight in self.joint.parameters():
            if weight not in trained and weight.requires_grad:
                undo.callback(weight.requires_grad_, True)
                weight.requires_grad_(False)

    def _trains_words(self) -> bool:
        return self.model.get_input_embeddings().weight in self.optimizer.state


def class_weights(kind: str, labels: np.ndarray, num_labels: int) -> np.ndarray | None:
    """Weights of the C classes, (C,) float32, as `finetune_backbone.class_weights` has them.

    balanced: N / (C n_c), with n_c of the N samples in class c, so that each class has the same share in the loss and
    the N samples weigh N together. none: None.

    Args:
        labels: of the train split, (N,) in 0..C-1.

    Raises:
        UserError: a class has no sample, and so no weight.
    """
    if kind == "none":
        return None
    counts = np.bincount(labels, minlength=num_labels)
    if not counts.all():
        raise UserError(
            f"params.yaml: finetune_backbone.class_weights: {kind} is not allowed, for class {counts.argmin()} has no"
            " train sample; expected none"
        )
    return (len(labels) / (num_labels * counts)).astype(np.float32)


def _adamw(groups: list[Trained], recipe: Recipe) -> torch.optim.AdamW:
    """AdamW with its moments in place; matrices decay, biases and normalisations do not."""
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [weight for weight in group.parameters if (weight.ndim > 1) == decays],
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "lr": peak,
                "peak": peak,
            }
            for group in groups
            for peak in (recipe.learning_rate if group.learning_rate is None else group.learning_rate,)
            for decays in (True, False)
        ],
        betas=(0.9, recipe.adam_beta2),
        fused=True,
    )
    for weight in (weight for group in groups for weight in group.parameters):
        optimizer.state[weight] = {
            "step": torch.zeros((), device=weight.device),
            "exp_avg": torch.zeros_like(weight, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
        }
    return optimizer


def seed(device: torch.device, *words: int) -> None:
    """Seed torch for what comes next on `device`, by what that is and not by what came before."""
    number = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))
    # Not torch.manual_seed, which takes many times as long to reach every kind of device there may be.
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
