"""Fetch one GLUE task, or make the embedded one, as parquet files and a description: data/glue."""

from pathlib import Path

from deebert.base.files import output_dir
from deebert.base.stage import run
from deebert.data import glue, toy
from deebert.settings.params import read_params


def main(out: Path) -> None:
    params = read_params(Path("params.yaml"))
    source = params.download_glue.source
    if params.dataset == "toy":
        data = toy.load(params.download_glue.toy_seed)
    elif source == "hub":
        data = glue.from_hub(glue.GLUE_TASKS[params.dataset])
    else:
        data = glue.from_folder(glue.GLUE_TASKS[params.dataset], Path(source))
    with output_dir(out) as folder:
        glue.save(data, folder)


if __name__ == "__main__":
    run(main)
