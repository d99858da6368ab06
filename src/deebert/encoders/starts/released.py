"""Checkpoints that the paper's own code has trained: taken over with their ramps, and not trained again.

castorini/DeeBERT and the DeeBERT example of transformers 3 and 4 save the same format: the encoder's weights under
Hugging Face's names, a ramp ("highway") after every layer, the last of which no training has ever touched, and on top
the encoder's pooler with one linear classifier, for RoBERTa too.
"""

import contextlib
import logging
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from deebert.base.errors import UserError, one_line
from deebert.base.files import read_json
from deebert.encoders.loading import load_errors, load_tokenizer
from deebert.encoders.start import Beginning, Start, Wanted
from deebert.settings.model_names import model_name

log = logging.getLogger(__name__)

WEIGHTS, PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
# Where the reference keeps what Hugging Face has moved since; all other names are the same.
_OLD_NAMES = {
    "bert": {},
    "roberta": {"classifier.dense": "roberta.pooler.dense", "classifier.out_proj": "classifier"},
}
_RAMP_NAMES = {  # of a tensor in `ramps.safetensors`, which stacks all ramps -> in a highway
    "dense_weight": "pooler.dense.weight",
    "dense_bias": "pooler.dense.bias",
    "out_weight": "classifier.weight",
    "out_bias": "classifier.bias",
}
_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # counters that some versions have saved
# How the reference numbers labels. Its RoBERTa swaps the last two so as to agree with a model published for MNLI.
# On the other five tasks it numbers them as GLUE does.
_MNLI_LABELS = {
    "bert": ("contradiction", "entailment", "neutral"),
    "roberta": ("contradiction", "neutral", "entailment"),
}
_SETTINGS = (  # of config.json, that shape the network; files of that time lack `model_type` and have keys long gone
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


@dataclass(frozen=True)
class Released:
    """A checkpoint in the reference's format: `family` is bert or roberta, `weights` go by the reference's names."""

    folder: Path
    family: str
    weights: dict[str, Tensor]


def find(model: str) -> Released | None:
    """The checkpoint in the folder `model`, or None if that is not in the reference's format.

    Pickled weights are read by a loader that knows tensors and nothing else, so that they cannot run code.
    """
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        return None
    if files := _weight_files(model, folder / WEIGHTS):
        family = _family(name for file in files for name in _safe_names(model, file))
        weights = _joined(model, (_safely_loaded(model, file) for file in files)) if family else {}
    elif files := _weight_files(model, folder / PICKLED_WEIGHTS):
        weights = _joined(model, (_unpickled(model, file) for file in files))
        family = _family(weights)
    else:
        return None
    return Released(folder, family, weights) if family else None


def _weight_files(model: str, path: Path) -> list[Path]:
    """The file `path`, or else those that an index beside it names; none where there is neither.

    The index of weights in several files is `model.safetensors.index.json`: `weight_map` has the file of each name.
    """
    if path.is_file():
        return [path]
    index = path.with_name(f"{path.name}.index.json")
    if not index.is_file():
        return []
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    names = sorted(set(map(str, places.values()))) if isinstance(places, dict) else []
    if not names or any(Path(name).name != name for name in names):
        raise UserError(f"model {model}: {index.name} is no index of weights: expected weight_map, name to file")
    files = [path.with_name(name) for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"model {model}: {missing[0]} is missing, which {index.name} names")
    return files


def _joined(model: str, parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All weights of several files."""
    weights: dict[str, Tensor] = {}
    for part in parts:
        if twice := sorted(set(part) & set(weights)):
            raise UserError(f"model {model}: damaged checkpoint: {twice[0]} is in two files")
        weights |= part
    return weights


def _safe_names(model: str, path: Path) -> list[str]:
    with _safetensors_errors(model, path), safe_open(path, "pt") as file:
        return list(file.keys())


def _safely_loaded(model: str, path: Path) -> dict[str, Tensor]:
    with _safetensors_errors(model, path):
        return load_file(path)


@contextlib.contextmanager
def _safetensors_errors(model: str, path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        told = f"{path.name}: {type(error).__name__}: {one_line(error)}"
        raise UserError(f"model {model}: cannot be loaded: {told}") from None


def _family(names: Iterable[str]) -> str | None:
    """The family whose highways are among the weights' `names`."""
    found = {name.split(".")[0] for name in names if ".encoder.highway." in name}
    return next((family for family in _OLD_NAMES if family in found), None)


def _unpickled(model: str, path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is turned into an error below
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"model {model}: {path.name} is damaged or holds more than tensors; it is not read, for it may run code"
        ) from None
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"model {model}: cannot be loaded: {path.name}: {one_line(error)}") from None
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise UserError(f"model {model}: {path.name} is not a table of weights by name")
    return weights


def begin(start: Start, wanted: Wanted) -> Beginning:
    """The checkpoint as our own: classifier, ramps and tokenizer, with labels in the order of `wanted.label_names`.

    Every logit is the reference's own. Its highway after the last layer is left out, because it was never trained.

    Raises:
        UserError: weights are missing, unknown, of a wrong shape or not finite; the checkpoint is for another task.
    """
    released = find(start.place)
    if released is None:
        raise UserError(f"model {start.model}: is no checkpoint of the paper's code any more; run `dvc repro -f plan`")
    folder, family = released.folder, released.family
    name = str(folder)
    if wanted.truncate_to is not None:
        raise UserError(
            f"params.yaml: finetune_backbone.truncate_to: {wanted.truncate_to} is not allowed; model {name} comes with"
            " trained ramps and is taken whole: expected default"
        )
    settings = _settings(released, wanted.task)
    with load_errors(name):
        config = AutoConfig.for_model(
            family,
            **{key: settings[key] for key in _SETTINGS if key in settings},
            **wanted.labels,
            problem_type="single_label_classification",
        )
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(name, folder, config)
    ramps = _empty_ramps(config.num_hidden_layers - 1, config.hidden_size, len(wanted.label_names))
    theirs = _label_order(released, wanted.task, wanted.label_names, settings)
    _fill(released, model, ramps, [theirs.index(label) for label in wanted.label_names])
    log.info("model %s: trained by DeeBERT's own code; taken over with its ramps, nothing is trained", name)
    origin = {"model": model_name(start.model), "source": "folder", "revision": start.revision or ""}
    origin["labels_in_source"] = theirs
    return Beginning(model, tokenizer, origin, is_trained=True, ramps=ramps)


def _empty_ramps(count: int, width: int, labels: int) -> dict[str, Tensor]:
    """Room for the tensors of `ramps.safetensors`."""
    shapes = {
        "dense_weight": (count, width, width),
        "dense_bias": (count, width),
        "out_weight": (count, labels, width),
        "out_bias": (count, labels),
    }
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def _settings(released: Released, task: str) -> dict[str, Any]:
    settings = read_json(released.folder / "config.json")
    if not isinstance(settings, dict):
        raise UserError(f"model {released.folder}: config.json is not a table of settings")
    told = settings.get("model_type", released.family)
    if told != released.family:
        raise UserError(f"model {released.folder}: config.json says {told}, but the weights are {released.family}'s")
    trained_for = settings.get("finetuning_task")
    if trained_for and str(trained_for).lower() != task.lower():
        raise UserError(f"model {released.folder}: was trained for {trained_for}; it cannot be judged on {task}")
    return settings


def _label_order(released: Released, task: str, label_names: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """The checkpoint's labels in the order of its logits: as its config names them, else as the reference has them."""
    rows = released.weights.get("classifier.bias")
    if rows is not None and len(rows) != len(label_names):
        raise UserError(
            f"model {released.folder}: has {len(rows)} labels; {task} has {len(label_names)}: {', '.join(label_names)}"
        )
    told = settings.get("id2label")
    named = [str(told.get(str(i))) for i in range(len(label_names))] if isinstance(told, dict) else []
    if sorted(named) == sorted(label_names):
        return named
    return list(_MNLI_LABELS[released.family] if task == "MNLI" else label_names)


def _fill(released: Released, model: PreTrainedModel, ramps: Mapping[str, Tensor], order: Sequence[int]) -> None:
    """Copy every weight of `released` to its place; rows of classifiers go by `order`, ours -> theirs."""
    where = f"model {released.folder}: damaged checkpoint"
    places = dict(_places(released.family, model, ramps))
    last = f"{released.family}.encoder.highway.{len(ramps['out_bias'])}."
    given = {
        key: weight
        for key, weight in released.weights.items()
        if not key.startswith(last) and not key.endswith(_BUFFERS)
    }
    if missing := sorted(set(places) - set(given)):
        raise UserError(f"{where}: {len(missing)} weights are missing, {missing[0]} first")
    if unknown := sorted(set(given) - set(places)):
        raise UserError(f"{where}: {unknown[0]} is not a weight of the network that config.json describes")
    with torch.no_grad():
        for key, place in places.items():
            weight = given[key]
            if weight.shape != place.shape:
                raise UserError(f"{where}: {key} is {tuple(weight.shape)}; config.json says {tuple(place.shape)}")
            if not torch.isfinite(weight).all():
                raise UserError(f"{where}: {key} is not finite")
            place.copy_(weight[list(order)] if "classifier" in key.split(".") else weight)


def _places(family: str, model: PreTrainedModel, ramps: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield (the reference's name, the tensor of ours to fill), for all weights of `model` and `ramps`."""
    for ours, place in model.state_dict().items():
        module, _, kind = ours.rpartition(".")
        yield f"{_OLD_NAMES[family].get(module, module)}.{kind}", place
    for ours, theirs in _RAMP_NAMES.items():
        for i, place in enumerate(ramps[ours]):
            yield f"{family}.encoder.highway.{i}.{theirs}", place
