"""Smaller models, fine-tuned by themselves: what early exit has to beat, from the scores of other runs.

Such a run is the whole model cut to its first layers, or a small model that stands for it. Its score is of its own
classifier; it needs no ramps. `smaller_rows` picks the rows that belong beside a run. Rows of another task, model or
recipe are left out, so they are never drawn with it.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.files import read_json
from deebert.base.rows import Row
from deebert.exits.rule import layers_saved_frac
from deebert.settings.download_glue import DownloadGlue
from deebert.settings.finetune_backbone import FinetuneBackbone

STANDS_FOR = {"distilbert-base": "bert-base"}  # a small model of its own -> the whole one
ADDED_SETTINGS = {  # settings that older runs did not have -> what these did
    "columns": {"text": "default", "pair": "default", "label": "default"},
    "labels": "default",
    "metric": "default",
    "validation_frac": 0.1,
    "split_seed": 0,
    "objective": "full_depth",
    "full_depth_frac": "default",
    "class_weights": "none",
    "deployed_precision": "fp32",
}
FOR_RAMPS = ("objective", "full_depth_frac")  # of the whole model's training; a smaller one needs no ramps


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _whole_number(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def _share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1


# The keys of a row of the file, in order, each with a check and what it allows.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": (_text, "a task's name"),
    "whole": (_text, "the model that it stands for"),
    "model": (_text, "a model"),
    "layers": (_whole_number(1), "a number of layers"),
    "seed": (_whole_number(0), "a whole number from 0"),
    "split": (_text, "a split's name"),
    "metric": (_text, "a metric's name"),
    "n": (_whole_number(1), "a number of samples"),
    "score": (_share, "a number from 0 to 1"),
    "accuracy": (_share, "a number from 0 to 1"),
    "recipe": (lambda value: isinstance(value, dict), "settings by name"),  # see `recipe_of`
    # DVC's hash of the fine-tuned model: a run with the same parameters and code on such a machine gives it again
    "backbone": (lambda value: value is None or _text(value), "a hash, or null"),
}


def recipe_of(*settings_of_stages: Mapping[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Depth and recipe of a fine-tuned model, from the settings that its scores follow from.

    Args:
        settings_of_stages: of `download_glue` and of `finetune_backbone`, where `default` may stand as in
            `params.yaml` or be None; and `deployed_precision`, which is `precision` of the top of that file.

    Returns:
        The layers that the model was cut to, None where it was not; and all other settings, as `params.yaml` has them.
        Runs of before a setting existed have what they did then, so that they compare with later ones.
    """
    settings = ADDED_SETTINGS | {key: value for each in settings_of_stages for key, value in each.items()}
    settings = {key: _as_written(value) for key, value in settings.items()}
    older_name = settings.pop("layers", "default")
    truncate_to = settings.pop("truncate_to", older_name)
    return None if truncate_to == "default" else truncate_to, settings


def _as_written(value: Any) -> Any:
    """A value as `params.yaml` may have it, so that equal settings are equal wherever they were read."""
    if isinstance(value, Mapping):
        return {key: _as_written(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    return "default" if value is None else value


def read_smaller(path: Path) -> list[Row]:
    """The rows of `path`, checked, with their recipes as of today.

    Raises:
        UserError: whatever is wrong there; it names row and key.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; `make smaller` writes it")
    rows = read_json(path)
    if not isinstance(rows, list):
        raise UserError(f"{path}: expected a list of rows, found {str(rows)[:40]}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or set(row) != set(KEYS):
            found = ", ".join(row) if isinstance(row, dict) else str(row)[:40]
            raise UserError(f"{path}: row {number}: expected the keys {', '.join(KEYS)}, found {found}")
        for key, (is_allowed, allowed) in KEYS.items():
            if not is_allowed(row[key]):
                raise UserError(f"{path}: row {number}: {key}: {row[key]!r} is not allowed; expected {allowed}")
    return [{**row, "recipe": recipe_of(row["recipe"])[1]} for row in rows]


def smaller_rows(
    rows: Sequence[Row],
    about: Mapping[str, Any],
    model: str,
    download: DownloadGlue,
    finetune: FinetuneBackbone,
    precision: str,
) -> list[Row]:
    """Those of `rows` that belong beside the run of which `about` and the parameters tell, with the columns of a sweep.

    They are of the same task, whole model, samples and recipe, but for what is FOR_RAMPS. Seeds may be others, and so
    may the code. Rows that differ in nothing else become one with their mean, so that the luckiest seed is not what
    early exit is held against. Those that differ in what is FOR_RAMPS stay apart, since one may choose it. `truncated`
    is the whole model cut to `threshold` layers, `distilled` a small model with so many. Beside a run that is cut
    itself there are none.
    """
    deployed = {"deployed_precision": precision}
    truncate_to, recipe = recipe_of(dataclasses.asdict(download), dataclasses.asdict(finetune), deployed)
    if truncate_to is not None:
        return []
    wanted = (about["task"], model, about["metric"], _of_any(recipe))
    alike: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found = (row["task"], row["whole"], row["metric"], _of_any(row["recipe"]))
        if found == wanted and about["n"].get(row["split"]) == row["n"] and row["layers"] < about["num_layers"]:
            for_ramps = (row["recipe"][key] for key in FOR_RAMPS)
            alike.setdefault((row["split"], row["model"], row["layers"], *for_ramps), []).append(row)
    return [_point(seeds, about["num_layers"]) for seeds in alike.values()]


def _point(seeds: Sequence[Row], depth: int) -> Row:
    """One row of a sweep from rows that differ in the seed alone."""
    row = seeds[0]
    saved = layers_saved_frac(row["layers"], depth)
    return {
        "split": row["split"],
        "criterion": "truncated" if row["model"] == row["whole"] else "distilled",
        "threshold": row["layers"],
        "score": statistics.fmean(each["score"] for each in seeds),
        "accuracy": statistics.fmean(each["accuracy"] for each in seeds),
        "layers_saved_frac": saved,
        "compute_saved_frac": saved,  # it has no ramps
        "mean_exit_layer": float(row["layers"]),
        "n": row["n"],
    }


def _of_any(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What two recipes share that differ in nothing but what is FOR_RAMPS."""
    return {key: value for key, value in recipe.items() if key not in FOR_RAMPS}
