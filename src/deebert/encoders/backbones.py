"""Encoders that early exit works on: a table of known models, and how to load, walk and answer with each family."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from deebert.base.errors import UserError, one_line
from deebert.base.recipe import Recipe
from deebert.data import toy
from deebert.settings.params import is_folder, model_name

log = logging.getLogger(__name__)

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # either holds the words of a supported family

if not sys.stderr.isatty():  # tqdm's own bars know that by themselves
    transformers.utils.logging.disable_progress_bar()


# Xin et al., ACL 2020, section 4.1 and their released scripts: no warm-up, no weight decay.
PAPER_BERT = Recipe(epochs=3, learning_rate=2e-5, batch_size=8)
PAPER_ROBERTA = Recipe(epochs=10, learning_rate=2e-5, batch_size=8)
# From scratch, so a schedule of its own, found by trial on the embedded data set: above a rate of 1e-3 or with little
# warm-up, one run in a few gets stuck before it learns to compose. One thread, because in a model this small more of
# them mostly wait for each other, and because the weights then do not depend on the number of cores.
TOY_BERT = Recipe(
    epochs=6,
    learning_rate=8e-4,
    batch_size=64,
    warmup_frac=0.2,
    weight_decay=0.01,
    adam_beta2=0.98,
    cpu_threads=1,
)


@dataclass(frozen=True)
class KnownModel:
    """A name of the `model` parameter. `hub_id` is None for the model that is made from nothing."""

    hub_id: str | None
    revision: str | None
    recipe: Recipe


KNOWN_MODELS = {
    "toy-bert": KnownModel(None, None, TOY_BERT),
    "bert-base": KnownModel("google-bert/bert-base-uncased", "86b5e0934494bd15c9632b12f734a8a67f723594", PAPER_BERT),
    "bert-large": KnownModel("google-bert/bert-large-uncased", "6da4b6a26a1877e173fca3225479512db81a5e5b", PAPER_BERT),
    "roberta-base": KnownModel("FacebookAI/roberta-base", "e2da8e2f811d1448a5b465c236feacd80ffbac7b", PAPER_ROBERTA),
    "roberta-large": KnownModel("FacebookAI/roberta-large", "722cf37b1afa9454edce342e7895e588b6ff1d59", PAPER_ROBERTA),
    "distilbert-base": KnownModel(
        "distilbert/distilbert-base-uncased", "12040accade4e8a0f71eabdb258fecc2e7e948be", PAPER_BERT
    ),
}


@dataclass(frozen=True)
class LayerParts:
    """The modules of one layer, in the order of use; all families share the original Transformer's (norms last)."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    activation: Callable[[Tensor], Tensor]
    down: nn.Linear
    output_norm: nn.LayerNorm


@dataclass(frozen=True)
class Family:
    """Where an architecture keeps the parts that a layer-by-layer walk needs.

    Attributes:
        layers: model -> the L transformer layers, in order.
        parts: one of these layers -> its modules, for code that runs a layer in another order than its own forward.
        head: model, first-token states (B, H) after layer L -> logits (B, C), as the model's own forward does.
        head_modules: names of the modules that make up the head; fine-tuning always starts them afresh.
        token_types: whether the embeddings take `token_type_ids`.
        positions_after_padding_id: whether positions are counted from `pad_token_id` + 1 and skip padding, not from 0.
    """

    layers: Callable[[PreTrainedModel], nn.ModuleList]
    parts: Callable[[nn.Module], LayerParts]
    head: Callable[[PreTrainedModel, Tensor], Tensor]
    head_modules: tuple[str, ...]
    token_types: bool
    positions_after_padding_id: bool = False


def _bert_parts(layer: Any) -> LayerParts:  # RoBERTa's too
    return LayerParts(
        query=layer.attention.self.query,
        key=layer.attention.self.key,
        value=layer.attention.self.value,
        attention_out=layer.attention.output.dense,
        attention_norm=layer.attention.output.LayerNorm,
        up=layer.intermediate.dense,
        activation=layer.intermediate.intermediate_act_fn,
        down=layer.output.dense,
        output_norm=layer.output.LayerNorm,
    )


def _distilbert_parts(layer: Any) -> LayerParts:
    return LayerParts(
        query=layer.attention.q_lin,
        key=layer.attention.k_lin,
        value=layer.attention.v_lin,
        attention_out=layer.attention.out_lin,
        attention_norm=layer.sa_layer_norm,
        up=layer.ffn.lin1,
        activation=layer.ffn.activation,
        down=layer.ffn.lin2,
        output_norm=layer.output_layer_norm,
    )


def _bert_head(model: Any, first_token: Tensor) -> Tensor:
    return model.classifier(model.dropout(model.bert.pooler(first_token[:, None])))


def _roberta_head(model: Any, first_token: Tensor) -> Tensor:
    return model.classifier(first_token[:, None])


def _distilbert_head(model: Any, first_token: Tensor) -> Tensor:
    return model.classifier(model.dropout(torch.relu(model.pre_classifier(first_token))))


# No lambdas: a classifier that goes to another process is pickled with its family, and a lambda cannot be.
def _bert_layers(model: Any) -> nn.ModuleList:
    return model.bert.encoder.layer


def _roberta_layers(model: Any) -> nn.ModuleList:
    return model.roberta.encoder.layer


def _distilbert_layers(model: Any) -> nn.ModuleList:
    return model.distilbert.transformer.layer


FAMILIES = {
    "bert": Family(_bert_layers, _bert_parts, _bert_head, ("classifier",), token_types=True),
    "roberta": Family(
        _roberta_layers,
        _bert_parts,
        _roberta_head,
        ("classifier",),
        token_types=True,
        positions_after_padding_id=True,
    ),
    "distilbert": Family(
        _distilbert_layers,
        _distilbert_parts,
        _distilbert_head,
        ("pre_classifier", "classifier"),
        token_types=False,
    ),
}


def family_of(model: PreTrainedModel) -> Family:
    """The `Family` of a loaded model."""
    return FAMILIES[model.config.model_type]


def recipe_for(name: str) -> Recipe:
    """The recipe that comes with the `model` parameter `name`; folders and Hub ids get the paper's for BERT."""
    return KNOWN_MODELS[name].recipe if name in KNOWN_MODELS else PAPER_BERT


def start_model(
    name: str, label_names: Sequence[str], max_length: int, layers: int | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, str]]:
    """Return an encoder with a fresh classifier for `label_names` (in id order), its tokenizer and its origin.

    Weights that are made here come from torch's global generator: seed it first. The tokenizer's `model_max_length`
    is set to `max_length` tokens, so every later stage cuts alike. With `layers` the model ends after that many.

    Raises:
        UserError: not found, no network, unsupported architecture, damaged weights, or `max_length` beyond the
            model's positions, or `layers` beyond its depth.
    """
    labels = {"id2label": dict(enumerate(label_names)), "label2id": {n: i for i, n in enumerate(label_names)}}
    known = KNOWN_MODELS.get(name)
    if known and known.hub_id is None:
        config = toy.config(num_labels=len(label_names))
        kept = _truncate(name, config, layers)
        model = AutoModelForSequenceClassification.from_config(config)
        model.config.id2label, model.config.label2id = labels["id2label"], labels["label2id"]
        tokenizer, origin = toy.tokenizer(), {"model": name}
    else:
        place, revision = (known.hub_id, known.revision) if known else _place(name)
        with load_errors(name):
            config = _supported_config(name, place, revision, **labels)
            kept = _truncate(name, config, layers)  # now, so that deeper layers are not even loaded
            model, report = _load(place, revision, config)
        tokenizer = load_tokenizer(name, place, config, revision)
        _renew_head(name, model, report)
        origin = {
            "model": model_name(name),
            "source": "folder" if is_folder(name) else place,
            "revision": revision or getattr(config, "_commit_hash", None) or "",
        }
    origin |= kept
    check_length(name, model.config, max_length)
    tokenizer.model_max_length = max_length
    tokenizer.padding_side = "right"  # every head reads the first token, which must not be padding
    model.config.problem_type = "single_label_classification"
    return model, tokenizer, origin


def load_classifier(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a fine-tuned classifier, in eval mode and float32, exactly as it was saved.

    Raises:
        UserError: the folder is missing, is of an unsupported architecture, or lacks some of the weights.
    """
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no model here (config.json is missing); `dvc repro` makes it")
    with load_errors(str(folder)):
        config = _supported_config(str(folder), folder)
        model, report = _load(folder, None, config)
    tokenizer = load_tokenizer(str(folder), folder, config)
    if report["missing_keys"]:
        raise UserError(f"{folder}: damaged model: {len(report['missing_keys'])} weights are missing")
    if wrong := sorted(key for key, *_ in report["mismatched_keys"]):
        raise UserError(f"{folder}: damaged model: {wrong[0]} has another shape than config.json says")
    return model.eval(), tokenizer


def _load(place: str | Path, revision: str | None, config: PreTrainedConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
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


def _place(name: str) -> tuple[str, str | None]:
    if is_folder(name):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            raise UserError(f"params.yaml: model: {name!r}: no config.json there; expected a Hugging Face model folder")
        if not any(folder.glob("model*.safetensors")):
            raise UserError(
                f"params.yaml: model: {name!r}: no model.safetensors there;"
                " pickled weights are not read, for they may run code"
            )
        return str(folder), None
    place, _, revision = name.partition("@")
    if not revision:
        log.warning("model %s has no @commit: a later run may get other weights", name)
    return place, revision or None


def _supported_config(name: str, place: str | Path, revision: str | None = None, **labels: Any) -> PreTrainedConfig:
    # The type is looked at first: for one that it does not know, Hugging Face offers to run code found with the model.
    model_type = PreTrainedConfig.get_config_dict(place, revision=revision)[0].get("model_type")
    if model_type not in FAMILIES:
        raise UserError(f"model {name}: {model_type} is not supported; supported: {', '.join(FAMILIES)}")
    config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False, **labels)
    if getattr(config, "is_decoder", False):
        raise UserError(f"model {name}: a decoder cannot be used; expected an encoder ({', '.join(FAMILIES)})")
    if config.num_hidden_layers < 2:
        raise UserError(
            f"model {name}: {config.num_hidden_layers} layer leaves nothing to exit from; expected 2 or more"
        )
    return config


def _truncate(name: str, config: PreTrainedConfig, layers: int | None) -> dict[str, int]:
    """Make `config` that of the model's first `layers` layers; returns what there is to tell of it."""
    depth = config.num_hidden_layers
    if layers is None:
        return {}
    if layers > depth:
        raise UserError(
            f"params.yaml: finetune_backbone.layers: {layers} is not allowed;"
            f" model {name} has {depth} layers: expected 2 to {depth}, or default"
        )
    config.num_hidden_layers = layers
    return {"layers": layers, "layers_in_source": depth}


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


def check_length(name: str, config: Any, max_length: int) -> None:
    # RoBERTa counts its positions from pad_token_id + 1, so that many of the table's rows are out of reach.
    usable = config.max_position_embeddings - (
        config.pad_token_id + 1 if FAMILIES[config.model_type].positions_after_padding_id else 0
    )
    if max_length > usable:
        raise UserError(
            f"params.yaml: finetune_backbone.max_length: {max_length} is not allowed;"
            f" model {name} reads at most {usable} tokens"
        )


def _renew_head(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Check that only the head was absent from the checkpoint, and start it afresh if it was present.

    A head from elsewhere may hold the same labels in another order, which no shape can tell.
    """
    heads = family_of(model).head_modules
    fresh = {key for key in report["missing_keys"] if key.split(".")[0] in heads or ".pooler." in key}
    if lost := sorted(set(report["missing_keys"]) - fresh):
        raise UserError(f"model {name}: damaged checkpoint: {len(lost)} weights are missing, {lost[0]} first")
    wrong = sorted(key for key, *_ in report["mismatched_keys"] if key.split(".")[0] not in heads)
    if wrong:
        raise UserError(f"model {name}: damaged checkpoint: {wrong[0]} has another shape than config.json says")
    for module in heads:
        if not any(key.split(".")[0] == module for key in report["missing_keys"]):
            log.info("model %s: its %s is started afresh for this task's labels", name, module)
        for part in getattr(model, module).modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=model.config.initializer_range)
                nn.init.zeros_(part.bias)


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
