"""The embedded example's model, made from nothing."""

from transformers import AutoModelForSequenceClassification

from deebert.base.errors import UserError
from deebert.encoders import toy_bert
from deebert.encoders.start import Beginning, Start, Wanted, truncate


def begin(start: Start, wanted: Wanted) -> Beginning:
    """A model with random weights, and the tokenizer of the toy's words."""
    if wanted.trains_nothing:
        raise UserError(
            f"params.yaml: finetune_backbone.epochs: 0 is not allowed; model {start.model} is made from nothing:"
            " expected more than 0, or default"
        )
    config = toy_bert.config(num_labels=len(wanted.label_names))
    cut = truncate(start.model, config, wanted.truncate_to)
    model = AutoModelForSequenceClassification.from_config(config)
    model.config.update(wanted.labels)
    return Beginning(model, toy_bert.tokenizer(), {"model": start.model} | cut)
