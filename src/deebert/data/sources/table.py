"""Which source makes the data set that a user asks for in `params.yaml`."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError
from deebert.data.dataset import DataSet
from deebert.data.sources import classic, hub, own, toy
from deebert.data.sources.glue_tasks import GLUE_TASKS

if TYPE_CHECKING:
    from deebert.settings.download_glue import DownloadGlue

Source = Callable[[str, "DownloadGlue"], DataSet]  # of `dataset` and the section `download_glue`

OWN = "a path or hub:"
SOURCES: dict[tuple[str, str], Source] = {  # by the parameter that asks for the source, and the value there
    ("dataset", "toy"): lambda _, settings: toy.load(settings.toy_seed),
    ("dataset", OWN): own.load,
    ("download_glue.source", "hub"): lambda dataset, _: hub.load(GLUE_TASKS[dataset]),
    # any other text
    ("download_glue.source", ""): lambda dataset, settings: classic.load(GLUE_TASKS[dataset], Path(settings.source)),
}


def fetch(dataset: str, settings: "DownloadGlue") -> DataSet:
    """The data set named `dataset`: from the source that has this one alone, else from the one that `settings` name.

    Raises:
        UserError: the source cannot be had, or what it holds is not as it should be; or `settings` would have columns,
            labels or a metric other than a known task's own.
    """
    is_known = dataset in GLUE_TASKS or ("dataset", dataset) in SOURCES
    if is_known:
        _check_default(dataset, settings)
    keys = (
        ("dataset", dataset if is_known else OWN),
        ("download_glue.source", settings.source),
        ("download_glue.source", ""),
    )
    return next(SOURCES[key] for key in keys if key in SOURCES)(dataset, settings)


def _check_default(dataset: str, settings: "DownloadGlue") -> None:
    columns = {f"columns.{key}": value for key, value in dataclasses.asdict(settings.columns).items()}
    for key, value in {**columns, "labels": settings.labels, "metric": settings.metric}.items():
        if value is not None:
            raise UserError(
                f"params.yaml: download_glue.{key}: {value!r} is not allowed, for {dataset} has its own; expected"
                " default"
            )
