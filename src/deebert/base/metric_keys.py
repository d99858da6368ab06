"""Names of targets in metrics files, free of dots since DVC reads those as nesting: a drop of 0.5 is `drop_0_5`."""

import numpy as np


def figure_key(kind: str, value: float) -> str:
    """The key of `value`: drop, 0.5 -> `drop_0_5`."""
    return f"{kind}_{np.format_float_positional(value, trim='0')}".replace(".", "_")


def figure_target(kind: str, key: str) -> float:
    """The value that `figure_key` made `key` of: drop, `drop_0_5` -> 0.5.

    Raises:
        ValueError: it is no key of that kind.
    """
    return float(key.removeprefix(f"{kind}_").replace("_", "."))
