"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """A mistake in the input, told in one line: what is wrong, where, and what is allowed."""
