"""Fine-tune the backbone with its own classifier, as without early exit: models/backbone, data/finetune.json."""

import dataclasses
from pathlib import Path

from transformers import set_seed

from deebert.base.devices import pick_device
from deebert.base.files import output_dir, write_json
from deebert.base.stage import run
from deebert.data import glue
from deebert.data.inputs import encode
from deebert.encoders import released
from deebert.encoders.backbones import recipe_for, start_model
from deebert.settings.params import read_params
from deebert.training import processes
from deebert.training.checkpoints import Checkpoints, home
from deebert.training.loop import finetune
from deebert.training.objectives.full_depth import OBJECTIVE
from deebert.training.plan import Plan, Samples


def main(data: Path, out: Path, curve: Path) -> None:
    params = read_params(Path("params.yaml"))
    settings = params.finetune_backbone
    if checkpoint := released.find(params.backbone):
        with output_dir(out) as folder:
            released.install(checkpoint, glue.load(data, []).task, settings.max_length, settings.layers, folder)
        write_json(curve, [])
        return

    processes.launch()
    wanted = {key: getattr(settings, key) for key in ("epochs", "learning_rate", "batch_size")}
    recipe = dataclasses.replace(recipe_for(params.backbone), **{k: v for k, v in wanted.items() if v is not None})

    train = glue.load(data, ["train"])
    task = train.task
    validation = glue.load(data, task["validation_splits"][:1])
    set_seed(params.seed)
    model, tokenizer, origin = start_model(params.backbone, task["label_names"], settings.max_length, settings.layers)
    samples = [
        Samples(encode(tokenizer, frame, task["text_columns"]), frame["label"].to_numpy())
        for part in (train, validation)
        for frame in part.splits.values()
    ]
    plan = Plan(tokenizer, *samples, task["metrics"][0], recipe, params.seed, settings.precision, OBJECTIVE)
    with Checkpoints(home("finetune_backbone")) as checkpoints:
        if processes.rank() > 0:  # helps the first process, which writes
            finetune(model, plan, pick_device(), checkpoints)
            return
        with output_dir(out) as folder:
            how, rows = finetune(model, plan, pick_device(), checkpoints)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_json(folder / "training.json", {**origin, **glue.trained_on(task), **how})
            write_json(curve, rows)


if __name__ == "__main__":
    run(main)
