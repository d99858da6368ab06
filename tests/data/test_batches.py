"""Which samples make a batch."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.data.batches import batches_by_length, shuffled_batches


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_cover_every_row_within_the_budget(lengths: list[int], max_tokens: int) -> None:
    """Every row comes once, longest first, within the budget; only a row longer than it gets a batch beyond, alone."""
    batches = [rows.tolist() for rows in batches_by_length(np.array(lengths, dtype=np.int64), max_tokens)]
    in_order = [row for rows in batches for row in rows]
    assert sorted(in_order) == list(range(len(lengths)))
    found = [lengths[row] for row in in_order]
    assert found == sorted(found, reverse=True)
    for rows in batches:
        padded = len(rows) * max(lengths[row] for row in rows)
        assert padded <= max_tokens or len(rows) == 1
    # No batch could have taken the first row of the next one as well.
    for rows in batches[:-1]:
        assert (len(rows) + 1) * lengths[rows[0]] > max_tokens


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 100))
def test_an_epoch_is_every_sample_once(lengths: list[int], batch_size: int, seed: int) -> None:
    """The batches are full ones, and a smaller last one where it does not go even; torch's seed decides them."""
    counts = np.array(lengths, dtype=np.int64)
    torch.manual_seed(seed)
    epoch = [rows.tolist() for rows in shuffled_batches(counts, batch_size)]
    torch.manual_seed(seed)
    assert [rows.tolist() for rows in shuffled_batches(counts, batch_size)] == epoch
    assert sorted(row for rows in epoch for row in rows) == list(range(len(lengths)))
    full, rest = divmod(len(lengths), batch_size)
    assert [len(rows) for rows in epoch] == [batch_size] * full + [rest] * (rest > 0)


def test_batches_of_an_epoch_are_of_similar_length_in_mixed_order() -> None:
    """Batches pad little, long and short ones follow one another freely, and every epoch has an order of its own."""
    torch.manual_seed(0)
    counts = torch.randint(5, 100, (1603,)).numpy()
    order, other = (np.concatenate(shuffled_batches(counts, 16)) for _ in range(2))
    assert (order != other).mean() > 0.9
    lengths = counts[order[:1600]].reshape(100, 16)
    assert (lengths.max(axis=1) - lengths.min(axis=1)).mean() < 12
    neighbours = np.corrcoef(lengths[:-1].mean(axis=1), lengths[1:].mean(axis=1))[0, 1]
    assert abs(neighbours) < 0.3
