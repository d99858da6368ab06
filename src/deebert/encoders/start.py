"""What a fine-tuning starts from. The stage `plan` writes it down, and the stage `finetune_backbone` begins with it."""

import dataclasses
import hashlib
import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deebert.base.errors import UserError
from deebert.base.files import read_json, sha256_of, write_json

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".model", ".codes")  # endings


@dataclass(frozen=True)
class Start:
    """The `model` parameter, resolved.

    Attributes:
        model: the parameter; what `default` stands for is known.
        kind: a module of `encoders/starts`.
        place: a folder, or a repository of the Hub; None where the model is made from nothing.
        revision: of that repository, None = whatever it holds now; or, of that folder, a digest of its files.
        recipe: the model's own settings of fine-tuning (see `Recipe`).
        code: fingerprint of the code that `kind` runs, so that a change of it trains anew and no other change does.
    """

    model: str
    kind: str
    place: str | None
    revision: str | None
    recipe: dict[str, Any]
    code: str

    @classmethod
    def read(cls, path: Path) -> "Start":
        """What `plan` wrote to `path`."""
        content = read_json(path)
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(content, dict) or sorted(content) != sorted(names):
            raise UserError(f"{path}: expected the keys {', '.join(names)}; `dvc repro plan` makes it")
        return cls(**content)


@dataclass(frozen=True)
class Wanted:
    """What the classifier is to be.

    Attributes:
        task: the data set's name.
        label_names: of the C classes in the order of their ids.
        max_length: longest input in tokens; the tokenizer cuts there, so every later stage cuts alike.
        truncate_to: keep so many layers from the first on; None = all.
        epochs: of fine-tuning; None = as many as the model's recipe says. At 0 nothing is trained, so the model must be
            a classifier of these labels already.
    """

    task: str
    label_names: Sequence[str]
    max_length: int
    truncate_to: int | None = None
    epochs: float | None = None

    @property
    def trains_nothing(self) -> bool:
        return self.epochs == 0

    @property
    def labels(self) -> dict[str, Any]:
        """The labels as a model's configuration has them."""
        names = list(self.label_names)
        return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}


@dataclass(frozen=True)
class Beginning:
    """A classifier to fine-tune, its tokenizer, and where it comes from.

    Attributes:
        origin: goes into `training.json`.
        is_trained: the classifier is kept as it is.
        weights: the file that the weights are kept in, byte for byte; None = they are written anew.
        ramps: tensors by name of a checkpoint that comes with trained ramps; None = they are to be trained.
    """

    model: "PreTrainedModel"
    tokenizer: "PreTrainedTokenizerBase"
    origin: dict[str, Any]
    is_trained: bool = False
    weights: Path | None = None
    ramps: "dict[str, Tensor] | None" = None

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write classifier, tokenizer, ramps if there are any, and `training.json` into `folder`, which exists."""
        self.model.save_pretrained(folder)
        if self.weights:
            shutil.copyfile(self.weights, folder / "model.safetensors")
        self.tokenizer.save_pretrained(folder)
        if self.ramps:
            from safetensors.torch import save_file  # not above: `plan` needs no torch, which takes seconds to load

            save_file(self.ramps, folder / "ramps.safetensors")
        write_json(folder / "training.json", about)


def begin(start: Start, wanted: Wanted) -> Beginning:
    """Make or load the classifier. Weights that are made here come from torch's global generator: seed it first.

    Raises:
        UserError: not found, no network, unsupported architecture, damaged weights, `max_length` beyond the model's
            positions, or `truncate_to` beyond its depth.
    """
    module = importlib.import_module(f"deebert.encoders.starts.{start.kind}")
    beginning: Beginning = module.begin(start, wanted)
    tokenizer = beginning.tokenizer
    check_length(start.model, beginning.model, wanted.max_length)
    tokenizer.model_max_length = wanted.max_length
    tokenizer.padding_side = "right"  # every head reads the first token, which must not be padding
    beginning.model.config.problem_type = "single_label_classification"
    return beginning


def content_of(folder: Path) -> str:
    """12 hexadecimal digits that change with the files of a model's folder: weights, settings, tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.iterdir() if each.suffix in MODEL_FILES and each.is_file()):
        digest.update(f"{file.name} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:12]


def truncate(name: str, config: Any, truncate_to: int | None) -> dict[str, int]:
    """Make `config` that of the model's first layers; returns what there is to tell of it."""
    depth = config.num_hidden_layers
    if truncate_to is None:
        return {}
    if truncate_to > depth:
        raise UserError(
            f"params.yaml: finetune_backbone.truncate_to: {truncate_to} is not allowed;"
            f" model {name} has {depth} layers: expected 2 to {depth}, or default"
        )
    config.num_hidden_layers = truncate_to
    if getattr(config, "layer_types", None):  # ModernBERT's say which layers see all tokens
        config.layer_types = config.layer_types[:truncate_to]
    return {"truncate_to": truncate_to, "layers_in_source": depth}


def check_length(name: str, model: "PreTrainedModel", max_length: int) -> None:
    """UserError where `model` has no position for each of `max_length` tokens."""
    usable = model.config.max_position_embeddings
    table = getattr(model.base_model.embeddings, "position_embeddings", None)
    if table is not None and table.padding_idx is not None:
        usable -= table.padding_idx + 1  # such models count their positions from there
    if max_length > usable:
        raise UserError(
            f"params.yaml: finetune_backbone.max_length: {max_length} is not allowed;"
            f" model {name} reads at most {usable} tokens"
        )
