"""Write the GLUE server's files for the task that was run last, at a threshold of your choice.

    dvc exp run -S dataset=RTE -S eval_layers.hidden_test=true
    make submission THRESHOLD=0.3
    zip -j submission.zip submission/*.tsv

The server wants all of its tasks in one archive: run the tasks one after the other, their files gather in the folder.
"""

import argparse
import logging
from pathlib import Path

from deebert.base.stage import told_in_one_line
from deebert.cli.arguments import number
from deebert.data.dataset import DataSet
from deebert.reports import submission


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("threshold", type=number, help="nats; 0 = full depth")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with told_in_one_line():
        task = DataSet.load(Path("data/glue")).task
        submission.write(task.name, Path("data/logits"), arguments.threshold, Path("submission"))


if __name__ == "__main__":
    main()
