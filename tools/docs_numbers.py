"""Write the committed run's numbers into the documents, between their markers.

make docs
"""

import argparse
from pathlib import Path

from deebert.base.stage import told_in_one_line
from deebert.reports.document_blocks import read_run
from deebert.reports.documents import fill


def main(paths: list[Path]) -> None:
    run = read_run(Path("metrics"), Path("plots"), Path("docs/rivals"), Path("results"))
    texts = {path: path.read_text(encoding="utf-8") for path in paths}
    filled = {path: fill(path, text, run) for path, text in texts.items()}
    for path, text in filled.items():
        if text != texts[path]:
            path.write_text(text, encoding="utf-8")
        print(f"{path}: {'as it was' if text == texts[path] else 'new numbers'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", type=Path, nargs="+", help="Markdown files")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.documents)
