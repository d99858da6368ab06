"""Train a ramp after every layer but the last, on the frozen backbone: models/deebert, data/ramps.json."""

import logging
from pathlib import Path

from deebert.base.devices import pick_device
from deebert.base.files import output_dir, write_json
from deebert.base.stage import run
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.encoders.loading import load_classifier
from deebert.inference.precisions import RECORD, resolve
from deebert.model import DeeBert, save
from deebert.ramps import has_ramps
from deebert.settings.checks import SEED
from deebert.settings.precision import PRECISION
from deebert.settings.reading import read_section, read_value
from deebert.settings.train_ramps import TrainRamps
from deebert.training.checkpoints import home
from deebert.training.ramps import RampPlan, settings_read, train_ramps
from deebert.training.records import environment
from deebert.training.states import States, first_token_states

PARAMS = Path("params.yaml")


def main(data_folder: Path, backbone: Path, out: Path, curve: Path) -> None:
    settings, seed = read_section(PARAMS, TrainRamps), read_value(PARAMS, "seed", SEED)
    device = pick_device()
    precision = resolve(read_value(PARAMS, "precision", PRECISION), device)
    if has_ramps(backbone):
        logging.info("train_ramps: the backbone came with ramps of its own; they are kept, nothing is trained")
        ramps = DeeBert.load(backbone)[0].ramps
        with output_dir(out) as folder:
            save(backbone, ramps, folder)
            write_json(folder / RECORD, {"precision": precision})
        write_json(curve, [])
        return
    model, tokenizer = load_classifier(backbone)
    data = DataSet.load(data_folder)
    tables = (data["train"], data.validation)
    labels = [table["label"].to_numpy() for table in tables]
    encoded = [encode(tokenizer, table, data.task.text_columns) for table in tables]
    how = (precision, device, home("train_ramps"))
    with (
        output_dir(out) as folder,
        first_token_states(model, encoded[0], *how) as train_states,
        first_token_states(model, encoded[1], *how) as validation_states,
    ):
        splits = States(train_states, labels[0]), States(validation_states, labels[1])
        plan = RampPlan(*splits, data.task.metrics[0], model.config.num_labels, settings, seed)
        ramps, rows = train_ramps(plan, device)
        save(backbone, ramps, folder)
        about = {**settings_read(settings), "seed": seed, "precision": precision, **environment(device)}
        write_json(folder / RECORD, about)
        write_json(curve, rows)


if __name__ == "__main__":
    run(main)
