"""Fetch one GLUE task, or make the embedded one, as parquet files and a description: data/glue."""

from pathlib import Path

from deebert.base.files import output_dir
from deebert.base.stage import run
from deebert.data.sources.table import fetch
from deebert.settings.params import read_params


def main(out: Path) -> None:
    params = read_params(Path("params.yaml"))
    data = fetch(params.dataset, params.download_glue)
    with output_dir(out) as folder:
        data.save(folder)


if __name__ == "__main__":
    run(main)
