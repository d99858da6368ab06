"""From a checkpoint in a folder or on the Hub: an encoder with a fresh head, or a classifier that is kept as it is."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.hub import cached_file

from deebert.base.errors import UserError, some
from deebert.encoders.loading import (
    check_head,
    load_errors,
    load_model,
    load_tokenizer,
    supported_config,
)
from deebert.encoders.start import Beginning, Start, Wanted, content_of, truncate
from deebert.encoders.unused import check_unexpected, tell_unused
from deebert.settings.model_names import is_folder, model_name

log = logging.getLogger(__name__)

WEIGHTS, RAMPS = "model.safetensors", "ramps.safetensors"


def begin(start: Start, wanted: Wanted) -> Beginning:
    """The encoder with a fresh classifier, or, where nothing is trained, the classifier as it is.

    A classifier that is kept must have the task's labels by name, capital letters aside. If they are in the task's
    order and the weights are one file, that file is kept byte for byte. If the order is another, the rows of the last
    linear map are moved into the task's order, which is told in a line; all other weights are the same.

    What it raises is told in `encoders.start.begin`.
    """
    name, place, revision = start.model, start.place, start.revision
    if is_folder(name) and content_of(Path(place)) != revision:
        raise UserError(f"model {name}: its files are not those that `plan` has seen; run `dvc repro -f plan`")
    if Path(place, RAMPS).is_file():
        log.info("model %s: its %s is not read; ramps are trained anew", name, RAMPS)
    make = _kept if wanted.trains_nothing else _fresh
    return make(start, wanted, _origin(name, place, revision))


def _origin(name: str, place: str, revision: str | None) -> dict[str, Any]:
    return {"model": model_name(name), "source": "folder" if is_folder(name) else place, "revision": revision or ""}


def _fresh(start: Start, wanted: Wanted, origin: dict[str, Any]) -> Beginning:
    name = start.model
    with load_errors(name):
        config = supported_config(name, start.place, start.revision, **wanted.labels)
        if hasattr(config, "classifier_pooling"):  # the fresh head is to read the first token, as every ramp does
            config.classifier_pooling = "cls"
        cut = truncate(name, config, wanted.truncate_to)  # now, so that deeper layers are not even loaded
        model, report = load_model(start.place, start.revision, config)
    tokenizer = load_tokenizer(name, start.place, config, start.revision)
    _check_encoder(name, model, report, is_cut=bool(cut))
    _renew_head(name, model, report)
    return Beginning(model, tokenizer, _with_commit(origin, config) | cut)


def _with_commit(origin: dict[str, Any], config: PreTrainedConfig) -> dict[str, Any]:
    """Where no revision was asked for, the one that came."""
    return origin | {"revision": origin["revision"] or getattr(config, "_commit_hash", None) or ""}


def _heads(model: PreTrainedModel) -> list[str]:
    """Names of the modules of the classifier's own head."""
    return [child for child, _ in model.named_children() if child != model.base_model_prefix]


def _check_encoder(name: str, model: PreTrainedModel, report: dict[str, Any], is_cut: bool) -> None:
    """Check that the encoder is wholly the checkpoint's, and tell what the checkpoint holds beside it."""
    heads = _heads(model)
    fresh = {key for key in report["missing_keys"] if key.split(".")[0] in heads or ".pooler." in key}
    if lost := sorted(set(report["missing_keys"]) - fresh):
        raise UserError(f"model {name}: damaged checkpoint: {len(lost)} weights are missing, {lost[0]} first")
    wrong = sorted(key for key, *_ in report["mismatched_keys"] if key.split(".")[0] not in heads)
    if wrong:
        raise UserError(f"model {name}: damaged checkpoint: {wrong[0]} has another shape than config.json says")
    tell_unused(name, check_unexpected(f"model {name}", model, report["unexpected_keys"], is_cut))


def _renew_head(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Start the head afresh, also where the checkpoint has one.

    A head from elsewhere may hold the same labels in another order, which no shape can tell. What pretraining left of
    a head whose classifier is missing is no such head, and stays, as transformers has it for ModernBERT.
    """
    missing = {key.split(".")[0] for key in report["missing_keys"]}
    heads = [head for head in _heads(model) if head in missing] or _heads(model)
    for module in heads:
        parts = [part for part in getattr(model, module).modules() if isinstance(part, nn.Linear | nn.LayerNorm)]
        if parts and module not in missing:
            log.info("model %s: its %s is started afresh for this task's labels", name, module)
        for part in parts:
            if isinstance(part, nn.LayerNorm):
                part.reset_parameters()
                continue
            nn.init.normal_(part.weight, std=model.config.initializer_range)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _kept(start: Start, wanted: Wanted, origin: dict[str, Any]) -> Beginning:
    name, place, revision = start.model, start.place, start.revision
    refused = f"params.yaml: finetune_backbone.epochs: 0 is not allowed; model {name}"
    if wanted.truncate_to is not None:
        raise UserError(
            f"params.yaml: finetune_backbone.truncate_to: {wanted.truncate_to} is not allowed with epochs: 0;"
            f" the classifier of model {name} reads its last layer: expected default"
        )
    with load_errors(name):
        config = supported_config(name, place, revision)
        check_head(f"model {name}", config)
        order = _order(refused, config, wanted)
        model, report = load_model(place, revision, config)
    tokenizer = load_tokenizer(name, place, config, revision)
    if lost := sorted(key for key in report["missing_keys"] if key.split(".")[0] in _heads(model)):
        raise UserError(f"{refused} has no trained classifier, {lost[0]} is missing: expected more than 0, or default")
    if absent := sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]):
        raise UserError(f"model {name}: damaged checkpoint: {absent[0]} is missing, or of another shape")
    _check_encoder(name, model, report, is_cut=False)

    theirs = [config.id2label[row] for row in range(len(order))]
    log.info("model %s: a classifier of %s; it is kept as it is, nothing is trained", name, some(theirs))
    file = None
    if order == sorted(order):
        file = cached_file(place, WEIGHTS, revision=revision, _raise_exceptions_for_missing_entries=False)
    else:
        _move_rows(model, order)
        told = some(wanted.label_names)
        log.info("model %s: the rows of its classifier are moved into the task's order: %s", name, told)
    model.config.update(wanted.labels)
    origin = _with_commit(origin, config) | {"labels_in_source": theirs}
    return Beginning(model.eval(), tokenizer, origin, is_trained=True, weights=Path(file) if file else None)


def _order(refused: str, config: PreTrainedConfig, wanted: Wanted) -> list[int]:
    """The row of the checkpoint's classifier for each of the task's labels, in the task's order.

    A classifier whose labels have no names tells their numbers. They are names where the task's labels are the same
    numbers. Which word a number stands for nobody can know.
    """
    theirs = [str(config.id2label.get(row)) for row in range(config.num_labels)]
    numbers = [str(row) for row in range(config.num_labels)]
    is_unnamed = theirs == [f"LABEL_{number}" for number in numbers]
    if is_unnamed and sorted(wanted.label_names) == sorted(numbers):
        theirs = numbers
    rows = {label.casefold(): row for row, label in enumerate(theirs)}
    labels = [label.casefold() for label in wanted.label_names]
    if len(rows) != len(theirs) or sorted(rows) != sorted(labels):
        expected = "names in id2label of its config.json, more than 0" if is_unnamed else "more than 0"
        raise UserError(
            f"{refused} has the labels {some(theirs, wanted.label_names)}; {wanted.task} has"
            f" {some(wanted.label_names, theirs)}:"
            f" expected {expected}, or default"
        )
    if config.problem_type not in (None, "single_label_classification"):
        raise UserError(f"{refused} is for {config.problem_type}: expected more than 0, or default")
    return [rows[label] for label in labels]


def _move_rows(model: PreTrainedModel, order: Sequence[int]) -> None:
    """Put the rows of the last linear map, which has one for each label, into `order`."""
    linears = [part for head in _heads(model) for part in getattr(model, head).modules() if isinstance(part, nn.Linear)]
    with torch.no_grad():
        linears[-1].weight.copy_(linears[-1].weight[list(order)])
        if linears[-1].bias is not None:
            linears[-1].bias.copy_(linears[-1].bias[list(order)])
