"""Train a ramp after every layer but the last, on the frozen backbone's first-token states: models/deebert."""

import logging
from pathlib import Path

from deebert import glue
from deebert.backbones import load_classifier
from deebert.files import output_dir
from deebert.inputs import encode
from deebert.model import DeeBert, has_ramps, save
from deebert.params import read_params
from deebert.stage import run
from deebert.training import first_token_states, train_ramps


def main(data: Path, backbone: Path, out: Path) -> None:
    params = read_params(Path("params.yaml"))
    if has_ramps(backbone):
        logging.info("train_ramps: the backbone came with ramps of its own; they are kept, nothing is trained")
        ramps = DeeBert.load(backbone)[0].ramps
        with output_dir(out) as folder:
            save(backbone, ramps, folder)
        return
    train = glue.load(data, ["train"])
    model, tokenizer = load_classifier(backbone)
    encoded = encode(tokenizer, train.splits["train"], train.task["text_columns"])
    labels = train.splits["train"]["label"].to_numpy()
    with first_token_states(model, tokenizer, encoded, params.train_ramps.precision) as states:
        ramps = train_ramps(states, labels, model.config.num_labels, params.train_ramps, params.seed)
    with output_dir(out) as folder:
        save(backbone, ramps, folder)


if __name__ == "__main__":
    run(main)
