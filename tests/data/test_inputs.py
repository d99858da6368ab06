"""From sentences to padded batches."""

import numpy as np
import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.data.inputs import ShuffledByLength, batches_by_length, collate, encode, token_counts
from tests import tiny

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 200))
def test_batches_cover_every_row_within_the_budget(counts: list[int], max_tokens: int) -> None:
    """Every row comes once, longest first, within the budget; only a row longer than it gets a batch beyond, alone."""
    batches = [rows.tolist() for rows in batches_by_length(np.array(counts, dtype=np.int64), max_tokens)]
    in_order = [row for rows in batches for row in rows]
    assert sorted(in_order) == list(range(len(counts)))
    lengths = [counts[row] for row in in_order]
    assert lengths == sorted(lengths, reverse=True)
    for rows in batches:
        padded = len(rows) * max(counts[row] for row in rows)
        assert padded <= max_tokens or len(rows) == 1
    # No batch could have taken the first row of the next one as well.
    for rows in batches[:-1]:
        assert (len(rows) + 1) * counts[rows[0]] > max_tokens


def test_encode_keeps_order_and_cuts() -> None:
    """Row by row: [CLS] words [SEP], cut to the tokenizer's model_max_length."""
    frame = pd.DataFrame({"sentence": ["w0 w1", " ".join(["w2"] * 30), "w3 strange"]})
    encoded = encode(tiny.tokenizer(max_length=8), frame, ["sentence"])
    assert [sample["input_ids"] for sample in encoded] == [[0, 4, 5, 2], [0, *[6] * 6, 2], [0, 7, 3, 2]]
    assert token_counts(encoded).tolist() == [4, 8, 4]


def test_a_pair_is_told_apart_and_the_longer_side_is_cut() -> None:
    """Of a pair the second text has token type 1, and truncation takes from the longer one."""
    frame = pd.DataFrame({"a": ["w0 " * 20], "b": ["w1 w2"]})
    (sample,) = encode(tiny.tokenizer(max_length=10), frame, ["a", "b"])
    assert sample["input_ids"] == [0, *[4] * 5, 2, 5, 6, 2]
    assert sample["token_type_ids"] == [0] * 7 + [1] * 3


def test_collate_pads_on_the_right_to_the_longest_chosen() -> None:
    """The batch holds the chosen rows in the order asked for, as wide as their longest, padded last and masked."""
    tokenizer = tiny.tokenizer()
    encoded = encode(tokenizer, pd.DataFrame({"s": ["w0 w1 w2 w3 w4", "w1", "w2 w3"]}), ["s"])
    batch = collate(tokenizer, encoded, np.array([2, 1]), CPU)
    assert batch["input_ids"].tolist() == [[0, 6, 7, 2], [0, 5, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 100))
def test_an_epoch_is_every_sample_once(counts: list[int], batch_size: int, seed: int) -> None:
    """The training order is a permutation, and torch's seed decides it."""
    sampler = ShuffledByLength(np.array(counts, dtype=np.int64), batch_size)
    torch.manual_seed(seed)
    epoch = list(sampler)
    torch.manual_seed(seed)
    assert list(sampler) == epoch
    assert len(sampler) == len(counts)
    assert sorted(epoch) == list(range(len(counts)))


def test_batches_of_an_epoch_are_of_similar_length_in_mixed_order() -> None:
    """Batches pad little, long and short ones follow one another freely, and every epoch has an order of its own."""
    torch.manual_seed(0)
    counts = torch.randint(5, 100, (1603,)).numpy()
    sampler = ShuffledByLength(counts, 16)
    order = np.array(list(sampler))
    assert (order != np.array(list(sampler))).mean() > 0.9
    lengths = counts[order[:1600]].reshape(100, 16)
    assert (lengths.max(axis=1) - lengths.min(axis=1)).mean() < 12
    neighbours = np.corrcoef(lengths[:-1].mean(axis=1), lengths[1:].mean(axis=1))[0, 1]
    assert abs(neighbours) < 0.3
