"""What a library raises fits into the one line that a user gets."""

import pytest

from deebert.base.errors import MAX_REASON, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such key"), "no such key"),
        (ValueError("no\n  such\tkey.\n"), "no such key"),
        (OSError(2, "No such file or directory", "a.json"), "[Errno 2] No such file or directory: 'a.json'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    """Blanks of all kinds become single spaces, a full stop at the end goes, and there is always something said."""
    assert one_line(error) == line


def test_pages_are_cut() -> None:
    """A very long text is cut between two words, and one can see that it was."""
    line = one_line(ValueError("word " * 1000))
    assert line.startswith("word word") and line.endswith("word [...]") and len(line) <= MAX_REASON
