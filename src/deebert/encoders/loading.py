"""Loading with transformers, every failure told in one line."""

import contextlib
import json
import logging
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from tokenizers import Tokenizer
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_protobuf_available, is_sentencepiece_available
from transformers.utils.hub import cached_file

from deebert.base.errors import UserError, one_line, some
from deebert.encoders.registry import FAMILIES, family_named
from deebert.encoders.unused import check_unexpected, refuse_adapters, refuse_settings
from deebert.settings.model_names import is_folder

log = logging.getLogger(__name__)

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")  # either holds the words of a supported family
SENTENCEPIECE = ("sentencepiece.bpe.model", "spm.model")  # so does either, but transformers alone cannot read it
TOKENIZER_CONFIG, TOKENIZER_FILE = "tokenizer_config.json", "tokenizer.json"
LETTERS = "A\u00c9\u65e5"  # a capital one, one with an accent, and a Chinese one: what normalizers change
CAPITALS = frozenset(string.ascii_uppercase)

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
        check_head(str(folder), config)
        model, report = load_model(folder, None, config)
    tokenizer = load_tokenizer(str(folder), folder, config)
    if report["missing_keys"]:
        raise UserError(f"{folder}: damaged model: {len(report['missing_keys'])} weights are missing")
    if wrong := sorted(key for key, *_ in report["mismatched_keys"]):
        raise UserError(f"{folder}: damaged model: {wrong[0]} has another shape than config.json says")
    check_unexpected(str(folder), model, report["unexpected_keys"])
    return model.eval(), tokenizer


def load_model(
    place: str | Path, revision: str | None, config: PreTrainedConfig
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A classifier as it is, and a report of weights that are missing, unexpected or of another shape."""
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
        told = f"{model_type} is not supported" if model_type else "config.json says no model_type"
        raise UserError(f"model {name}: {told}; supported: {', '.join(FAMILIES)}")
    return model_type


def supported_config(name: str, place: str | Path, revision: str | None = None, **labels: Any) -> PreTrainedConfig:
    """The configuration of the model `name`.

    Raises:
        UserError: early exit does not work on such a model, or nothing here would follow one of its settings.
    """
    # The type is looked at first: for one that it does not know, Hugging Face offers to run code found with the model.
    supported_type(name, model_type_of(place, revision))
    refuse_adapters(name, place, revision)
    config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False, **labels)
    if getattr(config, "is_decoder", False):
        raise UserError(f"model {name}: a decoder cannot be used; expected an encoder ({', '.join(FAMILIES)})")
    if config.num_hidden_layers < 2:
        raise UserError(
            f"model {name}: {config.num_hidden_layers} layer leaves nothing to exit from; expected 2 or more"
        )
    refuse_settings(name, config)
    config.return_dict = True  # how answers are handed on; and work in parts would only cost time
    config.output_attentions = False  # nobody reads these, and with some kinds of attention no model is saved with them
    if hasattr(config, "chunk_size_feed_forward"):
        config.chunk_size_feed_forward = 0
    if not all(isinstance(label, str) for label in config.id2label.values()):
        config.id2label = {row: str(label) for row, label in config.id2label.items()}
        config.label2id = {label: row for row, label in config.id2label.items()}
    return config


def check_head(where: str, config: PreTrainedConfig) -> None:
    """UserError where a trained head is no classifier, or reads more than the first token.

    That token is all that early exit gives it. A head with one output has nothing to choose from.
    """
    if (pooling := getattr(config, "classifier_pooling", "cls")) != "cls":
        raise UserError(f"{where}: classifier_pooling in config.json is {pooling}; expected cls, the first token")
    numbers = sorted(config.id2label)
    if len(numbers) < 2:
        raise UserError(f"{where}: its head has one output, as for a regression; expected a classifier of 2 or more")
    if numbers != list(range(len(numbers))):
        found = some([*map(str, numbers)])
        raise UserError(f"{where}: id2label in config.json numbers classes {found}; expected 0 to {len(numbers) - 1}")


def load_tokenizer(
    name: str, place: str | Path, config: PreTrainedConfig, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer of the model `name`, from a folder or a Hub repository.

    Raises:
        UserError: there is none, it is damaged, or it does not fit the model that `config` describes.
    """
    with load_errors(name, "its tokenizer "):
        # Without its files, Hugging Face makes one that knows no words and says nothing, or says much to no purpose.
        if Path(place).is_dir() and not any(Path(place, file).is_file() for file in (*VOCABULARIES, *SENTENCEPIECE)):
            raise UserError(f"model {name}: no tokenizer there; expected one of {', '.join(VOCABULARIES)}")
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, config=config, revision=revision, trust_remote_code=False)
        except Exception:
            _check_sentencepiece(name, place, revision)
            raise
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"model {name}: its tokenizer knows no words; expected one of {', '.join(VOCABULARIES)}")
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {name}: its tokenizer has no pad_token; expected one in tokenizer_config.json")
    _check_ids(name, tokenizer, config)
    with load_errors(name, "its tokenizer "):
        if not tokenizer("")["input_ids"]:
            raise UserError(f"model {name}: its tokenizer puts no token before a text; expected one such as [CLS]")
        _fit_token_types(name, tokenizer, config)
        _check_normalizer(name, place, tokenizer, revision)
    return tokenizer


def _check_sentencepiece(name: str, place: str | Path, revision: str | None) -> None:
    """UserError where the words are in a file of SentencePiece alone, and what reads such a file is not installed."""
    if is_sentencepiece_available() and is_protobuf_available():
        return
    file = next((file for file in SENTENCEPIECE if _has(place, file, revision)), None)
    if file and not any(_has(place, each, revision) for each in VOCABULARIES):
        raise UserError(
            f"model {name}: {file} alone cannot be read here; expected tokenizer.json beside it, which transformers'"
            " AutoTokenizer writes where the packages sentencepiece and protobuf are installed"
        )


def _check_ids(name: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """UserError where the tokenizer, with all tokens added to it, makes ids that the model has no embedding for."""
    token, highest = max(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    if highest >= config.vocab_size:
        raise UserError(
            f"model {name}: its tokenizer has {highest + 1} tokens, the last is {token!r};"
            f" expected at most the {config.vocab_size} of the model"
        )


def _fit_token_types(name: str, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Have as many token types made as the model knows: the second text of a pair has another.

    For a model with a single one none are made, which is told. For one with several they are, where the tokenizer's
    file has them: transformers 5 leaves them away unless `tokenizer_config.json` asks for them.

    Raises:
        UserError: the model has several, but fewer than the tokenizer.
    """
    known = getattr(config, "type_vocab_size", 0) if family_named(config.model_type).token_types else 0
    names = tokenizer.model_input_names
    are_left_away = known > 1 and tokenizer.is_fast and "token_type_ids" not in names
    if are_left_away and max(tokenizer.backend_tokenizer.encode("a", "b").type_ids) > 0:
        _set_inputs(tokenizer, [*names, "token_type_ids"])
    made = 1 + max(tokenizer("a", "b").get("token_type_ids") or [0])
    if known == 0 or made <= known:  # at 0 the model does not look at them
        return
    if known > 1:
        raise UserError(
            f"model {name}: its tokenizer makes {made} token types; expected at most the {known} of the model"
        )
    _set_inputs(tokenizer, [each for each in names if each != "token_type_ids"])
    log.info("model %s: it has one token type, so both texts of a pair get the same", name)


def _set_inputs(tokenizer: PreTrainedTokenizerBase, names: list[str]) -> None:
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names  # the latter is what is saved


def _check_normalizer(
    name: str, place: str | Path, tokenizer: PreTrainedTokenizerBase, revision: str | None = None
) -> None:
    """UserError where nothing tells for sure how letters are read, for then words are read as others, or as unknown.

    Unless `tokenizer_config.json` says `do_lower_case`, transformers' tokenizers of most families make all letters
    small, or leave them all as they are. They do so whatever `tokenizer.json` says, and whatever `vocab.txt` holds.
    """
    if not tokenizer.is_fast or "do_lower_case" in _settings(place, revision):
        return
    found = _normalized(tokenizer.backend_tokenizer)
    if file := _cached(place, TOKENIZER_FILE, revision):
        expected = _normalized(Tokenizer.from_file(file))
        if found != expected:
            raise UserError(
                f"model {name}: {TOKENIZER_FILE} reads {LETTERS!r} as {expected!r}, and transformers'"
                f" {type(tokenizer).__name__} as {found!r}; expected do_lower_case in {TOKENIZER_CONFIG}, or"
                " PreTrainedTokenizerFast as tokenizer_class there, which follows the file"
            )
        return
    if found == LETTERS:
        return
    special = frozenset(tokenizer.all_special_tokens)
    words = (word for word in tokenizer.get_vocab() if word not in special and word[0] != "[")
    capital = next((word for word in words if not CAPITALS.isdisjoint(word)), None)
    if capital:
        raise UserError(
            f"model {name}: vocab.txt has words with capital letters, such as {capital!r}, and nothing says to keep"
            f" them; expected {TOKENIZER_CONFIG} with do_lower_case, or {TOKENIZER_FILE}"
        )


def _normalized(tokenizer: Tokenizer) -> str:
    return LETTERS if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(LETTERS)


def _settings(place: str | Path, revision: str | None) -> dict[str, Any]:
    """What `tokenizer_config.json` says; nothing where there is none."""
    path = _cached(place, TOKENIZER_CONFIG, revision)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def _has(place: str | Path, file: str, revision: str | None) -> bool:
    """Whether a folder or a Hub repository holds `file`."""
    return _cached(place, file, revision) is not None


def _cached(place: str | Path, file: str, revision: str | None) -> str | None:
    """Where `file` of a folder or a Hub repository is; None where there is none."""
    missing_is_no_error = {"_raise_exceptions_for_missing_entries": False}
    return cached_file(place, file, revision=revision, **missing_is_no_error)


@contextlib.contextmanager
def load_errors(name: str, part: str = "") -> Iterator[None]:
    """Turn what Hugging Face raises on a bad model into one line, and keep its reports and retries off the screen.

    Args:
        part: of the model, with a space behind it; none = all of it.
    """
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
        raise UserError(
            f"model {name}: {part}cannot be loaded: {type(error).__name__}: {one_line(error)}{hint}"
        ) from error
    finally:
        for logger, verbosity in zip(loggers, verbosities, strict=True):
            logger.set_verbosity(verbosity)
