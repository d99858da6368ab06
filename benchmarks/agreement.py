"""Does another precision answer as fp32 does? Prints one line of JSON.

    PYTHONPATH=src python benchmarks/agreement.py --precision int8 --data data/glue --model models/deebert

A trained model answers a validation split in both precisions at a few thresholds. For each threshold: the share of
samples that leave at the same layer, the share that gets the same label, and both precisions' score and layers saved.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deebert.base.devices import pick_device
from deebert.base.stage import told_in_one_line
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.data.scores import METRICS
from deebert.exits.criteria import Entropy
from deebert.exits.rule import layers_saved_frac
from deebert.inference.clock import hardware_name
from deebert.inference.engine import Answers, Engine
from deebert.inference.precisions import PRECISIONS, resolve
from deebert.model import DeeBert

THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.5)  # nats


def compare(
    answers: dict[str, Answers], labels: np.ndarray, metric: str, num_layers: int
) -> dict[str, float | dict[str, float]]:
    """Agreement of the two precisions' answers to the same N samples with `labels` (N,), and what each is worth."""
    layers = {name: each.exit_layers for name, each in answers.items()}  # (N,)
    predictions = {name: each.logits.argmax(axis=1) for name, each in answers.items()}  # (N,)
    one, other = answers
    return {
        "same_exit_layer_frac": round(float(np.mean(layers[one] == layers[other])), 4),
        "same_label_frac": round(float(np.mean(predictions[one] == predictions[other])), 4),
        "score": {name: round(METRICS[metric](labels, predictions[name]), 4) for name in answers},
        "layers_saved_frac": {
            name: round(layers_saved_frac(float(each.mean()), num_layers), 4) for name, each in layers.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/glue"))
    parser.add_argument("--precision", choices=[each for each in PRECISIONS if each != "fp32"], default="bf16")
    parser.add_argument("--model", type=Path, default=Path("models/deebert"))
    args = parser.parse_args()
    device = pick_device()
    data = DataSet.load(args.data)
    task, frame = data.task, data.validation
    engines = {}
    for precision in ("fp32", args.precision):
        model, tokenizer = DeeBert.load(args.model)
        engines[precision] = Engine(model, resolve(precision, device), device)
    encoded = encode(tokenizer, frame, task.text_columns)
    result: dict[str, Any] = {
        "task": task.name,
        "split": task.validation_splits[0],
        "n": len(frame),
        "metric": task.metrics[0],
        "device": hardware_name(device),
        "torch": version("torch"),
    }
    for threshold in THRESHOLDS:
        answers = {precision: engine.answer(encoded, Entropy(threshold)) for precision, engine in engines.items()}
        labels = frame["label"].to_numpy()
        result[f"threshold {threshold}"] = compare(answers, labels, task.metrics[0], engines["fp32"].num_layers)
    print(json.dumps(result))


if __name__ == "__main__":
    with told_in_one_line():
        main()
