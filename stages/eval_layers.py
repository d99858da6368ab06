"""Run every head on every sample once, and score each layer: data/logits, metrics/layers.json."""

from pathlib import Path

from deebert.analysis.layers import layer_metrics, layer_rows
from deebert.analysis.logits import SplitLogits
from deebert.base.devices import pick_device
from deebert.base.files import output_dir, read_json, write_json
from deebert.base.stage import run
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.data.scores import is_labelled
from deebert.inference.engine import Engine
from deebert.inference.precisions import recorded, resolve
from deebert.model import DeeBert, fingerprint
from deebert.settings.eval_layers import EvalLayers
from deebert.settings.reading import read_section


def main(data_folder: Path, model_folder: Path, out: Path, metrics_file: Path) -> None:
    settings = read_section(Path("params.yaml"), EvalLayers)
    data = DataSet.load(data_folder)
    task = data.task
    model, tokenizer = DeeBert.load(model_folder)
    weights = fingerprint(model.state_dict())
    device = pick_device()
    engine = Engine(model, resolve(recorded(model_folder), device), device)
    rows, scored = [], []
    with output_dir(out) as folder:
        for split in (*task.validation_splits, *task.test_splits):
            frame = data[split]
            labels = frame["label"].to_numpy()
            if not is_labelled(labels) and not settings.hidden_test:
                continue
            encoded = encode(tokenizer, frame, task.text_columns)
            logits = engine.all_logits(encoded)
            difficulty = frame["difficulty"].to_numpy() if "difficulty" in frame else None
            answers = SplitLogits(logits, labels, frame["idx"].to_numpy(), encoded.lengths, difficulty)
            answers.save(folder / f"{split}.safetensors")
            if is_labelled(labels):
                scored.append(split)
                rows += layer_rows(split, logits, labels, task.metrics)
        about = {
            "task": task.name,
            "model": read_json(model_folder / "training.json")["model"],
            "num_layers": model.num_layers,
            "metric": task.metrics[0],
            "splits": scored,
            "test_splits": [split for split in scored if split in task.test_splits],
            "n": {split: data.sizes[split] for split in scored},
        }
        write_json(folder / "about.json", about)
        write_json(folder / "layers.json", rows)
    main_split = task.validation_splits[0]
    metrics = layer_metrics(task.name, rows, main_split, data.sizes[main_split])
    write_json(metrics_file, {**metrics, "split": main_split, "weights": weights, "precision": engine.precision})


if __name__ == "__main__":
    run(main)
