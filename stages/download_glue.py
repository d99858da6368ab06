"""Fetch one GLUE task, read data of one's own, or make the embedded one: parquet files and a description, data/glue."""

from pathlib import Path

from deebert.base.files import output_dir
from deebert.base.stage import run
from deebert.data.sources.table import fetch
from deebert.settings.download_glue import DownloadGlue
from deebert.settings.reading import read_section, read_value
from deebert.settings.run import DATASET

PARAMS = Path("params.yaml")


def main(out: Path) -> None:
    settings, dataset = read_section(PARAMS, DownloadGlue), read_value(PARAMS, "dataset", DATASET)
    data = fetch(dataset, settings)
    with output_dir(out) as folder:
        data.save(folder)


if __name__ == "__main__":
    run(main)
