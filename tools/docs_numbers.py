"""Write the committed run's numbers into the documents, between their markers.

make docs
"""

import argparse
import sys
from pathlib import Path

from deebert.base.errors import UserError
from deebert.reports.document_blocks import read_run
from deebert.reports.documents import fill


def main(paths: list[Path], metrics: Path, plots: Path) -> None:
    run = read_run(metrics, plots)
    filled = {path: fill(path, path.read_text(encoding="utf-8"), run) for path in paths}
    for path, text in filled.items():
        changed = text != path.read_text(encoding="utf-8")
        if changed:
            path.write_text(text, encoding="utf-8")
        print(f"{path}: {'new numbers' if changed else 'as it was'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files")
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--plots", type=Path, default=Path("plots"))
    arguments = parser.parse_args()
    try:
        main(arguments.documents, arguments.metrics, arguments.plots)
    except UserError as error:
        sys.exit(f"error: {error}")
