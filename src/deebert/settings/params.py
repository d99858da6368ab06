"""`params.yaml` read into frozen dataclasses; every mistake is one line naming the key, the value and what is allowed.

DVC reads and rewrites the file as YAML 1.2 (`-S x=3e-5` is written `3e-05`), which PyYAML, a YAML 1.1 reader, takes
for a string. `_Yaml12Loader` therefore resolves numbers and booleans the way DVC does.
"""

import dataclasses
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from deebert.base.errors import UserError, one_line
from deebert.settings.model_names import HUB_ID, is_folder
from deebert.settings.run import resolve_model

DATASETS = ("toy", "SST-2", "MRPC", "RTE", "QNLI", "QQP", "MNLI")
MODELS = ("toy-bert", "bert-base", "bert-large", "roberta-base", "roberta-large", "distilbert-base")
MAX_SEED = 2**32 - 1  # NumPy's
PRECISIONS = ("auto", "fp32", "bf16")
# Far beyond any use, but not beyond what libraries can count, allocate or start: a key pressed too long is told here.
MAX_EPOCHS, MAX_BATCH, MAX_GRID, MAX_ROUNDS, MAX_THREADS = 10_000, 1_000_000, 10_000, 1_000, 1_024


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


Check = Callable[[Any], Any]  # returns the value to keep, or raises ValueError saying what is allowed


def _whole(low: int, high: int | None = None) -> Check:
    def check(value: Any) -> int:
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
        if not ok or (high is not None and value > high):
            raise ValueError(f"a whole number, {low} or more" if high is None else f"a whole number, {low} to {high}")
        return value

    return check


def _range(low: float, high: float, above: bool) -> str:
    return (f"above {low:g}" if above else f"{low:g} or more") + (f", {high:g} at most" if high < math.inf else "")


def _number(low: float, high: float = math.inf, *, above: bool = False) -> Check:
    def check(value: Any) -> float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        # An int may be too large for a float, and compares all the same; NaN compares with nothing.
        if not ok or not low <= value <= min(high, sys.float_info.max) or (above and value == low):
            raise ValueError(f"a number{'' if above else ','} {_range(low, high, above)}")
        return float(value)

    return check


def _numbers(low: float, high: float = math.inf, *, above: bool = False) -> Check:
    each = _number(low, high, above=above)

    def check(value: Any) -> tuple[float, ...]:
        try:
            numbers = tuple(each(item) for item in value) if isinstance(value, list) else ()
        except ValueError:
            numbers = ()
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"a list of different numbers, each {_range(low, high, above)}")
        return tuple(sorted(numbers))

    return check


def _or_default(check: Check) -> Check:
    """`default` reads as None: the value then comes with the model (see `backbones.py`)."""

    def check_or_default(value: Any) -> Any:
        try:
            return None if value == "default" else check(value)
        except ValueError as error:
            raise ValueError(f"{error}; or default, the model's own") from None

    return check_or_default


def _one_of(allowed: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return check


def _yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a word or a path")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a word or a path; ~ is followed by / or the name of a user of this machine") from None
    return value


def _model(value: Any) -> str:
    text = _text(value)
    if text not in ("default", *MODELS) and not is_folder(text) and not HUB_ID.fullmatch(text):
        raise ValueError(f"default, {', '.join(MODELS)}, a folder, or a Hub repository as owner/name@commit")
    return text


def _checked(check: Check) -> Any:
    return field(metadata={"check": check})


@dataclass(frozen=True)
class DownloadGlue:
    source: str = _checked(_text)
    toy_seed: int = _checked(_whole(0))


@dataclass(frozen=True)
class FinetuneBackbone:
    layers: int | None = _checked(_or_default(_whole(2)))
    epochs: float | None = _checked(_or_default(_number(0, MAX_EPOCHS, above=True)))
    learning_rate: float | None = _checked(_or_default(_number(0, above=True)))
    batch_size: int | None = _checked(_or_default(_whole(1, MAX_BATCH)))
    max_length: int = _checked(_whole(8))
    precision: str = _checked(_one_of(PRECISIONS))


@dataclass(frozen=True)
class TrainRamps:
    epochs: int = _checked(_whole(1, MAX_EPOCHS))
    learning_rate: float = _checked(_number(0, above=True))
    batch_size: int = _checked(_whole(1, MAX_BATCH))
    weight_decay: float = _checked(_number(0))
    precision: str = _checked(_one_of(PRECISIONS))


@dataclass(frozen=True)
class EvalLayers:
    hidden_test: bool = _checked(_yes_no)
    batch_tokens: int = _checked(_whole(512))


@dataclass(frozen=True)
class Risk:
    epsilons: tuple[float, ...] = _checked(_numbers(0, 1, above=True))
    delta: float = _checked(_number(0, 0.5, above=True))


@dataclass(frozen=True)
class EntropySweep:
    thresholds: tuple[float, ...] = _checked(_numbers(0))
    grid_points: int = _checked(_whole(0, MAX_GRID))
    targets: tuple[float, ...] = _checked(_numbers(0))
    risk: Risk


@dataclass(frozen=True)
class Benchmark:
    thresholds: tuple[float, ...] = _checked(_numbers(0))
    drop_points: float = _checked(_number(0))
    samples: int = _checked(_whole(1))
    rounds: int = _checked(_whole(1, MAX_ROUNDS))
    seconds: float = _checked(_number(0, above=True))
    threads: int | None = _checked(_or_default(_whole(1, MAX_THREADS)))
    precision: str = _checked(_one_of(PRECISIONS))


@dataclass(frozen=True)
class Params:
    """All of `params.yaml`; field by field the file's keys, section by section the stages' names."""

    dataset: str = _checked(_one_of(DATASETS))
    model: str = _checked(_model)
    seed: int = _checked(_whole(0, MAX_SEED))
    download_glue: DownloadGlue
    finetune_backbone: FinetuneBackbone
    train_ramps: TrainRamps
    eval_layers: EvalLayers
    entropy_sweep: EntropySweep
    benchmark: Benchmark

    @property
    def backbone(self) -> str:
        """The model with `default` resolved."""
        return resolve_model(self.model, self.dataset)


def read_params(path: Path) -> Params:
    """Read and check the whole of `path` (a `params.yaml`).

    Raises:
        UserError: the file is missing or not YAML, or a key is unknown, missing or has a value that is not allowed.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml12Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run from the top folder of the project") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not readable as YAML: {one_line(error)}") from None
    params = _read_section(Params, content, str(path), "")
    if params.backbone == "toy-bert" and params.dataset != "toy":
        raise UserError(f"{path}: model: toy-bert knows only the words of dataset toy, not {params.dataset}")
    targets, timed = params.entropy_sweep.targets, params.benchmark.drop_points
    if timed not in targets:
        allowed = ", ".join(f"{target:g}" for target in sorted(targets))
        raise UserError(
            f"{path}: benchmark.drop_points: {timed:g} is not allowed;"
            f" expected one of entropy_sweep.targets ({allowed})"
        )
    return params


def _read_section(section: type, content: Any, file: str, prefix: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(section)}
    where = f"{file}: {prefix.rstrip('.')}: " if prefix else f"{file}: "
    if not isinstance(content, dict):
        raise UserError(f"{where}expected the keys {', '.join(fields)}, found {content!r}")
    if unknown := [str(key) for key in content if key not in fields]:
        raise UserError(f"{where}unknown key {unknown[0]}; allowed: {', '.join(fields)}")
    if missing := [name for name in fields if name not in content]:
        raise UserError(f"{where}missing key {missing[0]}")
    values = {}
    for name, spec in fields.items():
        if dataclasses.is_dataclass(spec.type):
            values[name] = _read_section(spec.type, content[name], file, f"{prefix}{name}.")
            continue
        try:
            values[name] = spec.metadata["check"](content[name])
        except ValueError as error:
            raise UserError(f"{file}: {prefix}{name}: {content[name]!r} is not allowed; expected {error}") from None
    return section(**values)
