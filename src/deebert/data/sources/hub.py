"""Data sets of the Hugging Face Hub: GLUE, and a person's own."""

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deebert.base.errors import UserError, one_line
from deebert.data.dataset import DataSet, Task
from deebert.data.sources.tables import split_table
from deebert.data.tables.columns import check_columns

if TYPE_CHECKING:
    from datasets import DatasetDict

GLUE_REPOSITORY = "nyu-mll/glue"
GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
ANSWER_TIMEOUT_S = 5
RETRY_PAUSES_S = (1, 2)


def load(task: Task) -> DataSet:
    """Download a GLUE `task` at GLUE_REVISION, or take it from the local cache of an earlier time.

    Raises:
        UserError: the Hub cannot be reached (told within half a minute), or what came is not what we know.
    """
    config = task.name.replace("-", "").lower()  # SST-2 is sst2 there
    dataset = _download(task.name, config)
    tables = {}
    for split in task.splits:
        where = f"{GLUE_REPOSITORY} ({config}, {split})"
        if split not in dataset:
            raise UserError(f"{where}: no such split; found {', '.join(dataset)}")
        check_columns(where, [*task.text_columns, "label"], dataset[split].column_names)
        label_names = getattr(dataset[split].features["label"], "names", None)
        if label_names != list(task.label_names):
            raise UserError(f"{where}: labels are {label_names}; expected {list(task.label_names)} in this order")
        if not len(dataset[split]):
            raise UserError(f"{where}: has no rows")
        frame = dataset[split].to_pandas()
        tables[split] = split_table({column: frame[column] for column in task.text_columns}, frame["label"])
    return DataSet.of(dataclasses.replace(task, source="hub", origin={"revision": GLUE_REVISION}), tables)


def _download(name: str, config: str) -> "DatasetDict":
    """All splits of GLUE's `config` at the pinned revision."""
    advice = f"without a network set download_glue.source to a folder that holds {name}/train.tsv and its like"
    return download(GLUE_REPOSITORY, config, GLUE_REVISION, advice)[0]


def download(repository: str, config: str | None, revision: str, advice: str) -> tuple["DatasetDict", str]:
    """All splits of a repository, and the commit that `revision` is.

    Args:
        config: None = the only one.
        revision: a commit, or a tag or a branch, which takes a network.
        advice: what to do instead, told where it cannot be downloaded.

    Raises:
        UserError: it cannot be downloaded, or a folder here has its name, which would be read in its place.
    """
    if Path(repository).is_dir():
        raise UserError(f"{repository}: is a data set of the Hub and a folder here; expected the folder elsewhere")
    # Imported here, because it takes a second that no other use of this module should pay.
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import httpx

    commit = revision
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            # Without a network `load_dataset` keeps trying for half a minute: ask first whether the Hub is there.
            if not constants.HF_HUB_OFFLINE:
                info = HfApi().dataset_info(repository, revision=revision, timeout=ANSWER_TIMEOUT_S)
                commit = info.sha or revision
            dataset = load_dataset(repository, config, revision=commit)
            break
        except (OSError, ValueError, RuntimeError, httpx.HTTPError, DatasetsError) as error:
            # A connection refused or dropped is worth another try. Not so a silent Hub, unreadable data, and data that
            # come as a program, which is a RuntimeError.
            hopeless = isinstance(error, (httpx.TimeoutException, ValueError, RuntimeError, DatasetsError))
            if hopeless or pause_s is None or constants.HF_HUB_OFFLINE:
                reason = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
                raise UserError(
                    f"{repository}: cannot be downloaded from {constants.ENDPOINT}: {one_line(reason)}; {advice}"
                ) from error
            time.sleep(pause_s)

    # When the Hub cannot be asked, `load_dataset` takes whatever revision its cache saw last.
    for file in (Path(file["filename"]) for split in dataset.values() for file in split.cache_files):
        if commit not in file.parts:
            raise UserError(f"{file}: is {repository} of another revision; expected {commit}, which takes a network")
    return DatasetDict(dataset), commit
