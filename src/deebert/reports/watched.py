"""What a monitor has counted between the moments at which its state was saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deebert.base.errors import UserError
from deebert.base.files import read_json

KEYS = ("fingerprint", "samples", "exits", "rule")


def spans(paths: Sequence[Path]) -> dict[str, list[int]]:
    """How many samples left after each layer in each span, by the name of the file that ends it.

    A state counts since the monitor's start. So of each file the counts of the one before it are taken off.

    Args:
        paths: states of `Monitor.save`, of one monitor, the oldest first.

    Raises:
        UserError: a file is missing or no such state, is of another model or threshold, or is no later than the one
            before it.
    """
    found: dict[str, list[int]] = {}
    before: dict[str, Any] | None = None
    for path in paths:
        state = _read(path)
        if path.stem in found:
            raise UserError(f"{path}: a second file of that name; expected another name for each")
        if before is None:
            found[path.stem] = state["exits"]
        elif (state["fingerprint"], len(state["exits"])) != (before["fingerprint"], len(before["exits"])):
            raise UserError(f"{path}: of another model than the state before it")
        elif (rules := {state["rule"], before["rule"]} - {None}) and len(rules) > 1:
            raise UserError(f"{path}: at {state['rule']}, and the state before it at {before['rule']}")
        else:
            found[path.stem] = [now - then for now, then in zip(state["exits"], before["exits"], strict=True)]
        if min(found[path.stem]) < 0 or not sum(found[path.stem]):
            raise UserError(f"{path}: counts no sample beyond the state before it; expected the oldest first")
        before = state
    return found


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; Monitor.save and `deebert predict --watch` write it")
    state = read_json(path)
    exits = state.get("exits") if isinstance(state, dict) and all(key in state for key in KEYS) else None
    if not isinstance(exits, list) or not exits or not all(type(count) is int and count >= 0 for count in exits):
        raise UserError(f"{path}: no state of a monitor; Monitor.save and `deebert predict --watch` write it")
    return state
