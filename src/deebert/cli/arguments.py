"""What subcommands have in common: kinds of values, of which argparse tells a ValueError by name, and columns."""

import argparse
import math
from collections.abc import Callable, Sequence


def number(text: str) -> float:
    """0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def numbers(text: str) -> float | list[float]:
    """One of 0 or more, or several, comma-separated."""
    found = [number(each) for each in text.split(",")]
    return found[0] if len(found) == 1 else found


def count(text: str) -> int:
    """A whole number, 1 or more, and no more than libraries in C take."""
    value = int(text)
    if not 1 <= value < 2**31:
        raise ValueError
    return value


def part(text: str) -> float:
    """Above 0 and below 1."""
    value = float(text)
    if not 0 < value < 1:
        raise ValueError
    return value


def share(text: str) -> float:
    """Above 0 and at most 1."""
    return 1.0 if float(text) == 1 else part(text)


def counts(text: str) -> list[int]:
    """Of some, comma-separated."""
    return [count(each) for each in text.split(",")]


def some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    """A kind: some of the names, comma-separated."""

    def chosen(text: str) -> list[str]:
        found = text.split(",")
        if not set(found) <= set(names):
            raise ValueError
        return found

    chosen.__name__ = f"some of {','.join(names)}"
    return chosen


def add_text_columns(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--text", metavar="COLUMN", help="with the text; by default as the model was trained")
    group.add_argument("--pair", metavar="COLUMN", help="with the second text, for tasks on pairs")


def add_label_column(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--label", metavar="COLUMN", help="with the label; by default a usual name, such as label")


def text_columns(parsed: argparse.Namespace) -> tuple[str, ...] | None:
    """Those that are named; None = to be found by their names."""
    if parsed.pair is not None and parsed.text is None:
        parsed.usage_error("argument --pair: needs --text, for the first text")
    return tuple(name for name in (parsed.text, parsed.pair) if name is not None) or None


# argparse tells them
counts.__name__ = "whole numbers of 1 or more, comma-separated"
numbers.__name__ = "number of 0 or more, or some, comma-separated"
number.__name__, count.__name__ = "number of 0 or more", "whole number of 1 or more"
part.__name__, share.__name__ = "number above 0 and below 1", "number above 0 and at most 1"
