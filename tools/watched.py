"""Draw where samples left between the saved states of a monitor, the oldest first.

    make watched STATES='monday.json tuesday.json'

A panel for each file shows what came in since the file before it. The first is the measure for the others: let it be of
data that the threshold was chosen for.
"""

import argparse
import sys
from pathlib import Path

from deebert.base.stage import told_in_one_line
from deebert.figures.drawing import save
from deebert.figures.watch import draw_watched
from deebert.reports.watched import spans

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figure", type=Path, help="where to write the figure (SVG)")
    parser.add_argument("states", type=Path, nargs="+", help="files of Monitor.save or `deebert predict --watch`")
    arguments = parser.parse_args()
    with told_in_one_line():
        print(save(draw_watched(spans(arguments.states)), arguments.figure), file=sys.stderr)
