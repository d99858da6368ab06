"""A request to answer a file, checked before anything is read."""

from pathlib import Path

import pytest

from deebert.base.errors import UserError
from deebert.inference.request import Request


@pytest.mark.parametrize("name", ["hard.csv", "soft.csv", "folder/../in.csv"])
def test_the_input_by_another_name_is_not_replaced(name: str, tmp_path: Path) -> None:
    """Not even where replacing is allowed."""
    source = tmp_path / "in.csv"
    source.write_text("sentence\na\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "hard.csv").hardlink_to(source)
    (tmp_path / "soft.csv").symlink_to(source)
    with pytest.raises(UserError, match="is the input; expected another file"):
        Request(source, tmp_path / name, None, "", 10, True).check()
    assert source.read_text() == "sentence\na\n"
