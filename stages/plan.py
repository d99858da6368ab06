"""Check all of params.yaml before anything else runs, and resolve what its model is: data/start.json, data/family.json.

A stage reads its own settings alone, and so a mistake in another's would be told after hours of training. Here it is
told at once. `start.json` is what fine-tuning starts from; `family.json` tells which family's code runs the model.
"""

import dataclasses
import logging
from pathlib import Path

from deebert.base.files import write_json
from deebert.base.recipe import Recipe
from deebert.base.stage import run
from deebert.encoders.registry import FAMILIES
from deebert.encoders.resolve import fingerprint, resolve
from deebert.settings.params import read_params
from deebert.settings.run import DATASETS
from deebert.training.objective_names import check

log = logging.getLogger("deebert.plan")
SEEN = (
    "finetune_backbone.epochs: 0, so the classifier stays as it is; validation has to be a file that it was not trained"
    " on: as a part of train, scores, thresholds and certificates would be too good"
)
NO_PART = "finetune_backbone.objective: %s has no part in the training of %s, since full_depth_frac is 1"


def main(start_file: Path, family_file: Path) -> None:
    params = read_params(Path("params.yaml"))
    check(params.finetune_backbone.objective)
    start, family = resolve(params.backbone)
    settings = params.finetune_backbone
    if settings.objective != "full_depth" and Recipe.of(start.recipe, vars(settings)).full_depth_frac == 1:
        log.info(NO_PART, settings.objective, start.model)
    if params.precision == "int8":  # not every machine can
        from deebert.base.devices import pick_device
        from deebert.inference import precisions

        precisions.resolve(params.precision, pick_device())
    if params.finetune_backbone.epochs == 0 and params.dataset not in DATASETS:
        log.warning(SEEN)
    write_json(start_file, dataclasses.asdict(start))
    write_json(family_file, {"family": family, "code": fingerprint(FAMILIES[family])})


if __name__ == "__main__":
    run(main)
