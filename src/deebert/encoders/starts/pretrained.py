"""From a pretrained encoder, in a folder or on the Hub, with a fresh head for the task's labels."""

import logging
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from deebert.base.errors import UserError
from deebert.encoders.loading import load_errors, load_model, load_tokenizer, supported_config
from deebert.encoders.start import Beginning, Start, Wanted, truncate
from deebert.settings.model_names import is_folder, model_name

log = logging.getLogger(__name__)


def begin(start: Start, wanted: Wanted) -> Beginning:
    """The encoder with a fresh classifier; what it raises is told in `encoders.start.begin`."""
    name, place, revision = start.model, start.place, start.revision
    with load_errors(name):
        config = supported_config(name, place, revision, **wanted.labels)
        if hasattr(config, "classifier_pooling"):  # the fresh head is to read the first token, as every ramp does
            config.classifier_pooling = "cls"
        cut = truncate(name, config, wanted.truncate_to)  # now, so that deeper layers are not even loaded
        model, report = load_model(place, revision, config)
    tokenizer = load_tokenizer(name, place, config, revision)
    _renew_head(name, model, report)
    origin = {
        "model": model_name(name),
        "source": "folder" if is_folder(name) else place,
        "revision": revision or getattr(config, "_commit_hash", None) or "",
    }
    return Beginning(model, tokenizer, origin | cut)


def _renew_head(name: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Check that only the head was absent from the checkpoint, and start it afresh if it was present.

    A head from elsewhere may hold the same labels in another order, which no shape can tell.
    """
    heads = [child for child, _ in model.named_children() if child != model.base_model_prefix]
    fresh = {key for key in report["missing_keys"] if key.split(".")[0] in heads or ".pooler." in key}
    if lost := sorted(set(report["missing_keys"]) - fresh):
        raise UserError(f"model {name}: damaged checkpoint: {len(lost)} weights are missing, {lost[0]} first")
    wrong = sorted(key for key, *_ in report["mismatched_keys"] if key.split(".")[0] not in heads)
    if wrong:
        raise UserError(f"model {name}: damaged checkpoint: {wrong[0]} has another shape than config.json says")
    for module in heads:
        linears = [part for part in getattr(model, module).modules() if isinstance(part, nn.Linear)]
        if linears and not any(key.split(".")[0] == module for key in report["missing_keys"]):
            log.info("model %s: its %s is started afresh for this task's labels", name, module)
        for part in linears:
            nn.init.normal_(part.weight, std=model.config.initializer_range)
            nn.init.zeros_(part.bias)
