"""The one exception that means "the user can mend this", and how what a library raises is told in its line."""

import textwrap

MAX_REASON = 300  # characters; some libraries go on for pages


class UserError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and what is allowed."""


def one_line(error: BaseException) -> str:
    """What `error` says, on one line of bearable length and without a full stop; its type where it says nothing."""
    return textwrap.shorten(str(error), MAX_REASON).rstrip(".") or type(error).__name__
