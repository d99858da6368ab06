"""Fine-tune the backbone with its own classifier, as without early exit: models/backbone, data/finetune.json."""

import dataclasses
from pathlib import Path

from safetensors.torch import save_file
from transformers import set_seed

from deebert.base.files import output_dir, write_json
from deebert.base.recipe import Recipe
from deebert.base.stage import run
from deebert.data.dataset import DataSet, trained_on
from deebert.data.encoded import encode
from deebert.encoders.start import Start, Wanted, begin
from deebert.settings.checks import SEED
from deebert.settings.finetune_backbone import FinetuneBackbone
from deebert.settings.reading import read_section, read_value
from deebert.training import processes
from deebert.training.checkpoints import Checkpoints, home
from deebert.training.finetuning import Plan, Samples, finetune

PARAMS = Path("params.yaml")


def main(data_folder: Path, start_file: Path, out: Path, curve: Path) -> None:
    settings, seed = read_section(PARAMS, FinetuneBackbone), read_value(PARAMS, "seed", SEED)
    start = Start.read(start_file)
    processes.launch()
    data = DataSet.load(data_folder)
    task = data.task
    set_seed(seed)
    beginning = begin(start, Wanted(task.name, task.label_names, settings.max_length, settings.truncate_to))
    about = {**beginning.origin, **trained_on(task)}
    if beginning.ramps:  # trained already, ramps included
        with output_dir(out) as folder:
            beginning.save(folder, about)
            save_file(beginning.ramps, folder / "ramps.safetensors")
            write_json(curve, [])
        return

    wanted = {key: getattr(settings, key) for key in ("epochs", "learning_rate", "batch_size")}
    recipe = dataclasses.replace(Recipe(**start.recipe), **{k: v for k, v in wanted.items() if v is not None})
    samples = [
        Samples(encode(beginning.tokenizer, table, task.text_columns), table["label"].to_numpy())
        for table in (data["train"], data.validation)
    ]
    plan = Plan(beginning.tokenizer, *samples, task.metrics[0], recipe, seed, settings.precision)

    with Checkpoints(home("finetune_backbone")) as checkpoints:
        if processes.rank() > 0:  # helps the first process, which writes
            finetune(beginning.model, plan, checkpoints)
            return
        with output_dir(out) as folder:
            how, rows = finetune(beginning.model, plan, checkpoints)
            beginning.save(folder, {**about, **how})
            write_json(curve, rows)


if __name__ == "__main__":
    run(main)
