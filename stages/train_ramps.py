"""Train a ramp after every layer but the last, on the frozen backbone: models/deebert, data/ramps.json."""

import dataclasses
import logging
from pathlib import Path

from deebert.base.devices import pick_device, resolve_precision
from deebert.base.files import output_dir, write_json
from deebert.base.stage import run
from deebert.data import glue
from deebert.data.inputs import encode
from deebert.encoders.backbones import load_classifier
from deebert.model import DeeBert, has_ramps, save
from deebert.settings.params import read_params
from deebert.training.checkpoints import home
from deebert.training.ramps import RampPlan, train_ramps
from deebert.training.records import environment
from deebert.training.states import States, first_token_states


def main(data: Path, backbone: Path, out: Path, curve: Path) -> None:
    params = read_params(Path("params.yaml"))
    if has_ramps(backbone):
        logging.info("train_ramps: the backbone came with ramps of its own; they are kept, nothing is trained")
        ramps = DeeBert.load(backbone)[0].ramps
        with output_dir(out) as folder:
            save(backbone, ramps, folder)
        write_json(curve, [])
        return
    settings, device = params.train_ramps, pick_device()
    settings = dataclasses.replace(settings, precision=resolve_precision(settings.precision, device))
    model, tokenizer = load_classifier(backbone)
    train = glue.load(data, ["train"])
    task = train.task
    validation = glue.load(data, task["validation_splits"][:1])
    frames = [frame for part in (train, validation) for frame in part.splits.values()]
    labels = [frame["label"].to_numpy() for frame in frames]
    encoded = [encode(tokenizer, frame, task["text_columns"]) for frame in frames]
    how = (settings.precision, device, home("train_ramps"))
    with (
        output_dir(out) as folder,
        first_token_states(model, encoded[0], *how) as train_states,
        first_token_states(model, encoded[1], *how) as validation_states,
    ):
        splits = States(train_states, labels[0]), States(validation_states, labels[1])
        plan = RampPlan(*splits, task["metrics"][0], model.config.num_labels, settings, params.seed)
        ramps, rows = train_ramps(plan, device)
        save(backbone, ramps, folder)
        write_json(folder / "ramps.json", {**dataclasses.asdict(settings), "seed": params.seed, **environment(device)})
        write_json(curve, rows)


if __name__ == "__main__":
    run(main)
