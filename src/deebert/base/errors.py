"""The one exception that means "the user can mend this", and how what a library raises is told in its line."""

import textwrap
from collections.abc import Collection, Sequence

MAX_REASON = 300  # characters; some libraries go on for pages
MAX_NAMES = 5  # of many


class UserError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and what is allowed."""


def one_line(error: BaseException) -> str:
    """What `error` says, on one line of bearable length and without a full stop; its type where it says nothing."""
    return textwrap.shorten(str(error), MAX_REASON).rstrip(".") or type(error).__name__


def some(names: Sequence[str], other_than: Collection[str] = ()) -> str:
    """The first of `names`, and how many more there are. Of many, those that are not in `other_than` come first."""
    more = len(names) - MAX_NAMES
    if more <= 0:
        return ", ".join(names)
    return f"{', '.join(sorted(names, key=lambda name: name in other_than)[:MAX_NAMES])} and {more} more"
