"""Run every head on every sample once, and score each layer: data/logits, metrics/layers.json."""

from pathlib import Path

from deebert.analysis.layers import layer_metrics, layer_rows
from deebert.analysis.logits import SplitLogits
from deebert.base.files import output_dir, write_json
from deebert.base.stage import run
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.data.scores import is_labelled
from deebert.model import DeeBert, all_logits, fingerprint
from deebert.settings.params import model_name, read_params


def main(data_folder: Path, model_folder: Path, out: Path, metrics_file: Path) -> None:
    params = read_params(Path("params.yaml"))
    data = DataSet.load(data_folder)
    task = data.task
    model, tokenizer = DeeBert.load(model_folder)
    rows, scored = [], []
    with output_dir(out) as folder:
        for split in (*task.validation_splits, *task.test_splits):
            frame = data[split]
            labels = frame["label"].to_numpy()
            if not is_labelled(labels) and not params.eval_layers.hidden_test:
                continue
            encoded = encode(tokenizer, frame, task.text_columns)
            logits = all_logits(model, encoded, tokenizer.pad_token_id, params.eval_layers.batch_tokens)
            difficulty = frame["difficulty"].to_numpy() if "difficulty" in frame else None
            answers = SplitLogits(logits, labels, frame["idx"].to_numpy(), encoded.lengths, difficulty)
            answers.save(folder / f"{split}.safetensors")
            if is_labelled(labels):
                scored.append(split)
                rows += layer_rows(split, logits, labels, task.metrics)
        about = {
            "task": task.name,
            "model": model_name(params.backbone),
            "num_layers": model.num_layers,
            "metric": task.metrics[0],
            "splits": scored,
            "n": {split: data.sizes[split] for split in scored},
        }
        write_json(folder / "about.json", about)
        write_json(folder / "layers.json", rows)
    main_split = task.validation_splits[0]
    metrics = layer_metrics(task.name, rows, main_split, data.sizes[main_split])
    write_json(metrics_file, {**metrics, "weights": fingerprint(model)})


if __name__ == "__main__":
    run(main)
