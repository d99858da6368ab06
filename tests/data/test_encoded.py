"""From sentences to flat token ids, and from these to padded batches."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.data import encoded as module
from deebert.data.encoded import Encoded, encode, tell_cut
from tests import tiny

CPU = torch.device("cpu")
SAMPLES = st.lists(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 1)), min_size=1, max_size=9), max_size=12)


def parts(samples: list[list[tuple[int, int]]]) -> tuple[list[list[int]], list[list[int]]]:
    """Ids and types of samples that are lists of both."""
    return tuple([[token[which] for token in sample] for sample in samples] for which in (0, 1))


def ids_of(encoded: Encoded) -> list[list[int]]:
    """The token ids of each sample as a list."""
    return [encoded.input_ids[start:stop].tolist() for start, stop in itertools.pairwise(encoded.offsets)]


def test_encode_keeps_order_and_cuts() -> None:
    """Row by row: [CLS] words [SEP], cut to the tokenizer's model_max_length."""
    frame = pd.DataFrame({"sentence": ["w0 w1", " ".join(["w2"] * 30), "w3 strange"]})
    encoded = encode(tiny.tokenizer(max_length=8), frame, ["sentence"])
    assert ids_of(encoded) == [[0, 4, 5, 2], [0, *[6] * 6, 2], [0, 7, 3, 2]]
    assert encoded.lengths.tolist() == [4, 8, 4]
    assert encoded.offsets.tolist() == [0, 4, 12, 16]


def test_a_pair_is_told_apart_and_the_longer_side_is_cut() -> None:
    """Of a pair the second text has token type 1, and truncation takes from the longer one."""
    frame = pd.DataFrame({"a": ["w0 " * 20], "b": ["w1 w2"]})
    encoded = encode(tiny.tokenizer(max_length=10), frame, ["a", "b"])
    assert encoded.input_ids.tolist() == [0, *[4] * 5, 2, 5, 6, 2]
    assert encoded.token_type_ids.tolist() == [0] * 7 + [1] * 3


def test_how_many_rows_are_tokenised_at_once_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of rows at once gives the same arrays, of the types they are said to have; and so does no row."""
    frame, tokenizer = tiny.samples(11), tiny.tokenizer()
    whole = encode(tokenizer, frame, ["sentence"])
    kinds = [np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.int8)]
    assert [array.dtype for array in (whole.input_ids, whole.offsets, whole.token_type_ids)] == kinds
    for rows_at_once in (1, 4, 11):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", rows_at_once)
        again = encode(tokenizer, frame, ["sentence"])
        for name, array in vars(whole).items():
            assert array.dtype == vars(again)[name].dtype
            np.testing.assert_array_equal(array, vars(again)[name])
    assert len(encode(tokenizer, frame[:0], ["sentence"])) == 0


def test_a_tokenizer_may_have_no_token_types() -> None:
    """As RoBERTa's and DistilBERT's have none; batches then hold none either."""
    tokenizer = tiny.tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    encoded = encode(tokenizer, tiny.samples(3), ["sentence"])
    assert encoded.token_type_ids is None and encoded[1:].token_type_ids is None
    assert set(encoded.padded(np.arange(3), 1, CPU)) == {"input_ids", "attention_mask"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SAMPLES, st.data())
def test_samples_are_taken_as_from_lists(samples: list[list[tuple[int, int]]], data: st.DataObject) -> None:
    """`take`, an index and a slice give what they give of a list of samples, token types along with the ids."""
    encoded = Encoded.of(*parts(samples))
    assert len(encoded) == len(samples) and ids_of(encoded) == parts(samples)[0]
    rows = data.draw(st.lists(st.integers(0, len(samples) - 1), max_size=9)) if samples else []
    start, stop = data.draw(st.integers(-13, 13)), data.draw(st.integers(-13, 13))
    for found, expected in (
        (encoded.take(np.array(rows, dtype=np.int64)), [samples[row] for row in rows]),
        (encoded[start:stop], samples[start:stop]),
        (encoded[::-2], samples[::-2]),
        *((alone, [sample]) for alone, sample in zip(encoded, samples, strict=True)),
    ):
        wanted = Encoded.of(*parts(expected))
        for name, array in vars(wanted).items():
            np.testing.assert_array_equal(vars(found)[name], array)
    with pytest.raises(IndexError):
        encoded[len(samples)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SAMPLES.filter(bool), st.booleans(), st.integers(0, 6), st.data())
def test_padding_is_the_tokenizers(
    samples: list[list[tuple[int, int]]], typed: bool, beyond: int, data: st.DataObject
) -> None:
    """A batch has the tensors that `tokenizer.pad` makes of the same samples, to the longest or to a given width."""
    ids, types = parts(samples)
    encoded = Encoded.of(ids, types if typed else None)
    rows = data.draw(st.lists(st.integers(0, len(samples) - 1), min_size=1, max_size=9))
    tokenizer = tiny.tokenizer()
    chosen = [{"input_ids": ids[row], **({"token_type_ids": types[row]} if typed else {})} for row in rows]
    longest = max(len(ids[row]) for row in rows)
    for width, how in ((None, {"padding": True}), (longest + beyond, {"padding": "max_length"})):
        expected = tokenizer.pad(chosen, max_length=width, return_tensors="pt", **how)
        found = encoded.padded(np.array(rows), tokenizer.pad_token_id, CPU, width)
        assert found.keys() == expected.keys()
        for name, tensor in found.items():
            assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name])


def test_padding_is_on_the_right_to_the_longest_chosen() -> None:
    """The batch holds the chosen rows in the order asked for, as wide as their longest, padded last and masked."""
    tokenizer = tiny.tokenizer()
    encoded = encode(tokenizer, pd.DataFrame({"s": ["w0 w1 w2 w3 w4", "w1", "w2 w3"]}), ["s"])
    batch = encoded.padded(np.array([2, 1]), tokenizer.pad_token_id, CPU)
    assert batch["input_ids"].tolist() == [[0, 6, 7, 2], [0, 5, 2, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}


def test_texts_that_are_cut_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """One line says how many samples have all of `max_length` tokens; where none has, there is nothing to say."""
    caplog.set_level("INFO")
    tell_cut("train", Encoded.of([[1] * 4, [1] * 8, [1] * 8]), 8)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "train: 2 of 3 texts (66.7 %) have all 8 tokens of max_length; what was longer is cut"
    tell_cut("train", Encoded.of([[1] * 4]), 8)
    assert len(caplog.records) == 1
