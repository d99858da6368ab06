"""Time early exit against the plain backbone: metrics/benchmark.json, plots/benchmark.json and its figure.

The only stage with a clock, and so the only one whose outputs differ from run to run.
"""

from pathlib import Path

import numpy as np
import torch

from deebert.base.devices import pick_device
from deebert.base.files import read_json, write_json
from deebert.base.stage import run
from deebert.data.dataset import DataSet
from deebert.data.encoded import encode
from deebert.exits.criteria import Entropy
from deebert.exits.grids import NEXT_TO_NOBODY, TIMED_SHARES, thresholds_at
from deebert.figures.drawing import save
from deebert.figures.speed import draw_time
from deebert.inference.clock import benchmark_metrics, benchmark_rows
from deebert.inference.engine import Engine
from deebert.inference.precisions import recorded, resolve
from deebert.model import DeeBert, fingerprint
from deebert.settings.benchmark import Benchmark
from deebert.settings.reading import read_section


def main(data_folder: Path, model_folder: Path, recommended_file: Path, plots: Path, metrics_file: Path) -> None:
    settings = read_section(Path("params.yaml"), Benchmark)
    recommended = read_json(recommended_file)
    data = DataSet.load(data_folder)
    task, frame = data.task, data.validation
    if len(frame) > settings.samples:
        frame = frame.iloc[np.linspace(0, len(frame) - 1, settings.samples).round().astype(int)]
    model, tokenizer = DeeBert.load(model_folder)
    weights = fingerprint(model.state_dict())  # before the engine packs them
    about = read_json(model_folder / "training.json")
    if threads := settings.threads or about.get("cpu_threads"):
        torch.set_num_threads(threads)
    device = pick_device()
    engine = Engine(model, resolve(recorded(model_folder), device), device)
    encoded = encode(tokenizer, frame, task.text_columns)

    chosen = {(row["split"], row["target_drop_points"]): row["threshold"] for row in recommended}
    threshold = chosen[task.validation_splits[0], settings.drop_points]
    usual = (0.0, NEXT_TO_NOBODY, *thresholds_at(TIMED_SHARES, len(task.label_names)))
    criteria = [Entropy(each) for each in sorted({*(settings.thresholds or usual), threshold})]
    rows = benchmark_rows(engine, encoded, criteria, settings.rounds, settings.seconds)
    metrics = benchmark_metrics(task.name, rows, threshold, engine)
    write_json(plots / "benchmark.json", rows)
    save(draw_time({"task": task.name, "model": about["model"]}, metrics, rows), plots / "benchmark.svg")
    write_json(metrics_file, {**metrics, "weights": weights})


if __name__ == "__main__":
    run(main)
