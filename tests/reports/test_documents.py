"""Numbers in the documents are those of the committed run, and whatever a run gives can be said."""

import dataclasses
import io
import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from deebert.analysis.baseline_table import BASELINES
from deebert.base.errors import UserError
from deebert.base.rows import Row
from deebert.exits.table import CRITERIA
from deebert.reports.document_blocks import BLOCKS, Run, read_run
from deebert.reports.documents import END, START, fill

TOP = Path(__file__).parents[2]
DOCUMENTS = [TOP / "README.md", *sorted((TOP / "docs").glob("*.md"))]
PAGE = Path("page.md")
CHANGED_BY = {  # block -> a file in plots/ and a column of it that the block tells
    "headline": ("sweep", "score"),
    "recommended": ("choice", "threshold"),
    "certified": ("certificates", "threshold"),
    "criteria": ("sweep", "layers_saved_frac"),
    "leavers": ("leavers", "error_rate"),
    "smaller": ("sweep", "score"),
    "clock": ("benchmark", "time_saved_frac"),
}
PARTS = ("metrics", "plots", "docs/rivals", "results")


@pytest.fixture(scope="module")
def committed() -> Run:
    return run_in(TOP)


def run_in(folder: Path) -> Run:
    return read_run(*(folder / name for name in PARTS))


@pytest.fixture(scope="module")
def last_commit(committed: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run in git, since `make repro` on other threads moves the working tree's; that one where there is no git."""
    packed = subprocess.run(["git", "archive", "--format=zip", "HEAD", *PARTS], cwd=TOP, capture_output=True)
    if packed.returncode:
        return committed
    folder = tmp_path_factory.mktemp("commit")
    with zipfile.ZipFile(io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder)
    return run_in(folder)


def with_rows(run: Run, name: str, rows: list[Row]) -> Run:
    return dataclasses.replace(run, plots={**run.plots, name: rows})


def changed(run: Run, name: str, **values: object) -> Run:
    """The run with these values in every row of `plots/<name>.json`."""
    return with_rows(run, name, [row | values for row in run.plots[name]])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_have_the_committed_runs_numbers(document: Path, committed: Run, last_commit: Run) -> None:
    """`make docs` would change nothing, or has been left to do since a run that is not committed."""
    text = document.read_text(encoding="utf-8")
    assert text in {fill(document, text, run) for run in (committed, last_commit)}, "stale numbers: run `make docs`"


def test_every_block_is_used() -> None:
    """No block is made for nothing."""
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert {name for name in BLOCKS if START.format(name) in text} == set(BLOCKS)


@pytest.mark.parametrize("name", CHANGED_BY)
def test_a_block_tells_the_numbers_of_its_run(name: str, committed: Run) -> None:
    """Other rows give another text: no number is typed into the code."""
    file, column = CHANGED_BY[name]
    halves = {row[column]: row[column] / 2 for row in committed.plots[file]}
    other = with_rows(committed, file, [row | {column: halves[row[column]]} for row in committed.plots[file]])
    if column == "threshold":  # the sweep must have it
        rows = [row | {column: halves.get(row[column], row[column])} for row in committed.plots["sweep"]]
        other = with_rows(other, "sweep", rows)
    assert BLOCKS[name](other) != BLOCKS[name](committed)


def test_only_what_stands_in_a_block_is_replaced(committed: Run) -> None:
    """Lines around it stay, whatever stood in it goes, and a second time changes nothing."""
    before = f"first\n\n{START.format('certified')}\nold\n\nold | {START.format('x')}\n{END}\nlast"
    after = fill(PAGE, before, committed)
    assert after == f"first\n\n{START.format('certified')}\n{BLOCKS['certified'](committed)}\n{END}\nlast"
    assert fill(PAGE, after, committed) == after


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\n<!-- numbers: chioce -->\n<!-- end -->", "page.md:2: .*unknown block; expected one of headline, "),
        ("<!-- number: choice -->\n<!-- end -->", "page.md:1: .*unknown marker; expected "),
        ("<!-- numbers: clock -->\n<!--end-->", "page.md:2: .*unknown marker"),
        ("<!-- numbers: clock -->\ntext", "page.md:1: this block is not closed"),
        ("<!-- numbers: clock -->\n<!-- numbers: smaller -->\n<!-- end -->", "page.md:2: .*line 1 is still open"),
        ("text\n<!-- end -->", "page.md:2: .*no block is open here"),
    ],
)
def test_a_wrong_marker_is_told_in_one_line(text: str, told: str, committed: Run) -> None:
    """A misspelt marker is an error and not a comment, because its numbers would never be renewed."""
    with pytest.raises(UserError, match=told) as error:
        fill(PAGE, text, committed)
    assert "\n" not in str(error.value)


def test_nothing_certified(committed: Run) -> None:
    """Where no threshold passes, the table says so with the smallest risk that would, or that no layer is saved."""
    none = changed(committed, "certificates", certified=False, threshold=0.0, layers_saved_frac=0.0)
    told = BLOCKS["certified"](changed(none, "certificates", smallest_epsilon=0.0123))
    assert "nats" not in told and told.count("none; the smallest that could be certified is 1.23 %") == 6
    told = BLOCKS["certified"](changed(none, "certificates", smallest_epsilon=None))
    assert told.count("none: no threshold saves a layer") == 6


def test_no_test_split(committed: Run) -> None:
    """Where test labels are hidden, nothing is said of them."""
    hidden = with_rows(committed, "sweep", [row for row in committed.plots["sweep"] if row["split"] != "test"])
    assert "test" in BLOCKS["headline"](committed) and "test" in BLOCKS["recommended"](committed)
    assert "test" not in BLOCKS["headline"](hidden) and "test" not in BLOCKS["recommended"](hidden)
    assert "test" in BLOCKS["certified"](committed) and "test" not in BLOCKS["certified"](hidden)
    assert "test" not in BLOCKS["certified"](changed(committed, "layers", metric="f1")), "the promise is of accuracy"


def test_other_targets(committed: Run) -> None:
    """The example is the boldest threshold that may lose one point at most, or else the most cautious there is."""
    targets = (0.2, 0.9, 2.0, 4.0)
    rows = [row | {"target_drop_points": target} for row, target in zip(committed.choice, targets, strict=True)]
    assert with_rows(committed, "choice", rows[::-1]).example["target_drop_points"] == 0.9
    assert with_rows(committed, "choice", rows[2:]).example["target_drop_points"] == 2.0


def test_no_smaller_model(committed: Run) -> None:
    """Where none belongs beside the run, a sentence says so, and the table of criteria has no row of it."""
    alone = with_rows(committed, "sweep", [row for row in committed.plots["sweep"] if row["criterion"] != "truncated"])
    assert BLOCKS["smaller"](alone) == "No smaller model of this task, model and settings was fine-tuned."
    assert "truncated" in BLOCKS["criteria"](committed) and "truncated" not in BLOCKS["criteria"](alone)


def test_criteria_come_in_the_order_of_their_tables(committed: Run) -> None:
    """One line of three cells for each that the run has, in the order of the figure's legend."""
    head, rule, *lines = BLOCKS["criteria"](committed).splitlines()
    present = {row["criterion"] for row in committed.plots["sweep"]}
    assert {line.count("|") for line in (head, rule, *lines)} == {4}
    assert [line.split("`")[1] for line in lines] == [name for name in CRITERIA | BASELINES if name in present]


def test_a_criterion_that_loses_too_much(committed: Run) -> None:
    """A criterion without a setting within the loss has no number."""
    rows = [row | {"score": 0.5} if row["criterion"] == "patience" else row for row in committed.plots["sweep"]]
    assert re.search(r"\| `patience` \| .* \| none \|", BLOCKS["criteria"](with_rows(committed, "sweep", rows)))


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        (0.1, "saved time in every row"),
        (-0.1, "saved time in no row"),
        (None, r"beyond about 25 % of the layers"),
    ],
)
def test_where_early_exit_begins_to_pay(saved: float | None, told: str, committed: Run) -> None:
    """Between the last row that costs time and the first that saves some, by a straight line; there may be no such."""
    run = changed(committed, "benchmark", time_saved_frac=saved)
    if saved is None:
        two = [row for row in committed.plots["benchmark"] if row["threshold"] in (0.05, 0.2)]
        points = {0.05: {"layers_saved_frac": 0.2, "time_saved_frac": -0.1}}
        points[0.2] = {"layers_saved_frac": 0.3, "time_saved_frac": 0.1}
        run = with_rows(committed, "benchmark", [row | points[row["threshold"]] for row in two])
    assert re.search(told, " ".join(BLOCKS["clock"](run).split()))


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """The line names the file and what makes it."""
    with pytest.raises(UserError, match=r"benchmark.json: no such file; `dvc repro` makes it"):
        read_run(tmp_path, TOP / "plots", TOP / "docs/rivals", TOP / "results")
