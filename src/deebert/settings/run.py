"""The top of `params.yaml`: what to run."""

from deebert.settings.checks import Check, one_of, text

DATASETS = ("toy", "SST-2", "MRPC", "RTE", "QNLI", "QQP", "MNLI")

DATASET: Check = one_of(DATASETS)
MODEL: Check = text  # which names are known is up to the encoders


def resolve_model(model: str, dataset: str) -> str:
    """The model with `default` resolved: `toy-bert` for the embedded data set, `bert-base` for any other."""
    if model != "default":
        return model
    return "toy-bert" if dataset == "toy" else "bert-base"
