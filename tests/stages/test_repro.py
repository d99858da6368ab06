"""DVC's users' habits, tried for real in a temporary clone: repro, clone and pull, experiments, a queue, a mistake.

The runs are made short; DEEBERT_LONG=1 has two clones run the committed parameters as well.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests import tiny
from tests.conftest import start_warm_python

ROOT = Path(__file__).parents[2]
# All that git holds and a run needs; tests, documents and the lock file of the long default run stay behind.
SOURCES = (
    ".dvc/.gitignore",
    ".dvc/config",
    ".dvc/plots",
    ".dvcignore",
    ".gitattributes",
    ".gitignore",
    "baselines",
    "data/own/README.md",
    "dvc.yaml",
    "params.yaml",
    "src",
    "stages",
)
STAGES = [
    "plan",
    "download_glue",
    "finetune_backbone",
    "train_ramps",
    "eval_layers",
    "entropy_sweep",
    "plot",
    "benchmark",
]
TOY_SIZES = 'SIZES = {"train": 16_000, "validation": 1_600, "test": 1_600}'
FEW = 'SIZES = {"train": 1_600, "validation": 400, "test": 400}'
TIMED = {"metrics/benchmark.json", "plots/benchmark.json", "plots/benchmark.svg"}  # a clock's, so never the same again
UP_TO_DATE = "Data and pipelines are up to date."
LONG = bool(os.environ.get("DEEBERT_LONG"))
TIMEOUT_S = 3600 if LONG else 600

pytestmark = pytest.mark.slow


def call(folder: Path, *command: str, expect_failure: bool = False, **variables: str) -> str:
    """Run `command` in `folder` as a user would whose shell has the virtual environment; return all it prints."""
    environment = {
        **os.environ,
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(folder.parent / "site_cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # experiments side by side would otherwise wait for each other
        **{f"GIT_{who}_{what}": f"tests@{who}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        **variables,
    }
    # Not into pipes: a worker of DVC's, which idles in the background for a while, would hold them open for as long.
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            timeout=TIMEOUT_S,
        )
        printed = "".join(file.read() for file in (stdout, stderr) if file.seek(0) == 0)
    assert (done.returncode != 0) == expect_failure, f"{' '.join(command)}: exit {done.returncode}\n{printed}"
    return printed


def dvc(folder: Path, *arguments: str, python: Path | str = "python", **how: bool) -> str:
    return call(folder, str(python), "-m", "dvc", *arguments, **how)


def git(folder: Path, *arguments: str) -> str:
    return call(folder, "git", *arguments)


def commit(folder: Path, message: str) -> None:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)


def stages_run(printed: str) -> list[str]:
    return re.findall(r"^Running stage '(\w+)'", printed, flags=re.MULTILINE)


def table(markdown: str) -> list[list[str]]:
    """The rows, heading left out, of a Markdown table."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.strip().splitlines()[2:]]


def untimed(files: dict[str, bytes]) -> dict[str, bytes]:
    """All but what the benchmark writes, which must be there."""
    assert files.keys() >= TIMED
    return {path: content for path, content in files.items() if path not in TIMED}


def files(folder: Path) -> dict[str, bytes]:
    """Every file that the pipeline made, with its content."""
    outs = [path for name in ("data", "models", "metrics", "plots") for path in (folder / name).rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in outs if path.is_file()}


def make_project(folder: Path) -> None:
    """A project that has not run yet, in a git repository of its own."""
    for name in SOURCES:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "Sources")


def put_first_on_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture(scope="module", autouse=True)
def _quick_stages(warm_python: Path) -> Iterator[None]:
    """A `python` and a `dvc` that start at once. Most of these tests' time was imports."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_first_on_path(monkeypatch, warm_python.parent)
        yield


@pytest.fixture(scope="module")
def first_run(_quick_stages: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A project whose default run, made short, is committed, and what `dvc repro` printed."""
    folder = tmp_path_factory.mktemp("repro") / "project"
    make_project(folder)
    toy = folder / "src/deebert/data/sources/toy.py"
    text = toy.read_text(encoding="utf-8")
    assert text.count(TOY_SIZES) == 1
    toy.write_text(text.replace(TOY_SIZES, FEW), encoding="utf-8")
    yaml = YAML()
    params = yaml.load(folder / "params.yaml")
    params["finetune_backbone"] |= {"epochs": 0.2, "truncate_to": 2}
    params["train_ramps"]["epochs"] = 1
    params["entropy_sweep"]["grid_points"] = 10
    params["benchmark"] |= {"samples": 8, "rounds": 1}
    yaml.dump(params, folder / "params.yaml")
    commit(folder, "Short")
    printed = dvc(folder, "repro")
    commit(folder, "First run")
    return folder, printed


@pytest.fixture
def project(first_run: tuple[Path, str]) -> Iterator[Path]:
    """The folder of the first run, put back afterwards into the state of its last commit."""
    folder, _ = first_run
    yield folder
    git(folder, "reset", "--quiet", "--hard")
    git(folder, "clean", "--quiet", "--force", "-d")
    dvc(folder, "checkout", "--quiet")


def test_repro_runs_each_stage_once(first_run: tuple[Path, str]) -> None:
    """One `dvc repro` runs all stages in order; a second runs none and changes no file that git knows."""
    folder, printed = first_run
    assert stages_run(printed) == STAGES
    assert UP_TO_DATE in dvc(folder, "repro")
    assert git(folder, "status", "--porcelain") == ""


def run_in_clone(origin: Path, revision: str, clone: Path, python: Path) -> dict[str, bytes]:
    """What the stages without a clock make in a new clone of `origin`, with nothing to take an earlier run from.

    DVC runs in `python`, and the stages in the one that comes first on the path.
    """
    git(origin, "clone", "--quiet", str(origin), str(clone))
    git(clone, "checkout", "--quiet", revision)
    assert stages_run(dvc(clone, "repro", "plot", python=python)) == STAGES[:-1]
    return files(clone)


def test_two_clones_make_the_same_bytes(
    first_run: tuple[Path, str], tmp_path: Path, warm_python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run once more from nothing and in another folder, all that is not a clock's is the same to the byte.

    So it is though sets of strings have another order in that run, as they have in each new Python.
    """
    folder, _ = first_run
    (tmp_path / "warm").mkdir()
    stages_python = start_warm_python(tmp_path / "warm", 1, os.getpid(), for_dvc=False)
    put_first_on_path(monkeypatch, stages_python.parent)
    assert run_in_clone(folder, "main~", tmp_path / "another", warm_python) == untimed(files(folder))


@pytest.mark.skipif(not LONG, reason="takes minutes; DEEBERT_LONG=1 runs it")
def test_two_clones_make_the_same_bytes_of_the_committed_parameters(tmp_path: Path, warm_python: Path) -> None:
    """So it is with the parameters as they are committed, which make the figures of the README."""
    make_project(tmp_path / "project")
    clones = (tmp_path / name / "clone" for name in ("one", "two"))
    first, second = (run_in_clone(tmp_path / "project", "main", clone, warm_python) for clone in clones)
    assert first == second


def test_clone_runs_nothing(first_run: tuple[Path, str], tmp_path: Path) -> None:
    """A clone is known to be up to date without any data, and with `dvc pull` has the same files without a run."""
    project, _ = first_run
    dvc(project, "remote", "add", "--local", "--default", "storage", str(tmp_path / "storage"))
    dvc(project, "push", "--quiet")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", str(project), str(clone))
    assert UP_TO_DATE in dvc(clone, "repro", "--allow-missing", "--dry")

    dvc(clone, "remote", "add", "--local", "--default", "storage", str(tmp_path / "storage"))
    dvc(clone, "pull", "--quiet")
    assert UP_TO_DATE in dvc(clone, "repro")
    assert git(clone, "status", "--porcelain") == ""
    assert files(clone) == files(project)


def test_thresholds_rerun_the_sweep_only(project: Path) -> None:
    """New thresholds run the sweep and what reads it, and keep every comment; the old come out of the run-cache.

    `plan`, which checks all parameters, runs whenever one changes; the clock only if other thresholds are recommended.
    """
    before, params, recommended = files(project), project / "params.yaml", project / "data/sweep/recommended.json"
    were = recommended.read_bytes()
    comments = re.findall("#.*", params.read_text(encoding="utf-8"))
    changed = dvc(project, "exp", "run", "--set-param", "entropy_sweep.thresholds=[0.1,0.3]")
    clock = ["benchmark"] if recommended.read_bytes() != were else []
    assert stages_run(changed) == ["plan", "entropy_sweep", "plot", *clock]
    assert re.findall("#.*", params.read_text(encoding="utf-8")) == comments
    assert {row["threshold"] for row in json.loads((project / "plots/exits.json").read_bytes())} == {0.1, 0.3}

    git(project, "checkout", "params.yaml")
    back = dvc(project, "repro")
    for stage in ("plan", "entropy_sweep"):
        assert f"Stage '{stage}' is cached - skipping run" in back
    assert stages_run(back) == ["plot", *clock]
    assert untimed(files(project)) == untimed(before)


def test_samples_drawn_anew_time_nothing_again(project: Path) -> None:
    """They move intervals and cross-fitted scores, and the thresholds that are recommended stay."""
    before = (project / "data/sweep/choice.json").read_bytes()
    changed = dvc(project, "exp", "run", "--set-param", "entropy_sweep.resampling_seed=1")
    assert stages_run(changed) == ["plan", "entropy_sweep", "plot"]
    assert (project / "data/sweep/choice.json").read_bytes() != before
    git(project, "checkout", "params.yaml")
    dvc(project, "repro")


def test_settings_of_the_clock_rerun_the_benchmark_only(project: Path) -> None:
    """Nothing but the benchmark reads the section, and it changes nothing but its own files."""
    before = files(project)
    params = (project / "params.yaml").read_text(encoding="utf-8")
    for short, other in (("samples: 8", "samples: 5"), ("rounds: 1", "rounds: 2")):
        assert params.count(short) == 1
        params = params.replace(short, other)
    (project / "params.yaml").write_text(params, encoding="utf-8")
    assert stages_run(dvc(project, "repro")) == ["plan", "benchmark"]
    after = files(project)
    assert {path for path in before | after if before.get(path) != after.get(path)} == TIMED
    assert {row["n"] for row in json.loads(after["plots/benchmark.json"])} == {5}


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_what_a_result_does_not_follow_from_runs_nothing_again(project: Path) -> None:
    """A new family, objective or known model, another family's code or a word in an error train nothing again.

    Only `plan` runs, in a second, and finds that nothing has changed for the model at hand.
    """
    package = project / "src/deebert"
    append(package / "base/errors.py", "# another word\n")
    append(package / "settings/benchmark.py", "# another check\n")
    append(package / "training/checkpoints.py", "# another message\n")
    assert UP_TO_DATE in dvc(project, "repro")
    shutil.copy(package / "encoders/families/bert.py", package / "encoders/families/ernie.py")
    append(package / "encoders/families/roberta.py", "# mended\n")
    append(package / "encoders/known.py", 'KNOWN_MODELS["another"] = KNOWN_MODELS["bert-base"]\n')
    shutil.copy(package / "training/objectives/full_depth.py", package / "training/objectives/another.py")
    assert stages_run(dvc(project, "repro")) == ["plan"]
    append(package / "encoders/families/bert.py", "# mended\n")
    planned = re.findall(r"^Running stage '(\w+)'", dvc(project, "repro", "plan"), flags=re.MULTILINE)
    assert planned == ["plan"]
    status = json.loads(dvc(project, "status", "--json"))
    assert set(status) == {"train_ramps", "eval_layers", "benchmark"}


def test_experiment_on_a_folder_of_glue(project: Path, tmp_path: Path) -> None:
    """Another task and model by `-S` run all stages, are told apart by both diffs, and are undone by two commands."""
    before = files(project)
    (tmp_path / "RTE").mkdir()
    for name, size in (("train", 32), ("dev", 16), ("test", 8)):
        frame = tiny.samples(size, seed=size)
        labels = [] if name == "test" else [frame["label"].map(["entailment", "not_entailment"].__getitem__)]
        header = ["index", "sentence1", "sentence2", "label"][: 3 + len(labels)]
        rows = zip(frame["idx"].astype(str), frame["sentence"], frame["sentence"], *labels, strict=True)
        lines = ["\t".join(row) for row in (header, *rows)]
        (tmp_path / "RTE" / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = tiny.write_model(tmp_path / "model")
    settings = {
        "dataset": "RTE",
        "download_glue.source": tmp_path,
        "model": model,
        "finetune_backbone.epochs": 1,
        "finetune_backbone.max_length": 24,
    }
    overrides = [word for key, value in settings.items() for word in ("--set-param", f"{key}={value}")]
    assert stages_run(dvc(project, "exp", "run", *overrides)) == STAGES

    metrics = table(dvc(project, "metrics", "diff", "--md"))
    assert ["metrics/layers.json", "task", "toy", "RTE", "-"] in metrics
    assert ["metrics/sweep.json", "task", "toy", "RTE", "-"] in metrics
    assert ["metrics/sweep.json", "n", "400", "16", "-384"] in metrics
    for _, name, *values in metrics:
        assert re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)?", name)
        if name.endswith("_per_layers_saved"):
            continue  # there only where layers were saved, and after one epoch none may be
        assert name in ("task", "weights") or all(re.fullmatch(r"-?\d+(\.\d+)?", value) for value in values), name
    params = {name: values for _, name, *values in table(dvc(project, "params", "diff", "--md"))}
    assert params.keys() == settings.keys()
    assert params["dataset"] == ["toy", "RTE"]

    git(project, "checkout", "HEAD", ".")
    dvc(project, "checkout")
    assert UP_TO_DATE in dvc(project, "status")
    assert files(project) == before


def test_experiments_are_held_against_the_paper(first_run: tuple[Path, str], tmp_path: Path) -> None:
    """The page is made from what DVC knows, and a project that has run nothing of the paper says so in every row."""
    project, _ = first_run
    command = ["python", ROOT / "tools/compare_with_paper.py", "--table", ROOT / "paper/table1.yaml"]
    printed = call(project, *map(str, command), "--out", str(tmp_path), PYTHONPATH=str(ROOT / "src"))
    page = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert page.count("| not run |") == len(table(page.split("\n\n")[0]))
    assert re.fullmatch(r"reading \d+ commits and their experiments by DVC\n", printed.replace(page, ""))
    assert not list(tmp_path.glob("*.svg"))
    assert git(project, "status", "--porcelain") == ""


def test_wrong_parameter_is_one_line_and_undone(project: Path) -> None:
    """A value that is not allowed ends the run with one line that names it; the last good outputs can be had again."""
    before = files(project)
    printed = dvc(project, "exp", "run", "--set-param", "entropy_sweep.thresholds=[-1]", expect_failure=True)
    (line,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert line.startswith("error: params.yaml: entropy_sweep.thresholds: [-1] is not allowed; expected ")
    assert "Traceback" not in printed

    git(project, "checkout", "HEAD", ".")
    dvc(project, "checkout")
    assert git(project, "status", "--porcelain") == ""
    assert files(project) == before


def test_queued_experiments_run_their_own_code(project: Path) -> None:
    """Each run of a queued grid has the code and the parameters of the moment it was queued; the workspace stays."""
    code = project / "src/deebert/figures/drawing.py"
    marked = "\n\ndef save(figure, path):\n    path.write_text('queued')\n"
    code.write_text(code.read_text(encoding="utf-8") + marked, encoding="utf-8")
    dvc(project, "exp", "run", "--queue", "--set-param", "entropy_sweep.thresholds=[0.1],[0.2]", "plot")
    git(project, "checkout", "src")
    dvc(project, "exp", "run", "--run-all", "--jobs", "2")
    dvc(project, "queue", "stop")  # its workers, which would wait for more

    refs = git(project, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    queued = [ref for ref in refs if git(project, "show", f"{ref}:plots/exits.svg") == "queued"]
    thresholds = [
        {row["threshold"] for row in json.loads(git(project, "show", f"{ref}:plots/exits.json"))} for ref in queued
    ]
    assert sorted(thresholds, key=min) == [{0.1}, {0.2}]
    assert git(project, "status", "--porcelain") == ""
