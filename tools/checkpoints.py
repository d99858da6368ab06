"""Show the states that broken-off trainings go on from, with sizes and ages, or clear them.

    make checkpoints
    make checkpoints CLEAR=all
    make checkpoints CLEAR=3f9a

A training removes its own states when it ends. Those of one that was broken off stay, for the next run with the same
parameters, data and code. CLEAR takes the beginning of a key, or all. States at which a process is at work are never
removed.
"""

import argparse

from deebert.base.errors import UserError
from deebert.base.stage import told_in_one_line
from deebert.training.checkpoints import root
from deebert.training.kept import Kept, clear, kept

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def age(seconds: float) -> str:
    """In the largest unit of which it is at least one."""
    unit, size = next(((unit, size) for unit, size in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds / size:.0f} {unit}"


def line(each: Kept) -> str:
    state = f"process {each.holder} is at work on it" if each.holder else "broken off"
    size = f"{each.num_bytes / 1e6:.1f} MB"
    return f"{each.key}  {each.stage}  step {each.step}  {size}  {age(each.age_s)} old  {state}"


def main(wanted: str | None) -> None:
    place = root()
    if wanted is None:
        found = kept(place)
        for each in found:
            print(line(each))
        total = sum(each.num_bytes for each in found)
        print(f"{len(found)} in {place}, {total / 1e6:.1f} MB")
        return
    removed, spared = clear(place, "" if wanted == "all" else wanted)
    for each in removed:
        print(f"removed: {line(each)}")
    for each in spared:
        print(f"kept: {line(each)}")
    if wanted != "all" and not removed and not spared:
        raise UserError(f"CLEAR: {wanted!r} begins no key in {place}; expected all or the beginning of a key")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clear", metavar="all|KEY", help="remove all, or those whose key begins so")
    arguments = parser.parse_args()
    with told_in_one_line():
        main(arguments.clear)
