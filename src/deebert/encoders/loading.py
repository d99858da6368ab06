"""Loading with transformers, every failure told in one line."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from deebert.base.errors import UserError, one_line
from deebert.encoders.registry import FAMILIES
from deebert.settings.model_names import is_folder

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # either holds the words of a supported family

if not sys.stderr.isatty():  # tqdm's own bars know that by themselves
    transformers.utils.logging.disable_progress_bar()


def load_classifier(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a fine-tuned classifier, in eval mode and float32, exactly as it was saved.

    Raises:
        UserError: the folder is missing, is of an unsupported architecture, or lacks some of the weights.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing); `dvc repro` makes it")
    with load_errors(str(folder)):
        config = supported_config(str(folder), folder)
        if (pooling := getattr(config, "classifier_pooling", "cls")) != "cls":
            raise UserError(f"{folder}: classifier_pooling in config.json is {pooling}; expected cls, the first token")
        model, report = load_model(folder, None, config)
    tokenizer = load_tokenizer(str(folder), folder, config)
    if report["missing_keys"]:
        raise UserError(f"{folder}: damaged model: {len(report['missing_keys'])} weights are missing")
    if wrong := sorted(key for key, *_ in report["mismatched_keys"]):
        raise UserError(f"{folder}: damaged model: {wrong[0]} has another shape than config.json says")
    return model.eval(), tokenizer


def load_model(
    place: str | Path, revision: str | None, config: PreTrainedConfig
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A classifier as it is, and a report of weights that are missing or of another shape."""
    return AutoModelForSequenceClassification.from_pretrained(
        place,
        config=config,
        revision=revision,
        use_safetensors=True,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        dtype=torch.float32,
    )


def model_type_of(place: str | Path, revision: str | None = None) -> str | None:
    """What `config.json` says of the architecture, before any code is chosen by it."""
    return PreTrainedConfig.get_config_dict(place, revision=revision)[0].get("model_type")


def supported_type(name: str, model_type: str | None) -> str:
    """`model_type` of the model `name`; UserError where early exit does not work on such a model."""
    if model_type not in FAMILIES:
        raise UserError(f"model {name}: {model_type} is not supported; supported: {', '.join(FAMILIES)}")
    return model_type


def supported_config(name: str, place: str | Path, revision: str | None = None, **labels: Any) -> PreTrainedConfig:
    """The configuration of the model `name`.

    Raises:
        UserError: early exit does not work on such a model.
    """
    # The type is looked at first: for one that it does not know, Hugging Face offers to run code found with the model.
    supported_type(name, model_type_of(place, revision))
    config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False, **labels)
    if getattr(config, "is_decoder", False):
        raise UserError(f"model {name}: a decoder cannot be used; expected an encoder ({', '.join(FAMILIES)})")
    if config.num_hidden_layers < 2:
        raise UserError(
            f"model {name}: {config.num_hidden_layers} layer leaves nothing to exit from; expected 2 or more"
        )
    return config


def load_tokenizer(
    name: str, place: str | Path, config: PreTrainedConfig, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `name`, from a folder or a Hub repository.

    Raises:
        UserError: there is none, it is damaged, or it does not fit the model that `config` describes.
    """
    with load_errors(name):
        # Without its files, Hugging Face makes one that knows no words and says nothing, or says much to no purpose.
        if Path(place).is_dir() and not any(Path(place, file).is_file() for file in VOCABULARIES):
            raise UserError(f"model {name}: no tokenizer there; expected one of {', '.join(VOCABULARIES)}")
        tokenizer = AutoTokenizer.from_pretrained(place, config=config, revision=revision, trust_remote_code=False)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"model {name}: its tokenizer knows no words; expected one of {', '.join(VOCABULARIES)}")
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"model {name}: its tokenizer has {tokenizer.vocab_size} tokens;"
            f" expected at most the {config.vocab_size} of the model"
        )
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {name}: its tokenizer has no pad_token; expected one in tokenizer_config.json")
    return tokenizer


@contextlib.contextmanager
def load_errors(name: str) -> Iterator[None]:
    """Turn what Hugging Face raises on a bad model into one line, and keep its reports and retries off the screen."""
    loggers = (transformers.logging, huggingface_hub.logging)
    verbosities = [logger.get_verbosity() for logger in loggers]
    for logger in loggers:
        logger.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # on a damaged file each of its libraries raises types of its own, or bare Exception
        hint = "" if is_folder(name) or Path(name).exists() else "; without a network, give a folder as model"
        raise UserError(f"model {name}: cannot be loaded: {type(error).__name__}: {one_line(error)}{hint}") from error
    finally:
        for logger, verbosity in zip(loggers, verbosities, strict=True):
            logger.set_verbosity(verbosity)
