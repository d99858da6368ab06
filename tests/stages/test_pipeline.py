"""`dvc.yaml` tells the truth: what it says of a stage is what the stage's code reads, imports and writes."""

import ast
import dataclasses
import importlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from deebert.encoders import resolve
from deebert.settings.params import Params, read_params

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES: dict[str, dict[str, Any]] = PIPELINE["stages"]
CODE_FOLDERS = ("src/", "stages/")
GIVEN = {"baselines/smaller_models.json", "data/own"}  # data that no stage makes: kept in git, or a person's own
# Deps that are no argument: one tells of code, and in the other lies what the parameter `dataset` may name.
NO_ARGUMENT = {"data/family.json", "data/own"}
BY_NAME = ("src/deebert/encoders/families", "src/deebert/encoders/starts")  # imported by name, one of them at a time
# What checks, tells, keeps and writes, whatever is computed. It runs in every stage and is no dep: no result depends on
# it, and a word in an error would train every model again.
FRAME = {
    "base/errors.py",
    "base/files.py",
    "base/locks.py",
    "base/rows.py",
    "base/stage.py",
    "settings/*.py",
    "training/checkpoints.py",
    "training/launch.py",
    "training/stops.py",
}
MEANING = ROOT / "src/deebert/settings/run.py"  # says what the names of data sets and models mean: results follow
MAX_SCRIPT_LINES = 60

each_stage = pytest.mark.parametrize("stage", STAGES)


def script(stage: str) -> Path:
    return ROOT / "stages" / f"{stage}.py"


def parse(source: Path) -> ast.Module:
    return ast.parse(source.read_text(encoding="utf-8"))


def outputs(stage: str, *kinds: str) -> dict[str, dict[str, Any]]:
    """Path -> options of what `stage` writes; `kinds` are the headings `outs` and `metrics`."""
    entries = [entry for kind in kinds for entry in STAGES[stage].get(kind, [])]
    return {
        path: options
        for entry in entries
        for path, options in (entry if isinstance(entry, dict) else {entry: {}}).items()
    }


def split_deps(stage: str) -> tuple[list[str], list[str]]:
    """The stage's deps in two lists, in order: source files, and data that another stage makes."""
    code = [dep for dep in STAGES[stage]["deps"] if dep.startswith(CODE_FOLDERS)]
    return code, [dep for dep in STAGES[stage]["deps"] if dep not in code]


def filled_in(dep: str) -> str:
    """A dep with the committed parameters in place of `${section.key}`."""
    content = dataclasses.asdict(read_params(ROOT / "params.yaml"))
    return re.sub(r"\$\{(\w+)\.(\w+)\}", lambda found: content[found[1]][found[2]], dep)


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, functions' bodies included, but nothing that is there for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from executed(child)


def imported_files(source: Path) -> set[Path]:
    """The files of this project that `source` itself imports; of a package only its modules, see `__init__`'s test."""
    names = []
    for node in executed(parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: line {node.lineno}: a relative import, which this test cannot follow"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    files = {ROOT / "src" / f"{name.replace('.', '/')}.py" for name in names}
    return {file for file in files if file.is_file()}


def closure(source: Path) -> set[Path]:
    """`source` and every file of this project that runs with it."""
    found, waiting = set(), {source}
    while waiting:
        file = waiting.pop()
        found.add(file)
        waiting |= imported_files(file) - found
    return found


def is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def frame() -> set[Path]:
    found = {file for pattern in FRAME for file in (ROOT / "src/deebert").glob(pattern) if file.name != "__init__.py"}
    return found - {MEANING}


def plain(value: Any) -> Any:
    """A value of params.yaml as a section holds it: `default` is None."""
    if isinstance(value, dict):
        return {key: plain(below) for key, below in value.items()}
    return None if value == "default" else value


def params_read(stage: str) -> set[str]:
    """Top-level keys of params.yaml that the stage's script reads."""
    modules = {
        alias.name: node.module
        for node in ast.walk(parse(script(stage)))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    read = set()
    for node in ast.walk(parse(script(stage))):
        if isinstance(node, ast.Call) and is_name(node.func, "read_section"):
            read.add(modules[node.args[1].id].rpartition(".")[2])
        elif isinstance(node, ast.Call) and is_name(node.func, "read_value"):
            read.add(ast.literal_eval(node.args[1]))
    return read


@each_stage
def test_code_deps_are_exactly_what_the_script_imports(stage: str) -> None:
    """A change of any line that a stage runs runs the stage again, and a change of any other line does not."""
    code = [filled_in(dep) for dep in split_deps(stage)[0]]
    by_name = {ROOT / filled_in(dep) for dep in split_deps(stage)[0] if "$" in dep}
    if stage == "plan":  # it takes the fingerprints of what others import by name
        by_name = {file for package in BY_NAME for file in (ROOT / package).glob("*.py") if file.name != "__init__.py"}
    expected = closure(script(stage)).union(*map(closure, by_name)) - frame()
    folders = [folder for folder in code if (ROOT / folder).is_dir()]
    files = {file.relative_to(ROOT).as_posix() for file in expected}
    assert sorted(code) == sorted({*folders, *(file for file in files if not file.startswith(tuple(folders)))})
    assert all(any(file.startswith(folder) for file in files) for folder in folders)


def test_the_frame_stands_on_itself() -> None:
    """What is no dep uses nothing that is one, but to know the process that it is in."""
    allowed = frame() | {ROOT / "src/deebert/training/processes.py", MEANING}
    assert all(imported_files(file) <= allowed for file in frame())


def test_no_setting_is_hidden_in_the_frame() -> None:
    """What the settings' files let through is what `params.yaml` says: there DVC sees a change of a value."""
    read, written = read_params(ROOT / "params.yaml"), yaml.safe_load((ROOT / "params.yaml").read_text())
    for section in (field.name for field in dataclasses.fields(Params)):
        value = getattr(read, section)
        if dataclasses.is_dataclass(value):
            assert json.loads(json.dumps(dataclasses.asdict(value))) == plain(written[section]), section
        else:
            assert value == written[section], section


@pytest.mark.parametrize("init", sorted((ROOT / "src").rglob("__init__.py")), ids=lambda init: init.parent.name)
def test_package_init_runs_nothing(init: Path) -> None:
    """The `__init__` of the package or of a room runs with whatever is in there and is no dep: a docstring only."""
    (statement,) = parse(init).body
    assert isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


@each_stage
def test_params_are_exactly_what_the_script_reads(stage: str) -> None:
    """A change of a parameter runs again those stages that read it, and no other."""
    if stage == "plan":  # it reads everything
        assert STAGES[stage]["params"] == [{"params.yaml": None}]
        assert any(is_name(node, "read_params") for node in ast.walk(parse(script(stage))))
    else:
        assert sorted(STAGES[stage].get("params", [])) == sorted(params_read(stage))


def test_only_scripts_read_params() -> None:
    """No module below reads params.yaml behind its caller's back, and no stage but `plan` reads all of it."""
    for module in [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        if module.parent.name != "settings" and module.name != "plan.py":
            assert not any(is_name(node, "read_params") for node in ast.walk(parse(module))), module
        if module.parent.name not in ("settings", "stages"):
            readers = ("read_section", "read_value", "read_yaml")
            assert not any(is_name(node, name) for node in ast.walk(parse(module)) for name in readers), module


def test_each_section_belongs_to_the_stage_of_its_name() -> None:
    """A section of params.yaml has a stage's name, and only that stage reads it, and `plot`, to tell what it draws."""
    sections = {field.name for field in dataclasses.fields(Params) if dataclasses.is_dataclass(field.type)}
    readers = {
        section: [stage for stage in STAGES if section in STAGES[stage].get("params", []) and stage != "plot"]
        for section in sections
    }
    assert readers == {section: [section] for section in sections}


@each_stage
def test_each_key_of_a_section_is_used(stage: str) -> None:
    """No parameter is without effect: some module of its stage names each key of the section."""
    section = getattr(read_params(ROOT / "params.yaml"), stage, None)
    files = [file for file in closure(script(stage)) if file.parent.name != "settings"]
    nodes = [node for file in files for node in ast.walk(parse(file))]
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    named |= {node.value for node in nodes if isinstance(node, ast.Constant)}
    keys = {field.name for field in dataclasses.fields(section)} if section else set()
    assert keys <= named


def test_every_parameter_has_a_comment() -> None:
    """Whoever opens params.yaml reads above or beside each key what it means; a section is told by its stage."""
    above = ""
    for line in (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines():
        is_key = line.strip() and not line.strip().startswith(("#", "-"))
        is_section = line.rstrip(":") in STAGES
        assert not is_key or is_section or above.startswith("#") or " # " in line, line
        above = line.strip()


def test_every_out_has_one_writer_and_every_data_dep_is_an_out() -> None:
    """Data flows from stage to stage: nothing is read that no stage makes or git has, and nothing is made twice."""
    writers = Counter(path for stage in STAGES for path in outputs(stage, "outs", "metrics"))
    assert set(writers.values()) == {1}
    for stage in STAGES:
        made = [dep for dep in split_deps(stage)[1] if any(PurePosixPath(dep).is_relative_to(out) for out in writers)]
        assert set(split_deps(stage)[1]) <= {*made, *GIVEN}, stage
    assert not GIVEN & set(writers)
    assert all((ROOT / path).exists() for path in GIVEN)


@each_stage
def test_command_line_is_deps_then_outs(stage: str) -> None:
    """A script gets its data deps and then its outs, in dvc.yaml's order; files kept in git by their folder."""
    outs = outputs(stage, "outs")
    cached = [path for path, options in outs.items() if options.get("cache", True)]
    folders = dict.fromkeys(str(PurePosixPath(path).parent) for path in outs if path not in cached)
    data = [dep for dep in split_deps(stage)[1] if dep not in NO_ARGUMENT]
    paths = [*data, *cached, *folders, *outputs(stage, "metrics")]
    assert STAGES[stage]["cmd"].split() == ["PYTHONPATH=src", "python", f"stages/{stage}.py", *paths]


@pytest.mark.parametrize("package", [path.removeprefix("src/").replace("/", ".") for path in BY_NAME])
def test_a_fingerprint_changes_with_what_a_module_runs_and_with_nothing_else(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of what is imported by name the fingerprint is a dep: each line that runs changes it, and no other line."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(resolve, "PACKAGE", tmp_path / "src" / "deebert")
    folder = Path(importlib.import_module(package).__path__[0])
    modules = [file.stem for file in folder.glob("*.py") if file.stem != "__init__"]
    run = {name: closure(folder / f"{name}.py") - frame() for name in modules}
    every = sorted((ROOT / "src" / "deebert").rglob("*.py"))
    idle = [path for path in every if not any(path in files for files in run.values())]
    before = {name: resolve.fingerprint(f"{package}.{name}") for name in modules}
    assert len(set(before.values())) == len(modules) > 1 and idle
    # What no module runs may change all at once: a fingerprint that heeded one of these files would be another.
    for changed in (*([path] for path in every if path not in idle), idle):
        copies = {tmp_path / path.relative_to(ROOT): path.read_bytes() for path in changed}
        for copy, content in copies.items():
            copy.write_bytes(content + b"\n")
        after = {name: resolve.fingerprint(f"{package}.{name}") for name in modules}
        for copy, content in copies.items():
            copy.write_bytes(content)
        assert {name for name in modules if before[name] != after[name]} == {
            name for name in modules if not run[name].isdisjoint(changed)
        }, changed


@each_stage
def test_run_cache_is_kept(stage: str) -> None:
    """DVC restores an earlier run only if all outs but metrics are cached and none is persistent; a leaf is cheap."""
    outs = outputs(stage, "outs")
    is_leaf = not any(set(outs) & set(split_deps(other)[1]) for other in STAGES)
    assert is_leaf or all(options.get("cache", True) for options in outs.values())
    assert not any("persist" in options for options in outs.values())
    assert not {"always_changed", "frozen"} & set(STAGES[stage])


def test_metrics_and_plots_are_kept_in_git_under_their_names() -> None:
    """What people and tools look for is there, and a clone has it without `dvc pull`."""
    kept = {
        path
        for stage in STAGES
        for path, options in outputs(stage, "outs", "metrics").items()
        if options.get("cache") is False
    }
    promised = {
        "metrics/layers.json",
        "metrics/sweep.json",
        "metrics/choice.json",
        "metrics/compute.json",
        "metrics/benchmark.json",
        "plots/layers.json",
        "plots/sweep.json",
        "plots/exits.json",
        "plots/choice.json",
        "plots/certificates.json",
        "plots/calibration.json",
        "plots/finetune.json",
        "plots/ramps.json",
        "plots/benchmark.json",
    }
    assert promised <= kept
    assert {path for stage in STAGES for path in outputs(stage, "metrics")} <= kept


def test_plots_draw_what_the_pipeline_writes() -> None:
    """Each entry under `plots` names a file in git that a stage writes, and a template that is there."""
    written = {path for stage in STAGES for path in outputs(stage, "outs")}
    for entry in PIPELINE["plots"]:
        name, options = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {"y": {entry: None}})
        assert set(options["y"]) <= written, name
        assert "template" not in options or (ROOT / f".dvc/plots/{options['template']}.json").is_file(), name


@each_stage
def test_stage_is_described_and_its_script_thin(stage: str) -> None:
    """`dvc stage list` says what each stage does; its script only reads, calls the package and writes."""
    assert STAGES[stage]["desc"].strip()
    assert len(script(stage).read_text(encoding="utf-8").splitlines()) <= MAX_SCRIPT_LINES
