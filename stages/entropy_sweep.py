"""All that follows from the saved logits, by arithmetic: data/sweep and metrics. No model is run."""

import logging
from collections import defaultdict
from pathlib import Path

from deebert.analysis.layers import unlearned
from deebert.analysis.logits import SplitLogits
from deebert.analysis.sweep import (
    choice_metrics,
    choice_tables,
    compute_metrics,
    scored_curve,
    split_tables,
    sweep_metrics,
)
from deebert.base.files import output_dir, read_json, write_json
from deebert.base.stage import run
from deebert.settings.entropy_sweep import EntropySweep
from deebert.settings.reading import read_section

log = logging.getLogger("deebert.entropy_sweep")
UNLEARNED = "%s: %s; the last layers have not learned the task, so train for longer before you choose a threshold"


def main(logits_folder: Path, out: Path, sweep_file: Path, choice_file: Path, compute_file: Path) -> None:
    settings = read_section(Path("params.yaml"), EntropySweep)
    about = read_json(logits_folder / "about.json")
    tables = defaultdict(list)
    for split in about["splits"]:
        saved = SplitLogits.load(logits_folder / f"{split}.safetensors")
        given = (scored_curve(split, saved, about["metric"], settings), saved, settings)
        found = split_tables(*given) | ({} if split in about["test_splits"] else choice_tables(*given))
        for name, rows in found.items():
            tables[name] += rows
        if split not in about["test_splits"] and (why := unlearned(saved.logits, saved.labels, about["metric"])):
            log.warning(UNLEARNED, split, why)
    with output_dir(out) as folder:
        for name, rows in tables.items():
            write_json(folder / f"{name}.json", rows)
    shown = about["task"], about["splits"][0], tables
    write_json(sweep_file, sweep_metrics(*shown))
    write_json(choice_file, choice_metrics(*shown))
    write_json(compute_file, compute_metrics(*shown, settings.ramp_cost_layers))


if __name__ == "__main__":
    run(main)
