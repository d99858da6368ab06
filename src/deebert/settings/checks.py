"""What a value of `params.yaml` may be: checks that several sections share.

A check that one section alone needs stands in that section's file.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any

# Far beyond any use, but not beyond what libraries can count, allocate or start: a key pressed too long is told here.
MAX_EPOCHS, MAX_BATCH = 10_000, 1_000_000

Check = Callable[[Any], Any]  # returns the value to keep, or raises ValueError saying what is allowed


def checked(check: Check) -> Any:
    """A field of a section with its check."""
    return field(metadata={"check": check})


def whole(low: int, high: int | None = None) -> Check:
    """A whole number from `low` to `high`, both allowed."""

    def check(value: Any) -> int:
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= low
        if not ok or (high is not None and value > high):
            raise ValueError(f"a whole number, {low} or more" if high is None else f"a whole number, {low} to {high}")
        return value

    return check


def _range(low: float, high: float, above: bool) -> str:
    return (f"above {low:g}" if above else f"{low:g} or more") + (f", {high:g} at most" if high < math.inf else "")


def number(low: float, high: float = math.inf, *, above: bool = False) -> Check:
    """A finite number from `low` to `high`, both allowed; with `above` it must be more than `low`."""

    def check(value: Any) -> float:
        ok = isinstance(value, int | float) and not isinstance(value, bool)
        # An int may be too large for a float, and compares all the same; NaN compares with nothing.
        if not ok or not low <= value <= min(high, sys.float_info.max) or (above and value == low):
            raise ValueError(f"a number{'' if above else ','} {_range(low, high, above)}")
        return float(value) + 0.0  # -0.0 is 0

    return check


def numbers(low: float, high: float = math.inf, *, above: bool = False) -> Check:
    """A list of different numbers as in `number`; it is kept as a rising tuple."""

    each = number(low, high, above=above)

    def check(value: Any) -> tuple[float, ...]:
        try:
            numbers = tuple(each(item) for item in value) if isinstance(value, list) else ()
        except ValueError:
            numbers = ()
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"a list of different numbers, each {_range(low, high, above)}")
        return tuple(sorted(numbers))

    return check


def or_default(check: Check, meaning: str = "the model's own") -> Check:
    """`default` reads as None; what that means is told with a mistake."""

    def check_or_default(value: Any) -> Any:
        try:
            return None if value == "default" else check(value)
        except ValueError as error:
            raise ValueError(f"{error}; or default, {meaning}") from None

    return check_or_default


def one_of(allowed: tuple[str, ...]) -> Check:
    """One of the words `allowed`."""

    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return check


def text(value: Any) -> str:
    """A word or a path. `~` must stand for a home folder that exists."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a word or a path")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("a word or a path; ~ is followed by / or the name of a user of this machine") from None
    return value


SEED = whole(0, 2**32 - 1)  # as far as NumPy's go
