"""Run every head on every sample once, and score each layer: data/logits, metrics/layers.json."""

from pathlib import Path

from deebert.analysis.layers import layer_metrics, layer_rows
from deebert.analysis.logits import SplitLogits
from deebert.base.files import output_dir, write_json
from deebert.base.stage import run
from deebert.data import glue
from deebert.data.inputs import encode, token_counts
from deebert.data.scores import is_labelled
from deebert.model import DeeBert, all_logits, fingerprint
from deebert.settings.model_names import model_name
from deebert.settings.params import read_params


def main(data: Path, model_folder: Path, out: Path, metrics_file: Path) -> None:
    params = read_params(Path("params.yaml"))
    glue_data = glue.load(data)
    task = glue_data.task
    model, tokenizer = DeeBert.load(model_folder)
    rows, scored = [], []
    with output_dir(out) as folder:
        for split in [*task["validation_splits"], *task["test_splits"]]:
            frame = glue_data.splits[split]
            labels = frame["label"].to_numpy()
            if not is_labelled(labels) and not params.eval_layers.hidden_test:
                continue
            encoded = encode(tokenizer, frame, task["text_columns"])
            logits = all_logits(model, tokenizer, encoded, params.eval_layers.batch_tokens)
            difficulty = frame["difficulty"].to_numpy() if "difficulty" in frame else None
            answers = SplitLogits(logits, labels, frame["idx"].to_numpy(), token_counts(encoded), difficulty)
            answers.save(folder / f"{split}.safetensors")
            if is_labelled(labels):
                scored.append(split)
                rows += layer_rows(split, logits, labels, task["metrics"])
        about = {
            "task": task["task"],
            "model": model_name(params.backbone),
            "num_layers": model.num_layers,
            "metric": task["metrics"][0],
            "splits": scored,
            "n": {split: len(glue_data.splits[split]) for split in scored},
        }
        write_json(folder / "about.json", about)
        write_json(folder / "layers.json", rows)
    main_split = task["validation_splits"][0]
    metrics = layer_metrics(task["task"], rows, main_split, len(glue_data.splits[main_split]))
    write_json(metrics_file, {**metrics, "weights": fingerprint(model)})


if __name__ == "__main__":
    run(main)
