"""Apply the exit rule to the saved logits at every threshold: data/sweep, metrics/sweep.json. No model is run."""

from pathlib import Path

from deebert.files import output_dir, read_json, write_json
from deebert.logits import SplitLogits
from deebert.params import read_params
from deebert.stage import run
from deebert.sweep import depth_rows, entropy_rows, exit_rows, sweep_metrics, sweep_rows, threshold_grid


def main(logits_folder: Path, out: Path, metrics_file: Path) -> None:
    settings = read_params(Path("params.yaml")).entropy_sweep
    about = read_json(logits_folder / "about.json")
    sweep, exits, entropies, depths = [], [], [], []
    for split in about["splits"]:
        saved = SplitLogits.load(logits_folder / f"{split}.safetensors")
        grid = threshold_grid(saved.logits.shape[2], settings.grid_points)
        thresholds = sorted({0.0, *settings.thresholds, *grid})
        sweep += sweep_rows(split, saved.logits, saved.labels, thresholds, about["metric"])
        exits += exit_rows(split, saved.logits, settings.thresholds)
        entropies += entropy_rows(split, saved.logits, saved.labels, saved.difficulty)
        depths += depth_rows(split, saved.logits, saved.difficulty, thresholds)
    with output_dir(out) as folder:
        for name, rows in (("sweep", sweep), ("exits", exits), ("entropies", entropies), ("depths", depths)):
            write_json(folder / f"{name}.json", rows)
    main_split = about["splits"][0]
    rows = [row for row in sweep if row["split"] == main_split]
    write_json(metrics_file, sweep_metrics(about["task"], rows, settings.targets))


if __name__ == "__main__":
    run(main)
