"""Which source makes the data set that a user asks for in `params.yaml`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError
from deebert.data.dataset import DataSet
from deebert.data.sources import classic, hub, own, toy
from deebert.data.sources.glue_tasks import GLUE_TASKS

if TYPE_CHECKING:
    from deebert.settings.download_glue import DownloadGlue


def fetch(dataset: str, settings: "DownloadGlue") -> DataSet:
    """The data set named `dataset`: from the source that has this one alone, else from the one that `settings` name.

    Raises:
        UserError: the source cannot be had, or what it holds is not as it should be; or `settings` would have columns,
            labels or a metric other than a known task's own.
    """
    if dataset != "toy" and dataset not in GLUE_TASKS:
        return own.load(dataset, settings)
    _check_default(dataset, settings)
    if dataset == "toy":
        return toy.load(settings.toy_seed)
    task = GLUE_TASKS[dataset]
    return hub.load(task) if settings.source == "hub" else classic.load(task, Path(settings.source))


def _check_default(dataset: str, settings: "DownloadGlue") -> None:
    columns = {f"columns.{key}": value for key, value in dataclasses.asdict(settings.columns).items()}
    for key, value in {**columns, "labels": settings.labels, "metric": settings.metric}.items():
        if value is not None:
            raise UserError(
                f"params.yaml: download_glue.{key}: {value!r} is not allowed, for {dataset} has its own; expected"
                " default"
            )
