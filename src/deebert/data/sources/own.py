"""A person's own data: a folder with a file per split, a single file, or a data set of the Hub."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deebert.base.errors import UserError
from deebert.base.files import sha256_of
from deebert.data.dataset import DataSet, Task
from deebert.data.sources import hub
from deebert.data.sources.own_columns import Found, find_columns, is_as_label
from deebert.data.sources.own_files import SPLIT_NAMES, Rows, find_files, read_file
from deebert.data.sources.own_labels import label_names
from deebert.data.sources.own_samples import Samples, counts, ids, read_samples, split_off
from deebert.data.sources.tables import split_table
from deebert.data.tables.columns import check_columns
from deebert.settings.run import HUB_DATASET, dataset_name

if TYPE_CHECKING:
    from deebert.settings.download_glue import DownloadGlue

log = logging.getLogger(__name__)

TEXT_COLUMNS = ("text", "pair")  # the names that they have from here on, whatever they were


def load(dataset: str, settings: "DownloadGlue") -> DataSet:
    """The data set at a path or on the Hub, as `dataset` of `params.yaml` has it.

    Where there is no validation split, `validation_frac` of train becomes one. Labels of the test split may be hidden.

    Raises:
        UserError: there is no such place, or what it holds is not as it should be.
    """
    if found := HUB_DATASET.fullmatch(dataset):
        tables, source, origin = _from_hub(**found.groupdict())
    else:
        tables, source, origin = _from_files(Path(dataset).expanduser())
    return _data_set(dataset_name(dataset), tables, settings, source, origin)


def _from_files(path: Path) -> tuple[dict[str, Rows], str, dict[str, Any]]:
    files = find_files(path)
    tables = {split: read_file(file) for split, file in files.items()}
    return tables, "own files", {"checksums": {file.name: sha256_of(file) for file in files.values()}}


def _from_hub(repository: str, revision: str, config: str | None) -> tuple[dict[str, Rows], str, dict[str, Any]]:
    splits, commit = hub.download(
        repository,
        config,
        revision,
        "check hub:owner/name@revision:config (of data that come as a program, the commit of refs/convert/parquet), or"
        " set dataset to a folder",
    )
    found = {split: next((name for name in names if name in splits), None) for split, names in SPLIT_NAMES.items()}
    if found["train"] is None:
        raise UserError(f"{repository}: has no split train; found {', '.join(splits)}")
    if unread := [name for name in splits if name not in found.values()]:
        log.info("%s: not read: %s", repository, ", ".join(unread))
    tables = {}
    for split, name in found.items():
        if name is not None:
            table, features = splits[name].with_format("arrow")[:], splits[name].features
            columns = dict(zip(table.column_names, table.columns, strict=True))
            names = {column: kind.names for column, kind in features.items() if hasattr(kind, "names")}
            tables[split] = Rows(f"{repository} ({name})", columns, "row", range(1, len(table) + 1), names)
            if not len(table):
                raise UserError(f"{repository} ({name}): has no rows")
    return tables, "hub", {"repository": repository, "revision": commit, **({"config": config} if config else {})}


def _data_set(
    name: str, tables: Mapping[str, Rows], settings: "DownloadGlue", source: str, origin: Mapping[str, Any]
) -> DataSet:
    train = tables["train"]
    columns = find_columns(train.where, list(train.columns), settings.columns)
    log.info("%s: text from column %s, label from column %s", train.where, " and ".join(columns.texts), columns.label)
    samples = {split: _samples(split, tables[split], columns, train) for split in SPLIT_NAMES if split in tables}
    names = label_names(train, columns.label, samples["train"].labels, settings.labels)
    metrics = _metrics(settings.metric, len(names))
    if "validation" not in samples:
        samples = _with_validation(samples, settings.validation_frac, settings.split_seed)
        origin = {**origin, "validation_frac": settings.validation_frac, "split_seed": settings.split_seed}
    labels = {split: ids(split, held, names) for split, held in samples.items()}
    text_columns = TEXT_COLUMNS[: len(columns.texts)]
    origin = {
        **origin,
        "columns": dict(zip((*text_columns, "label"), (*columns.texts, columns.label), strict=True)),
        "counts": counts(samples, names),
    }
    test_splits = ("test",) if "test" in samples else ()
    task = Task(name, names, text_columns, metrics, test_splits=test_splits, source=source, origin=origin)
    frames = {
        split: split_table(dict(zip(text_columns, zip(*held.texts, strict=True), strict=True)), labels[split])
        for split, held in samples.items()
    }
    return DataSet.of(task, frames, {split: held.left_out for split, held in samples.items()})


def _samples(split: str, rows: Rows, columns: Found, train: Rows) -> Samples:
    """Of the test split only, the column of the label may be absent. Under another name it is not taken for absent."""
    found = list(rows.columns)
    check_columns(rows.where, columns.texts, found)
    if columns.label not in found:
        others = [name for name in found if name not in train.columns and is_as_label(name, columns.label)]
        if split != "test" or others:
            hint = f"; {others[0]} may be it: expected one name in all files" if others else ""
            check_columns(rows.where, [columns.label], found, hint)
        log.info("%s: has no column %s, so its labels count as hidden", rows.where, columns.label)
    return read_samples(rows, columns, may_hide_labels=split == "test")


def _with_validation(samples: Mapping[str, Samples], frac: float, seed: int) -> dict[str, Samples]:
    train, validation = split_off(samples["train"], frac, seed)
    told = "validation: %d of %d train samples, about %g %% of each class (validation_frac, split_seed %d)"
    log.info(told, len(validation.texts), len(samples["train"].texts), 100 * frac, seed)
    return {
        "train": train,
        "validation": validation,
        **{split: samples[split] for split in samples if split != "train"},
    }


def _metrics(wanted: str | None, classes: int) -> tuple[str, ...]:
    if wanted == "f1" and classes != 2:
        raise UserError(
            f"params.yaml: download_glue.metric: 'f1' is not allowed with {classes} classes; expected accuracy or"
            " macro_f1"
        )
    return ("accuracy",) if wanted in (None, "accuracy") else (wanted, "accuracy")
