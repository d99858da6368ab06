"""The house has rooms, and imports run one way: each room knows those that it stands on, and no other."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "deebert"
SHARED = {"base", "settings", "data"}
MODEL = {*SHARED, "encoders", "ramps", "model"}
MAY_IMPORT: dict[str, set[str]] = {  # room, or module beside the rooms -> what it may import beside itself
    "base": set(),
    "settings": {"base"},
    "data": {"base", "settings"},
    "encoders": SHARED,
    "ramps": {"base"},
    "model": {*SHARED, "encoders", "ramps"},
    "exits": {"base"},
    "analysis": {*SHARED, "exits"},
    "inference": {*MODEL, "exits"},
    "training": {*MODEL, "inference"},
    "figures": {*SHARED, "exits", "analysis"},
    "reports": {*SHARED, "exits", "analysis", "figures"},
    "measure": {*SHARED, "exits", "analysis", "inference"},
    "export": {*MODEL, "inference", "measure"},
    "cli": {*SHARED, "inference", "measure", "export"},
    "__main__": {"cli"},
    "classifier": {"inference"},
    "criteria": {"exits"},
    "monitor": {"inference"},
}


def modules() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file.name != "__init__.py")


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> Iterator[str]:
    """Rooms that `file` imports from, be it for type checkers only."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "deebert":
            names = node.module.split(".")[1:] or [alias.name for alias in node.names]
            yield names[0]
        elif isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == "deebert" for alias in node.names), file


@pytest.mark.parametrize("file", modules(), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_imports_run_one_way(file: Path) -> None:
    """A module imports from its own room and from those that its room stands on."""
    room = room_of(file)
    assert set(imported_rooms(file)) <= MAY_IMPORT[room] | {room}


def test_no_room_stands_on_itself() -> None:
    """The table above allows no circle: whatever a room may import may not import it."""

    def below(room: str) -> set[str]:
        return MAY_IMPORT[room].union(*map(below, MAY_IMPORT[room]))

    assert not any(room in below(room) for room in MAY_IMPORT)


@pytest.mark.slow
def test_arithmetic_needs_no_transformers() -> None:
    """In a fresh interpreter all modules of two rooms, and all that they import, come without `transformers`.

    Whoever studies saved logits never waits for it to load.
    """
    files = [file for room in ("exits", "analysis") for file in sorted((PACKAGE / room).glob("*.py"))]
    names = [f"deebert.{file.parent.name}.{file.stem}" for file in files if file.name != "__init__.py"]
    assert {name.split(".")[1] for name in names} == {"exits", "analysis"}
    import_without("transformers", *names)


@pytest.mark.slow
def test_who_answers_waits_for_no_pandas() -> None:
    """Neither in a program nor for a file."""
    import_without("pandas", "deebert.classifier", "deebert.criteria", "deebert.monitor", "deebert.inference.bulk")


def import_without(package: str, *names: str) -> None:
    """Import the modules `names` in a fresh interpreter; none may bring `package`."""
    code = f"import sys, importlib\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    code += f"    if {package!r} in sys.modules: sys.exit(name)"
    environment = {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=120, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tests_mirror_the_rooms() -> None:
    """The tests of a room stand in a folder of its name."""
    rooms = {file.parent.name for file in PACKAGE.rglob("*.py") if file.parent.parent == PACKAGE}
    assert rooms <= {folder.name for folder in (ROOT / "tests").iterdir() if folder.is_dir()}
