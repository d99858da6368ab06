"""Fetch one GLUE task, or make the embedded one, as parquet files and a description: data/glue."""

from pathlib import Path

from deebert.base.files import output_dir
from deebert.base.stage import run
from deebert.data import glue, toy
from deebert.settings.download_glue import DownloadGlue
from deebert.settings.reading import read_section, read_value
from deebert.settings.run import DATASET

PARAMS = Path("params.yaml")


def main(out: Path) -> None:
    settings, dataset = read_section(PARAMS, DownloadGlue), read_value(PARAMS, "dataset", DATASET)
    if dataset == "toy":
        data = toy.load(settings.toy_seed)
    elif settings.source == "hub":
        data = glue.from_hub(glue.GLUE_TASKS[dataset])
    else:
        data = glue.from_folder(glue.GLUE_TASKS[dataset], Path(settings.source))
    with output_dir(out) as folder:
        glue.save(data, folder)


if __name__ == "__main__":
    run(main)
