"""Hold the experiments that exist against the paper: a table in Markdown, and its figures 2 to 6 from our rows.

    make paper

Reads what `dvc exp show` knows, of all commits and of the working tree; runs nothing. What has not been run says so.
"""

import argparse
from pathlib import Path

import yaml

from deebert.base.files import write_bytes
from deebert.base.stage import told_in_one_line
from deebert.figures import drawing
from deebert.reports import experiments, paper, paper_figures


def main(table_file: Path, out: Path) -> None:
    table = yaml.safe_load(table_file.read_text(encoding="utf-8"))
    shown = experiments.show()
    wanted = paper.wanted_settings(experiments.params_of(shown[0]))
    found = experiments.read_experiments(shown, experiments.file_of, wanted)
    runs = paper.with_papers_recipe(found)
    page = [paper.markdown(table, paper.compare(table, runs))]
    for name, figure in paper_figures.draw_all(table, runs).items():
        path = out / f"{name}.svg"
        path.unlink(missing_ok=True)
        page.append(f"- {name}: " + (str(drawing.save(figure, path)) if figure else paper.NOT_RUN))
    page += [
        "",
        "This queues all six tasks with all four models, in the paper's way, and `dvc queue start` runs them:",
        "",
        f"    {paper.GRID}",
        "",
    ]
    text = "\n".join(page)
    print(text, end="")
    write_bytes(out / "table.md", text.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=Path("paper/table1.yaml"))
    parser.add_argument("--out", type=Path, default=Path("paper/ours"))
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.table, arguments.out)
