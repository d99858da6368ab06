"""Beginning a fine-tuning as the stages do, without their files."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from deebert.base.files import write_json
from deebert.encoders.resolve import resolve
from deebert.encoders.start import Beginning, Wanted, begin


def begin_with(
    model: str,
    label_names: Sequence[str],
    max_length: int = 16,
    truncate_to: int | None = None,
    task: str = "tiny",
    epochs: float | None = None,
) -> Beginning:
    """What `plan` and then `finetune_backbone` make of a value of the `model` parameter."""
    return begin(resolve(model)[0], Wanted(task, label_names, max_length, truncate_to, epochs))


def start_model(*arguments: Any, **options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """The same, for models that are not trained yet."""
    beginning = begin_with(*arguments, **options)
    assert beginning.ramps is None
    return beginning.model, beginning.tokenizer, beginning.origin


def write_start(folder: Path, model: str = "./start") -> None:
    """Write `data/start.json` of a project in `folder`, as its stage `plan` does."""
    with contextlib.chdir(folder):
        write_json(Path("data/start.json"), dataclasses.asdict(resolve(model)[0]))


def head_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules of the head."""
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]
