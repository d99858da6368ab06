"""What README.md and docs/ say can be done, can be done: snippets, links, commands, parameters, names."""

import ast
import importlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from deebert.analysis.baseline_table import BASELINES
from deebert.analysis.logits import SplitLogits
from deebert.classifier import EarlyExitClassifier
from deebert.encoders.known import KNOWN_MODELS
from deebert.encoders.registry import FAMILIES
from deebert.exits.table import CRITERIA
from deebert.settings.run import DATASETS
from deebert.training.objective_names import names as objective_names
from tests import tiny
from tests.cli.running import status
from tests.heads import heads
from tests.inference.test_classifier import LAYERS, write_classifier, write_metrics

TOP = Path(__file__).parents[2]
README = TOP / "README.md"
DOCUMENTS = [README, *sorted((TOP / "docs").glob("*.md"))]
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
MAX_README_WORDS = 1500
CODE = re.compile(r"^```.*?^```$|^    .*?$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def text_of(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def code_of(document: Path) -> str:
    """All that stands in the document as code, in lines or in a sentence."""
    return "\n".join(re.sub(r"^```\w*$|`", "", code, flags=re.MULTILINE) for code in CODE.findall(text_of(document)))


def anchors(document: Path) -> set[str]:
    """The names by which GitHub links to the document's headings."""
    prose = FENCED.sub("", text_of(document))
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def parameters() -> dict[str, Any]:
    return yaml.safe_load((TOP / "params.yaml").read_text(encoding="utf-8"))


def is_parameter(key: str) -> bool:
    value: Any = parameters()
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return False
        value = value[name]
    return True


def stages() -> dict[str, Any]:
    return yaml.safe_load((TOP / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_readme_is_short() -> None:
    """It is read in one go; what is longer belongs to docs/."""
    assert len(text_of(README).split()) <= MAX_README_WORDS


def test_readme_leads_to_every_page() -> None:
    """Each page of docs/ is linked there."""
    assert {f"docs/{page.name}" for page in DOCUMENTS[1:]} <= set(LINK.findall(text_of(README)))


@EACH
def test_tables_are_whole(document: Path) -> None:
    """Each row stands on one line, with as many cells as its table's head."""
    prose = FENCED.sub("", text_of(document))
    for table in re.findall(r"(?:^ *\|.*\n)+(?:^.*\|$)?", prose, re.MULTILINE):
        rows = [row.strip() for row in table.splitlines()]
        assert all(row.endswith("|") for row in rows), table
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, table


def snippets(document: Path) -> list[str]:
    return [code for language, code in FENCED.findall(text_of(document)) if language == "python"]


@EACH
def test_snippets_compile_and_their_imports_resolve(document: Path) -> None:
    """Every Python block is whole by itself: it parses, and its modules have the names that it takes from them."""
    for code in snippets(document):
        imports = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
        assert imports, f"a snippet without an import: {code}"
        for node in imports:
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)
            else:
                for alias in node.names:
                    importlib.import_module(alias.name)


def test_snippets_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a small model, its export and logits where the pages have them, and a GLUE task, every Python block ends."""
    (tmp_path / "SST-2").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "SST-2" / f"{name}.tsv").write_text("sentence\tlabel\nw1 w2\t1\nw3\t0\n")
    model = write_classifier(tmp_path / "models").rename(tmp_path / "models/deebert")
    write_metrics(tmp_path / "metrics", EarlyExitClassifier.from_pretrained(model))
    (tmp_path / "data/logits").mkdir(parents=True)
    each = np.arange(40)
    saved = SplitLogits(*heads(0, len(tiny.LABEL_NAMES), layers=LAYERS), each, each)
    saved.save(tmp_path / "data/logits/validation.safetensors")
    monkeypatch.chdir(tmp_path)
    assert status("export", model, "reviews-onnx", "--exits", LAYERS, "--threshold", 0.3) == 0
    codes = [code for document in DOCUMENTS for code in snippets(document)]
    assert codes
    for code in codes:
        exec(compile(code, "snippet", "exec"), {})


@pytest.mark.slow
def test_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm_python: Path) -> None:
    """With a small model where the pipeline writes its own, every line with `deebert` comes to its end, in order.

    So does every line that runs what `deebert export` has written.
    """
    folder = write_classifier(tmp_path / "models").rename(tmp_path / "models/deebert")
    classifier = EarlyExitClassifier.from_pretrained(folder)
    metrics = write_metrics(tmp_path / "metrics", classifier)
    for file in metrics.iterdir():  # the loss that the pages speak of
        file.write_text(file.read_text().replace("drop_2_0", "drop_1_0"))
    monkeypatch.chdir(tmp_path)
    classifier.save_pretrained("reviews-model", metrics)
    lines = [line for page in DOCUMENTS for _, code in FENCED.findall(text_of(page)) for line in code.splitlines()]
    ours = re.compile(r"\bdeebert (predict|info|measure|export)\b|\bpython \S+/runner\.py\b|^printf ")
    commands = [line for line in lines if ours.search(line)]
    assert len(commands) > 7
    Path("data/glue").mkdir(parents=True)
    tiny.data(labels=3).save(Path("data/glue"))
    program = f"PYTHONPATH='{TOP / 'src'}' '{warm_python}' -m deebert"
    script = "\n".join(re.sub(r"(^|\| )deebert ", rf"\1{program} ", line) for line in commands)
    script = re.sub(r"(?<!\S)python ", f"'{warm_python}' ", script)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path("answers.csv").read_text().splitlines()[0] == "id,sentence,label,probability,exit_layer"


@EACH
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link or image is a file or folder of the project, and every anchor a heading there."""
    for link in LINK.findall(text_of(document)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists() and target.is_relative_to(TOP), link
        assert not anchor or anchor in anchors(target), link


@EACH
def test_make_targets_exist(document: Path) -> None:
    """Every `make` command names a target of the Makefile."""
    targets = re.findall(r"^([a-z-]+):.*## ", (TOP / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for words in re.findall(r"^(?:[A-Z_]+=\S+ )*make((?: [a-z-]+)+)", code_of(document), re.MULTILINE):
        assert words.split()[0] in targets, f"make{words}"


@EACH
def test_parameters_exist(document: Path) -> None:
    """Every key given to `-S`, and every name of a section with a key, stands in params.yaml."""
    code = code_of(document)
    sections = [name for name, value in parameters().items() if isinstance(value, dict)]
    given = re.findall(r"-S '?([\w.]+)=", code)
    named = re.findall(rf"^(?:{'|'.join(sections)})\.(?!json$|svg$|py$)\w+$", code, re.MULTILINE)
    assert not [key for key in (*given, *named) if not is_parameter(key)]


@EACH
def test_stages_exist(document: Path) -> None:
    """Every `dvc repro STAGE` names a stage of dvc.yaml."""
    wanted = re.findall(r"dvc repro(?: -f)? (\w+)", code_of(document))
    assert set(wanted) <= set(stages())


@EACH
def test_code_that_is_named_exists(document: Path) -> None:
    """Every file of the project named by its path is there, and so is every module named by its room."""
    code = code_of(document)
    folders = "stages|tools|tests|benchmarks|cluster|paper|baselines|metrics|plots|src"
    named = re.findall(rf"(?<![\w./])(?:{folders})/[\w/.-]+\.(?:py|json|yaml|sh|svg)\b", code)
    rooms = "|".join(rooms_of_the_package())
    named += [f"src/deebert/{path}" for path in re.findall(rf"(?<![\w./])(?:{rooms})/[\w/]+\.py\b", code)]
    inner = re.findall(rf"^(?:{rooms})/\w+/$", code, re.MULTILINE)
    own = {"data/own/"}  # a person's own data
    named += [f"src/deebert/{path}" for path in inner if path not in pipeline_folders() | own]
    assert not [path for path in named if not (TOP / path).exists()]


def rooms_of_the_package() -> list[str]:
    return sorted(folder.parent.name for folder in (TOP / "src/deebert").glob("*/__init__.py"))


def pipeline_folders() -> set[str]:
    """What stages write, such as `data/glue/`."""
    return {f"{out}/" for stage in stages().values() for out in stage.get("outs", []) if isinstance(out, str)}


def test_readme_names_every_stage() -> None:
    """The graph and the table have each stage of the pipeline."""
    (graph,) = [code for _, code in FENCED.findall(text_of(README)) if "─" in code]
    table = re.findall(r"^\| `(\w+)` \|", text_of(README), re.MULTILINE)
    assert set(stages()) <= set(re.findall(r"\w+", graph))
    assert set(stages()) <= set(table)


def test_lists_are_whole() -> None:
    """What stands in a list in the code stands in the page's, too."""
    for page, names in (
        ("models.md", FAMILIES),
        ("threshold.md", CRITERIA | BASELINES),
        ("training.md", objective_names()),
        ("runs.md", [*DATASETS, *KNOWN_MODELS]),
    ):
        told = text_of(TOP / "docs" / page)
        assert not [name for name in names if f"`{name}`" not in told], page


def test_every_room_is_told() -> None:
    """The table of rooms lists the folders of the package, no more and no fewer."""
    text = text_of(TOP / "docs/design.md")
    table = text[text.index("| room |") : text.index("Programs import")]
    assert sorted(re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE)) == rooms_of_the_package()


def test_every_figure_of_the_run_is_explained() -> None:
    """`docs/numbers.md` names every key of metrics/ and every column of plots/; keys made of a target count once."""
    page = TOP / "docs/numbers.md"
    names = set(re.findall(r"\w+", code_of(page)))
    for path in (TOP / "metrics").glob("*.json"):
        for key in keys(json.loads(path.read_text(encoding="utf-8"))):
            if match := re.fullmatch(r"(drop|risk)_[\d_]+", key):
                assert re.search(rf"{match[1]}_\d", code_of(page)), key
            else:
                assert key in names, f"{path.name}: {key}"
    for path in (TOP / "plots").glob("*.json"):
        columns = {column for row in json.loads(path.read_text(encoding="utf-8")) for column in row}
        assert columns <= names, f"{path.name}: {sorted(columns - names)}"


def keys(content: dict[str, Any]) -> list[str]:
    return [name for key, value in content.items() for name in (key, *(keys(value) if isinstance(value, dict) else ()))]
