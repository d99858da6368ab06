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
    parser.add_argument("--data", type=Path, default=Path("data/glue"))
    parser.add_argument("--logits", type=Path, default=Path("data/logits"))
    parser.add_argument("--out", type=Path, default=Path("submission"))
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with told_in_one_line():
        task = DataSet.load(arguments.data).task
        submission.write(task.name, arguments.logits, arguments.threshold, arguments.out)


if __name__ == "__main__":
    main()
