"""What a checkpoint holds and the model would not use: told in one line, or refused where it changes the answers.

transformers passes over weights that it does not know, over settings that it no longer honours, and over adapters.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from deebert.base.errors import UserError
from deebert.encoders.registry import family_named

log = logging.getLogger(__name__)

ADAPTERS = "adapter_config.json"
POOLER = "pooler"  # some families' pretrained models come with one that no classifier reads


def refuse_adapters(name: str, place: str | Path, revision: str | None = None) -> None:
    """UserError where adapters lie beside the model's weights: the weights alone are another model."""
    if find_adapter_config_file(str(place), revision=revision):
        raise UserError(
            f"model {name}: {ADAPTERS} says that it has adapters, which are not read;"
            " expected a model into which they are merged (merge_and_unload of peft)"
        )


def refuse_settings(name: str, config: PreTrainedConfig) -> None:
    """UserError where `config.json` sets what neither transformers nor our layers would follow."""
    for key, (value, expected) in family_named(config.model_type).ignored_settings(config).items():
        raise UserError(f"model {name}: {key} in config.json is {value}, which cannot be followed; expected {expected}")


def refuse_other_files(name: str, config: PreTrainedConfig, tokenizer: Mapping[str, Any]) -> None:
    """UserError where weights would be in another file than those that are kept, or code beside them would count.

    Args:
        tokenizer: what `tokenizer_config.json` says.
    """
    if file := getattr(config, "transformers_weights", None):
        raise UserError(
            f"model {name}: transformers_weights in config.json is {file}; expected none, and model.safetensors"
        )
    known = (("config.json", getattr(config, "auto_map", None)), ("tokenizer_config.json", tokenizer.get("auto_map")))
    for file, code in known:
        if isinstance(code, dict) and any(key.startswith(("AutoModel", "AutoTokenizer")) for key in code):
            raise UserError(
                f"model {name}: auto_map in {file} names code of its own, which is not run; expected none, if"
                f" transformers' own code for {config.model_type} answers as it does"
            )


def check_unexpected(where: str, model: PreTrainedModel, unexpected: Iterable[str], is_cut: bool = False) -> list[str]:
    """The names of `unexpected` weights that belong to another kind of head, in order.

    Names inside the encoder may lack the encoder's own name: checkpoints of a bare encoder do.

    Args:
        where: what an error begins with.
        unexpected: names of weights that are in the checkpoint and not in `model`.
        is_cut: `model` has been given fewer layers than the checkpoint has.

    Raises:
        UserError: some are inside the encoder. So it was trained to compute something else.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {child for child, _ in model.base_model.named_children()}
    buffers = {buffer for buffer, _ in model.named_buffers()}  # numbers that follow from the settings
    ours = set(model.state_dict())
    inside, others = [], []
    for key in sorted(unexpected):
        full = prefix + key.removeprefix(prefix)
        part = full.split(".")[1]
        if full in buffers or (is_cut and _in_another_layer(full) in ours):
            continue
        belongs = part in parts or (key.startswith(prefix) and part != POOLER)
        (inside if belongs else others).append(key)
    if inside:
        raise UserError(
            f"{where}: {len(inside)} weights inside the encoder would not be used, {inside[0]} first;"
            f" expected those of a {model.config.model_type} as config.json describes it"
        )
    return others


def tell_unused(name: str, keys: Iterable[str]) -> None:
    """Say in one line which weights of the checkpoint are left alone; none, nothing said."""
    counts = Counter(".".join(key.split(".")[:2]) for key in keys)
    if counts:
        told = ", ".join(f"{part} ({count})" for part, count in sorted(counts.items()))
        log.info("model %s: weights that a classifier does not need are left alone: %s", name, told)


def _in_another_layer(key: str) -> str:
    """The name of the same weight in the second layer; the first one may lack some, as ModernBERT's does."""
    return re.sub(r"\.\d+\.", ".1.", key, count=1)
