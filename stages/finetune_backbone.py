"""Fine-tune the backbone with its own classifier, as if there were no early exit: models/backbone."""

import dataclasses
from pathlib import Path

from transformers import set_seed

from deebert import glue, released
from deebert.backbones import recipe_for, start_model
from deebert.files import output_dir, write_json
from deebert.inputs import encode
from deebert.model import save_ramps
from deebert.params import read_params
from deebert.stage import run
from deebert.training import finetune


def main(data: Path, out: Path) -> None:
    params = read_params(Path("params.yaml"))
    settings = params.finetune_backbone
    if checkpoint := released.find(params.backbone):
        task = glue.load(data, []).task
        model, ramps, tokenizer, origin = released.take_over(
            checkpoint, task["task"], task["label_names"], settings.max_length, settings.layers
        )
        with output_dir(out) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            save_ramps(ramps, folder)
            write_json(folder / "training.json", {**origin, "task": task["task"]})
        return

    wanted = {key: getattr(settings, key) for key in ("epochs", "learning_rate", "batch_size")}
    recipe = dataclasses.replace(recipe_for(params.backbone), **{k: v for k, v in wanted.items() if v is not None})

    train = glue.load(data, ["train"])
    set_seed(params.seed)
    model, tokenizer, origin = start_model(
        params.backbone, train.task["label_names"], settings.max_length, settings.layers
    )
    encoded = encode(tokenizer, train.splits["train"], train.task["text_columns"])
    labels = train.splits["train"]["label"].to_numpy()
    how = finetune(model, tokenizer, encoded, labels, recipe, params.seed, settings.precision)

    with output_dir(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "training.json", {**origin, "task": train.task["task"], **how})


if __name__ == "__main__":
    run(main)
