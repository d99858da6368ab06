"""Draw what the sweep and the layers wrote: the rows for `dvc plots` and the figures, in plots/."""

from pathlib import Path

from deebert.base.files import read_json, write_json
from deebert.base.stage import run
from deebert.figures import decision, evaluation
from deebert.figures.drawing import save
from deebert.reports.smaller import read_smaller, smaller_rows
from deebert.settings.download_glue import DownloadGlue
from deebert.settings.finetune_backbone import FinetuneBackbone
from deebert.settings.precision import PRECISION
from deebert.settings.reading import read_section, read_value

PARAMS = Path("params.yaml")
TABLES = ("sweep", "exits", "entropies", "depths", "bands", "choice", "certificates", "leavers", "calibration")
KEPT = ("sweep", "exits", "choice", "certificates", "leavers", "calibration")


def main(
    start: Path, finetune_curve: Path, ramps_curve: Path, logits: Path, sweep: Path, smaller_models: Path, out: Path
) -> None:
    download, finetune = read_section(PARAMS, DownloadGlue), read_section(PARAMS, FinetuneBackbone)
    about = read_json(logits / "about.json")
    layers = read_json(logits / "layers.json")
    rows = {name: read_json(sweep / f"{name}.json") for name in TABLES}
    run_of = (about, read_json(start)["model"], download, finetune, read_value(PARAMS, "precision", PRECISION))
    rows["sweep"] += smaller_rows(read_smaller(smaller_models), *run_of)
    shown = sorted({row["threshold"] for row in rows["exits"]})
    drawn = {
        "tradeoff": evaluation.draw_tradeoff(about, rows["sweep"], rows["bands"], shown),
        "criteria": decision.draw_criteria(about, rows["sweep"]),
        "choice": decision.draw_choice(about, rows["choice"], rows["certificates"], rows["sweep"]),
        "leavers": decision.draw_leavers(about, rows["leavers"], rows["choice"]),
        "layers": evaluation.draw_layers(about, layers),
        "exits": evaluation.draw_exits(about, rows["exits"]),
        "entropy": evaluation.draw_entropy(about, rows["entropies"], rows["depths"]),
    }
    write_json(out / "layers.json", layers)
    write_json(out / "finetune.json", read_json(finetune_curve))
    write_json(out / "ramps.json", read_json(ramps_curve))
    for name in KEPT:
        write_json(out / f"{name}.json", rows[name])
    for name, figure in drawn.items():
        save(figure, out / f"{name}.svg")


if __name__ == "__main__":
    run(main)
