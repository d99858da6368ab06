"""Hold the experiments that exist against the paper: a table in Markdown, and its figures 2 to 6 from our rows.

    make paper

Reads what `dvc exp show` knows, of all commits and of the working tree; runs nothing. What has not been run says so.
"""

import argparse
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import yaml

from deebert import drawing, paper, paper_figures
from deebert.errors import UserError

GRID = (
    "dvc exp run --queue -S 'dataset=SST-2,MRPC,RTE,QNLI,QQP,MNLI'"
    " -S 'model=bert-base,roberta-base,bert-large,roberta-large'"
)


def output_of(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {' '.join(done.stderr.split()) or done.returncode}")
    return done.stdout


@cache
def file_of(revision: str, path: str) -> str | None:
    """Text of a file that git keeps, as `revision` or the working tree has it; None where there is none."""
    if revision == "workspace":
        return Path(path).read_text(encoding="utf-8") if Path(path).is_file() else None
    done = subprocess.run(["git", "show", f"{revision}:{path}"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else None


def main(table_file: Path, out: Path) -> None:
    table = yaml.safe_load(table_file.read_text(encoding="utf-8"))
    shown = json.loads(output_of(sys.executable, "-m", "dvc", "exp", "show", "--json", "--all-commits"))
    experiments = paper.read_experiments(shown, file_of)
    page = [paper.markdown(table, paper.compare(table, experiments))]
    for name, figure in paper_figures.draw_all(table, experiments).items():
        path = out / f"{name}.svg"
        path.unlink(missing_ok=True)
        page.append(f"- {name}: " + (str(drawing.save(figure, path)) if figure else paper.NOT_RUN))
    page += [
        "",
        "This queues all six tasks with all four models, and `dvc queue start` runs them:",
        "",
        f"    {GRID}",
        "",
    ]
    text = "\n".join(page)
    print(text, end="")
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", type=Path, default=Path("paper/table1.yaml"))
    parser.add_argument("--out", type=Path, default=Path("paper/ours"))
    arguments = parser.parse_args()
    try:
        main(arguments.table, arguments.out)
    except UserError as error:
        sys.exit(f"error: {error}")
