"""What callers hand to the Python interface, checked: a mistake is a TypeError or ValueError of one line."""

import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np
import torch

from deebert.base.devices import pick_device
from deebert.base.errors import UserError, one_line
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds, is_number

MAX_SHOWN = 200  # characters of a wrong value


def criterion_of(threshold: Any, num_layers: int) -> Criterion:
    """The criterion that is meant by nats, by nats for each of the L-1 ramps, or by a criterion.

    Raises:
        TypeError, ValueError: it is none of them, or of a model of another depth.
    """
    if isinstance(threshold, np.ndarray):
        threshold = threshold.tolist()
    try:
        if isinstance(threshold, Criterion):
            criterion = threshold
            _check_lasting(criterion)
        elif is_number(threshold):
            criterion = Entropy(float(threshold))
        elif isinstance(threshold, Sequence) and all(map(is_number, threshold)):
            criterion = LayerThresholds(tuple(map(float, threshold)), drop_points=0.0)
        else:
            raise TypeError(f"threshold: {shown(threshold)}; expected nats, a sequence of nats, or a Criterion")
        criterion.check_depth(num_layers)
    except OverflowError as error:
        raise ValueError(f"threshold: {one_line(error)}") from None
    except UserError as error:
        raise ValueError(str(error)) from None
    return criterion


def _check_lasting(criterion: Criterion) -> None:
    """TypeError where it is not hashable, since what a GPU has recorded for it is kept and used again."""
    try:
        hash(criterion)
    except TypeError as error:
        told = f"threshold: {shown(criterion)} is not hashable ({one_line(error)})"
        raise TypeError(f"{told}; expected a frozen dataclass that holds tuples and not lists") from None


def parts_of(texts: Iterable[Any], expected: int | None) -> Iterator[tuple[str, ...]]:
    """Each text as a tuple of one or two strings.

    Args:
        expected: how many; None = as many as the first text has.

    Raises:
        TypeError, ValueError: a text is not as it should be; the message says which.
    """
    for i, text in enumerate(texts):
        parts = (text,) if isinstance(text, str) else text
        if not isinstance(parts, tuple | list) or not all(isinstance(part, str) for part in parts):
            raise TypeError(f"texts: number {i} is {shown(text)}; expected a string or a pair of strings")
        expected = expected or len(parts)
        if len(parts) != expected or expected not in (1, 2):
            kinds = {1: "a string", 2: "a pair of strings"}
            told = kinds.get(expected, "one or two strings")
            raise ValueError(f"texts: number {i} is {shown(text)}; expected {told}")
        try:
            "".join(parts).encode()
        except UnicodeEncodeError as error:
            lone = error.object[error.start]
            raise ValueError(f"texts: number {i} holds {lone!r}, half a character; expected whole ones") from None
        yield tuple(parts)


def usable(device: str | int | torch.device | None) -> torch.device:
    """The device that is meant, None being the best there is; ValueError where it cannot compute."""
    if device is None:
        return pick_device()
    try:
        place = torch.device(device)
        torch.ones(1, device=place).item()  # some devices have a name but cannot compute
    except (TypeError, RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device: {device!r} cannot be used: {one_line(error)}; expected such as cpu, cuda:0"
        ) from None
    return place


def check_many(texts: Any) -> None:
    """TypeError where `texts` is no iterable of texts, or one whose items are not what they seem."""
    expected = "an iterable of strings or of pairs, such as [text]"
    if isinstance(texts, str | bytes | bytearray):
        found = f"a single {'string' if isinstance(texts, str) else type(texts).__name__}"
    elif isinstance(texts, Mapping) or hasattr(texts, "columns"):  # to iterate would give the names
        found, expected = f"a {type(texts).__name__}", "one of its columns, or zip() of two for pairs"
    elif not isinstance(texts, Iterable) or getattr(texts, "ndim", 1) == 0:
        found = shown(texts)
    else:
        return
    raise TypeError(f"texts: {found}; expected {expected}")


def count(name: str, value: Any) -> int:
    """`value` as a whole number, no larger than a list can be; ValueError where it is none, or below 1."""
    try:
        found = 0 if isinstance(value, bool) else index(value)
    except TypeError:
        found = 0
    if found < 1:
        raise ValueError(f"{name}: {shown(value)} is not allowed; expected a whole number, 1 or more")
    return min(found, sys.maxsize)


def shown(value: Any) -> str:
    """`value` as code, on one line of bearable length."""
    return shortened(code_of(value))


def code_of(value: Any) -> str:
    """`value` as code, on one line."""
    return " ".join(repr(value).split())


def shortened(code: str) -> str:
    """Of bearable length."""
    return code if len(code) <= MAX_SHOWN else f"{code[:MAX_SHOWN]}..."


def batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter. What comes before an error is such a last list."""
    problem: Exception | None = None
    batch = [None]
    while batch and problem is None:
        batch = []
        try:
            for item in itertools.islice(items, size):
                batch.append(item)
        except Exception as error:
            problem = error
        if batch:
            yield batch
    if problem is not None:
        raise problem
