"""The file of first tokens' states: its place on the disk, its packs, and how it ends."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from deebert.base.errors import UserError
from deebert.inference import packs
from deebert.inference.packs import PackedBackbone
from deebert.training import states as states_module
from deebert.training.states import first_token_states
from tests import tiny
from tests.training.test_ramps import CPU, ENCODED

BYTES = 10 * 1 * 16 * 4  # samples, ramps, width, float32


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """Where states go, and where nothing is left of them."""
    yield tmp_path / "cache" / "home"
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small() -> PreTrainedModel:
    return tiny.model("bert", layers=2)


def test_all_of_the_disk_space_is_taken_at_once(
    small: PreTrainedModel, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every byte, where the system can take it and where zeros are written; what lies open has no more than these."""
    asked: list[tuple[int, int]] = []
    take = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", lambda file, *span: (asked.append(span), take(file, *span))[1])
    with first_token_states(small, ENCODED[:10], "fp32", CPU, scratch):
        assert asked == [(0, BYTES)]
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(states_module, "ZEROS", bytes(100))
    sizes: list[int] = []
    memmap = np.memmap
    monkeypatch.setattr(
        np, "memmap", lambda file, **how: (sizes.append(os.fstat(file.fileno()).st_size), memmap(file, **how))[1]
    )
    monkeypatch.setattr(states_module, "_let_go", lambda _: None)
    with first_token_states(small, ENCODED[:10], "fp32", CPU, scratch):
        assert sizes == [BYTES]


def test_a_frozen_pass_that_is_told_to_stop(
    small: PreTrainedModel, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends after the pack that it is at, with one line, and takes nothing of the disk."""
    monkeypatch.setattr(packs, "PACK_TOKENS", 30)
    seen: list[int] = []
    embed = PackedBackbone.embed

    def told(self, *given):
        seen.append(1)
        if len(seen) == 1:  # a second one would not wait
            os.kill(os.getpid(), signal.SIGTERM)
        return embed(self, *given)

    monkeypatch.setattr(PackedBackbone, "embed", told)
    with (
        pytest.raises(UserError, match="train_ramps: stopped by SIGTERM; nothing is written"),
        first_token_states(small, ENCODED[:10], "fp32", CPU, scratch),
    ):
        pytest.fail("it went on")
    assert len(seen) == 1


def test_a_folder_that_cannot_be_made_is_told(small: PreTrainedModel, tmp_path: Path) -> None:
    """In one line, and what is in its place stays."""
    (tmp_path / "file").write_text("mine")
    told = f"^{re.escape(str(tmp_path))}/file/states: no room for .* Not a directory; DEEBERT_CHECKPOINTS names"
    with (
        pytest.raises(UserError, match=told),
        first_token_states(small, ENCODED[:10], "fp32", CPU, tmp_path / "file" / "states"),
    ):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_what_others_keep_in_the_folder_stays(small: PreTrainedModel, tmp_path: Path) -> None:
    """The folder is removed where it is left empty, and there alone."""
    folder = tmp_path / "cache" / "home"
    folder.mkdir(parents=True)
    (folder / "theirs").write_text("theirs")
    with first_token_states(small, ENCODED[:10], "fp32", CPU, folder):
        pass
    assert (folder / "theirs").read_text() == "theirs"
