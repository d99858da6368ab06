"""Write the committed run's numbers into the documents, between their markers.

make docs
"""

import argparse
from pathlib import Path

from deebert.base.stage import told_in_one_line
from deebert.reports.document_blocks import read_run
from deebert.reports.documents import fill


def main(paths: list[Path], metrics: Path, plots: Path, rivals: Path, results: Path) -> None:
    run = read_run(metrics, plots, rivals, results)
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    filled = {path: fill(path, text, run) for path, text in texts.items()}
    for path, text in filled.items():
        if text != texts[path]:
            path.write_text(text, encoding="utf-8")
        print(f"{path}: {'as it was' if text == texts[path] else 'new numbers'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files")
    parser.add_argument("--metrics", type=Path, default=Path("metrics"))
    parser.add_argument("--plots", type=Path, default=Path("plots"))
    parser.add_argument("--rivals", type=Path, default=Path("docs/rivals"), help="what `make rivals` has left to show")
    parser.add_argument("--results", type=Path, default=Path("results"), help="what `make result` has kept")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.documents, arguments.metrics, arguments.plots, arguments.rivals, arguments.results)
