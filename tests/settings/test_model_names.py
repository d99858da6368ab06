"""A value of `model` is a known name, a folder or a repository of the Hub, and each is told from the others."""

from pathlib import Path

import pytest

from deebert.settings.model_names import HUB_ID, is_folder, model_name


@pytest.mark.parametrize("revision", ["", "@30b0a37", "@v1.0", "@release-2", "@main_2"])
def test_a_repository_may_have_a_revision(revision: str) -> None:
    """Commits, tags and branches name one; as git, a tag may have dots and dashes."""
    assert HUB_ID.fullmatch(f"some-one/bert_base.2{revision}")


@pytest.mark.parametrize("text", ["bert", "a/b/c", "a b/c", "a/b@", "a/b@x/y", "a/b@x y", "a/b@x@y"])
def test_what_is_no_repository(text: str) -> None:
    """It has an owner, a name and at most one revision, without spaces."""
    assert not HUB_ID.fullmatch(text)


def test_a_folder_is_told_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like a path, or is there, is a folder; others learn no more of it than its last name."""
    monkeypatch.chdir(tmp_path)
    Path("owner/minilm").mkdir(parents=True)
    for folder in (str(tmp_path / "minilm"), "./minilm", "owner/minilm", "~/minilm"):
        assert is_folder(folder) and model_name(folder) == "minilm"
    for name in ("bert-base", "other/minilm", "other/minilm@v1.0"):
        assert not is_folder(name) and model_name(name) == name
