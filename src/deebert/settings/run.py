"""The top of `params.yaml`: what to run. Unlike other settings it says what a name means, so it is a dep of stages."""

import re
from pathlib import Path
from typing import Any

from deebert.settings.checks import Check, text

DATASETS = ("toy", "SST-2", "MRPC", "RTE", "QNLI", "QQP", "MNLI")
FILE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
HUB_DATASET = re.compile(r"hub:(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[\w.-]+)(:(?P<config>[\w.-]+))?")
HUB_FORM = "hub:owner/name@revision or hub:owner/name@revision:config"

MODEL: Check = text  # which names are known is up to the encoders


def DATASET(value: Any) -> str:  # noqa: N802, a check of a key like the one above
    """A data set's name, the path of a folder or a file, or a data set of the Hub."""
    if isinstance(value, str) and value.startswith("hub:"):
        if not HUB_DATASET.fullmatch(value):
            raise ValueError(HUB_FORM)
    elif value not in DATASETS and not _is_path(value):
        raise ValueError(f"one of {', '.join(DATASETS)}, the path of a folder or a file, or {HUB_FORM}")
    return value


def _is_path(value: Any) -> bool:
    """Whether it has a slash or a dot, or is a folder or a file of the project."""
    if not isinstance(value, str) or not value.strip():
        return False
    return any(sign in text(value) for sign in "/.~") or Path(value).exists()


def dataset_name(dataset: str) -> str:
    """What others are told of the parameter `dataset`: of a path the last name alone, without an ending."""
    if dataset in DATASETS:
        return dataset
    if found := HUB_DATASET.fullmatch(dataset):
        return found["repository"]
    path = Path(dataset).expanduser().absolute()
    return path.stem if path.suffix.lower() in FILE_ENDINGS else path.name


def resolve_model(model: str, dataset: str) -> str:
    """The model with `default` resolved: `toy-bert` for the embedded data set, `bert-base` for any other."""
    if model != "default":
        return model
    return "toy-bert" if dataset == "toy" else "bert-base"
