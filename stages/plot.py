"""Draw what the sweep and the layers wrote: the rows for `dvc plots` and the paper's figures, in plots/."""

from pathlib import Path

from deebert import figures
from deebert.files import read_json, write_json
from deebert.stage import run


def main(logits: Path, sweep: Path, out: Path) -> None:
    about = read_json(logits / "about.json")
    layers = read_json(logits / "layers.json")
    rows = {name: read_json(sweep / f"{name}.json") for name in ("sweep", "exits", "entropies", "depths")}
    write_json(out / "layers.json", layers)
    write_json(out / "sweep.json", rows["sweep"])
    write_json(out / "exits.json", rows["exits"])
    figures.draw_all(about, layers, rows["sweep"], rows["exits"], rows["entropies"], rows["depths"], out)


if __name__ == "__main__":
    run(main)
