"""What the stage `eval_layers` is told."""

from dataclasses import dataclass
from typing import Any

from deebert.settings.checks import checked


def _yes_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


@dataclass(frozen=True)
class EvalLayers:
    hidden_test: bool = checked(_yes_no)
