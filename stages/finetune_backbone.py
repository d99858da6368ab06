"""Fine-tune the backbone with its own classifier, as without early exit: models/backbone, data/finetune.json."""

from pathlib import Path

from transformers import set_seed

from deebert.base.devices import pick_device
from deebert.base.files import output_dir, write_json
from deebert.base.recipe import Recipe
from deebert.base.stage import run
from deebert.data.dataset import DataSet, trained_on
from deebert.data.encoded import encode, tell_cut
from deebert.encoders.start import Start, Wanted, begin
from deebert.settings.checks import SEED
from deebert.settings.finetune_backbone import FinetuneBackbone
from deebert.settings.reading import read_section, read_value
from deebert.training import processes
from deebert.training.checkpoints import Checkpoints, home
from deebert.training.launch import launch
from deebert.training.loop import finetune
from deebert.training.objective import find
from deebert.training.plan import Plan, Samples

PARAMS = Path("params.yaml")


def main(data_folder: Path, start_file: Path, out: Path, curve: Path) -> None:
    settings, seed = read_section(PARAMS, FinetuneBackbone), read_value(PARAMS, "seed", SEED)
    start, data = Start.read(start_file), DataSet.load(data_folder)
    task = data.task
    launch()
    set_seed(seed)
    wanted = Wanted(task.name, task.label_names, settings.max_length, settings.truncate_to, settings.epochs)
    beginning = begin(start, wanted)
    about = {**beginning.origin, **trained_on(task)}
    if beginning.is_trained:
        if processes.rank() == 0:  # which writes
            with output_dir(out) as folder:
                beginning.save(folder, about)
            write_json(curve, [])
        return

    tables, tokenizer = (data["train"], data.validation), beginning.tokenizer
    samples = [Samples(encode(tokenizer, table, task.text_columns), table["label"].to_numpy()) for table in tables]
    recipe = Recipe.of(start.recipe, vars(settings))
    how = (recipe, seed, settings.precision, find(settings.objective), settings.class_weights)
    plan = Plan(tokenizer, *samples, task.metrics[0], *how)
    with Checkpoints(home("finetune_backbone")) as checkpoints:
        if processes.rank() > 0:  # helps the first process, which writes
            finetune(beginning.model, plan, pick_device(), checkpoints)
            return
        tell_cut("train", samples[0].encoded, settings.max_length)
        with output_dir(out) as folder:
            record, rows = finetune(beginning.model, plan, pick_device(), checkpoints)
            beginning.save(folder, {**about, **record})
            write_json(curve, rows)


if __name__ == "__main__":
    run(main)
