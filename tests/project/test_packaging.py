"""The package asks for what it imports, no less and no more, and a wheel of it has every room and works elsewhere."""

import ast
import configparser
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deebert.cli.main import main

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REQUIRED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [Requirement(text) for texts in PROJECT["optional-dependencies"].values() for text in texts]
# A name that several share, as `ruamel` is, belongs to the one that the others are called after.
OWNERS = {name: canonicalize_name(min(owners, key=len)) for name, owners in packages_distributions().items()}
MODULES = sorted((ROOT / "src").rglob("*.py"))


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(each.name) for each in requirements}


def imported(file: Path) -> Iterator[str]:
    """Top names of what `file` imports, wherever it does, or runs by `python -m`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Tuple | ast.List):
            words = [each.value if isinstance(each, ast.Constant) else None for each in node.elts]
            yield from (module.split(".")[0] for flag, module in pairwise(words) if flag == "-m" and module)


def distributions(file: Path) -> set[str]:
    """What has to be installed for `file` to run; the standard library and the package itself do not count."""
    found = {name for name in imported(file) if name not in sys.stdlib_module_names and name != "deebert"}
    return {OWNERS[name] for name in found}


def test_dependencies_are_exactly_what_is_imported() -> None:
    """Every package that src/ imports or runs is asked for, and every one that is asked for is imported or run."""
    assert set().union(*map(distributions, MODULES)) == names(REQUIRED) | names(EXTRAS)


def test_only_reports_export_and_a_cluster_need_an_extra() -> None:
    """What a user of the classifier imports is there without extras; one module knows Ray."""
    needing = {file for file in MODULES if distributions(file) & names(EXTRAS)}
    (others,) = [file for file in needing if file.parent.name not in ("reports", "export")]
    assert others.relative_to(ROOT).as_posix() == "src/deebert/inference/cluster.py"
    assert not names(REQUIRED) & names(EXTRAS)


def test_pins_are_of_versions_that_are_allowed() -> None:
    """Whatever pyproject.toml asks for is pinned, once, in a version that it admits; so is what builds the wheel."""
    lines = [line for file in ("requirements.txt", "requirements-report.txt") for line in pinned(ROOT / file)]
    pins = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    assert len(pins) == len(lines)
    for line in pinned(ROOT / "requirements-dev.txt"):
        name, _, version = line.partition("==")
        assert pins.setdefault(canonicalize_name(name), version) == version, line
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    for requirement in [*REQUIRED, *EXTRAS, *map(Requirement, build)]:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_all_files_pin_a_package_alike() -> None:
    """All are installed into one environment, so each would undo what another has installed."""
    lines = {line for file in ROOT.glob("requirements*.txt") for line in pinned(file)}
    pins = [canonicalize_name(line.partition("==")[0]) for line in lines]
    assert len(pins) == len(set(pins)) > 100


def pinned(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith(("#", "-r "))]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, built without a network from a copy, so that nothing is left in the project."""
    home = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "src", home / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = ("pip", "wheel", "-q", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation")
    done = subprocess.run([sys.executable, "-m", *command, "-w", "out", "."], cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (home / "out").iterdir()
    with zipfile.ZipFile(file) as archive:
        archive.extractall(home / "site")
    return home / "site"


@pytest.mark.slow
def test_a_wheel_has_every_room(wheel: Path) -> None:
    """Each module of the project is in it, and nothing else but what describes it."""
    found = {file.relative_to(wheel) for file in wheel.rglob("*.py")}
    assert found == {file.relative_to(ROOT / "src") for file in MODULES}
    assert {path.name.split("-")[0] for path in wheel.iterdir()} == {"deebert"}


@pytest.mark.slow
def test_a_wheel_brings_the_command(wheel: Path) -> None:
    """`deebert` is an entry point, and what it names is there."""
    (file,) = wheel.glob("*.dist-info/entry_points.txt")
    scripts = configparser.ConfigParser()
    scripts.read_string(file.read_text())
    assert dict(scripts["console_scripts"]) == PROJECT["scripts"] == {"deebert": "deebert.cli.main:main"}
    assert callable(main)


@pytest.mark.slow
def test_a_wheel_works_where_the_project_is_not(wheel: Path, tmp_path: Path, warm_python: Path) -> None:
    """All modules import from it; the classifier does so where nothing of the extras is installed.

    A warm Python has imported libraries, some extras among them, which are hidden; of the project it has nothing.
    """
    extras = sorted(name for name, owner in OWNERS.items() if owner in names(EXTRAS))
    code = f"""
import importlib, pkgutil, sys
sys.path.insert(0, {str(wheel)!r})
extras = {extras!r}
imported = {{name: module for name, module in sys.modules.items() if name.split(".")[0] in extras}}
for name in imported:
    del sys.modules[name]
sys.modules.update(dict.fromkeys(extras))  # None: whoever imports them gets an ImportError
from deebert.classifier import EarlyExitClassifier
import deebert
assert deebert.__path__ == [{str(wheel / "deebert")!r}], deebert.__path__
for name in extras:
    del sys.modules[name]
sys.modules.update(imported)
for module in pkgutil.walk_packages(deebert.__path__, "deebert."):
    importlib.import_module(module.name)
    print(module.name)
"""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [warm_python, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    relative = [file.relative_to(ROOT / "src").with_suffix("") for file in MODULES]
    every = {".".join(path.parts).removesuffix(".__init__") for path in relative} - {"deebert"}
    assert set(done.stdout.split()) == every
