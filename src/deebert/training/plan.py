"""What is to be trained and how: everything that the result of a fine-tuning depends on, and a name for all of it."""

import hashlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deebert.base.recipe import Recipe
from deebert.data.encoded import Encoded
from deebert.training.objective import FullDepth, Objective
from deebert.training.records import whole_steps


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
        class_weights: none or balanced, see `step.class_weights`.
    """

    tokenizer: PreTrainedTokenizerBase
    train: Samples
    validation: Samples
    metric: str
    recipe: Recipe
    seed: int
    precision: str
    objective: type[Objective]
    class_weights: str = "none"

    @property
    def is_for_exits(self) -> bool:
        """Whether another objective than full depth has a share of the epochs."""
        return self.objective is not FullDepth and self.recipe.full_depth_frac < 1


@dataclass(frozen=True)
class Phase:
    """Steps from `start` to before `end`, of the whole fine-tuning, with an optimizer and a schedule of their own."""

    objective: type[Objective]
    start: int
    end: int


def phases(plan: Plan, steps: int) -> list[Phase]:
    """What is minimised when, over `steps` steps: one phase, or two where full depth comes first."""
    middle = whole_steps(plan.recipe.full_depth_frac, steps) if plan.is_for_exits else steps
    both = (Phase(FullDepth, 0, middle), Phase(plan.objective, middle, steps))
    return [phase for phase in both if phase.start < phase.end]


def key(record: dict[str, Any], model: PreTrainedModel, plan: Plan) -> str:
    """A name for everything that the result of a training depends on, the code of this package included."""
    objective = f"{plan.objective.__module__}.{plan.objective.__qualname__}"
    told = hashlib.sha256(f"{record} {objective} {plan.metric} {model.config.to_json_string()}".encode())
    for name, weight in model.named_parameters():
        told.update(f"{name} {tuple(weight.shape)}".encode())
        told.update(weight.detach().cpu().contiguous().numpy())
    for split in (plan.train, plan.validation):
        for array in (split.encoded.input_ids, split.encoded.offsets, split.encoded.token_type_ids, split.labels):
            told.update(b"none" if array is None else np.ascontiguousarray(array))
    modules = {module.__file__ for name, module in sys.modules.items() if name.startswith("deebert.")}
    for file in sorted({*modules, inspect.getfile(plan.objective)}):
        told.update(Path(file).read_bytes())
    return told.hexdigest()[:32]
