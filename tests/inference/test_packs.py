"""Packs: how sentences are cut into them, joined and bounded."""

import numpy as np
import pytest
import torch

from deebert.inference import at_once
from deebert.inference.packs import Layout, Pack, cut_by_tokens, merged
from tests.inference.test_recorded import engine_of, stand_in  # noqa: F401  (a fixture)


def test_what_is_cut_is_full_and_no_more() -> None:
    """A stretch may have exactly as many tokens, and as many samples as its own first one allows."""
    lengths = np.array([3, 9, 2, 4, 5])
    assert [each.tolist() for each in cut_by_tokens(np.array([1, 4, 3, 0, 2]), lengths, 9)] == [[1], [4, 3], [0, 2]]
    most = {9: 1, 5: 3, 3: 1, 2: 9}.__getitem__
    found = cut_by_tokens(np.array([1, 4, 3, 0, 2]), lengths, 12, most)
    assert [each.tolist() for each in found] == [[1], [4, 3, 0], [2]]
    assert [each.tolist() for each in cut_by_tokens(np.arange(2), lengths, 1, lambda _: 0)] == [[0], [1]]


def test_neighbours_are_joined_up_to_a_number_of_tokens() -> None:
    """In their order, as many as have exactly so many; a pack that has more stays as it is."""
    parts = [
        Pack(torch.full((n, 2), float(i)), Layout(np.array([n]), np.array([i])))
        for i, n in enumerate([4, 6, 3, 12, 1, 9])
    ]
    found = merged(parts, 10)
    assert [pack.layout.rows.tolist() for pack in found] == [[0, 1], [2], [3], [4, 5]]
    assert [pack.layout.lengths.tolist() for pack in found] == [[4, 6], [3], [12], [1, 9]]
    assert found[3].hidden[:, 0].tolist() == [4.0] + [5.0] * 9 and found[1] is parts[2]


@pytest.mark.parametrize("family", ["mpnet", "bert"])
@pytest.mark.parametrize("pack_tokens", [60, 10_000])
def test_packs_of_a_gpu_are_bounded(family: str, pack_tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest come first, and padded to the first one's length they have no more scores; nor more tokens."""
    monkeypatch.setattr(at_once, "MOST_SCORES", 2048)
    monkeypatch.setattr(at_once, "PACK_TOKENS", pack_tokens)
    packed = engine_of(family, "fp32")._packed
    lengths = np.random.default_rng(0).integers(2, 20, 80)
    found = [*packed.cut(lengths)]
    rows = np.concatenate(found)
    assert sorted(rows) == [*range(80)] and (np.diff(lengths[rows]) <= 0).all()
    assert all(len(each) * int(lengths[each].max()) ** 2 <= 2048 for each in found)
    assert max(lengths[each].sum() for each in found) <= pack_tokens
