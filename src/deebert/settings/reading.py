"""`params.yaml` read section by section; every mistake is one line: the key, the value and what is allowed.

DVC reads and rewrites the file as YAML 1.2 (`-S x=3e-5` is written `3e-05`). PyYAML reads YAML 1.1 and takes that for a
string. `_Yaml12Loader` therefore resolves numbers and booleans as DVC does.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml

from deebert.base.errors import UserError, one_line
from deebert.settings.checks import Check

Section = TypeVar("Section")


class _Yaml12Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the YAML 1.2 core schema for booleans, integers and floats."""

    # SafeLoader's own resolvers are class state: start from none rather than change them for everyone.
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Yaml12Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    # To YAML 1.1 a leading 0 means octal, which makes 8 of 010 and an exception of 08.
    text = loader.construct_scalar(node)
    return int(text, 0 if text.startswith(("0o", "0x")) else 10)


_Yaml12Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_section(path: Path, section: type[Section]) -> Section:
    """The section of `path` (a `params.yaml`) that the dataclass `section` describes.

    The dataclass's module has the section's name, so each section has a file of its own. A stage reads its own section
    alone: a new key for another stage does not run it again.

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing or has a value that is not allowed.
    """
    key = section.__module__.rpartition(".")[2]
    return check_section(section, _value_of(path, key), str(path), f"{key}.")


def read_value(path: Path, key: str, check: Check) -> Any:
    """One key of the top of `path`, as `check` has it; errors as in `read_section`."""
    return _checked(check, _value_of(path, key), f"{path}: {key}")


def _value_of(path: Path, key: str) -> Any:
    content = read_yaml(path)
    if not isinstance(content, dict) or key not in content:
        raise UserError(f"{path}: missing key {key}")
    return content[key]


def parse_yaml(text: str) -> Any:
    """The content of a YAML file's text as DVC reads it."""
    return yaml.load(text, Loader=_Yaml12Loader)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file as DVC reads it."""
    try:
        return parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the top folder of the project") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {one_line(error)}") from None


def check_section(section: type[Section], content: Any, file: str, prefix: str) -> Section:
    """`content` as the dataclass `section`, whose fields are the keys; `prefix` names the place in `file`."""
    fields = {field.name: field for field in dataclasses.fields(section)}
    where = f"{file}: {prefix.rstrip('.')}: " if prefix else f"{file}: "
    if not isinstance(content, dict):
        raise UserError(f"{where}expected the keys {', '.join(fields)}, found {content!r}")
    if unknown := [str(key) for key in content if key not in fields]:
        raise UserError(f"{where}unknown key {unknown[0]}; allowed: {', '.join(fields)}")
    if missing := [name for name in fields if name not in content]:
        raise UserError(f"{where}missing key {missing[0]}")
    values = {}
    for name, field in fields.items():
        if dataclasses.is_dataclass(field.type):
            values[name] = check_section(field.type, content[name], file, f"{prefix}{name}.")
        else:
            values[name] = _checked(field.metadata["check"], content[name], f"{file}: {prefix}{name}")
    return section(**values)


def _checked(check: Check, value: Any, where: str) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise UserError(f"{where}: {value!r} is not allowed; expected {error}") from None
