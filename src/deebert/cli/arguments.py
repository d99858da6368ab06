"""Kinds of values on the command line. A ValueError is told by argparse, with the name of the kind."""

import math


def number(text: str) -> float:
    """0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def count(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
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


# argparse tells them
number.__name__, count.__name__ = "number of 0 or more", "whole number of 1 or more"
part.__name__, share.__name__ = "number above 0 and below 1", "number above 0 and at most 1"
