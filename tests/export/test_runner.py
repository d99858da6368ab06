"""What the runner does by itself: batches, lines, and what it is given in Python."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from deebert.export import runner as runner_module
from deebert.export.runner import BATCH_TOKENS, Runner, _batches, _log_softmax, _texts


@pytest.mark.parametrize("lengths", [[], [7], [3, BATCH_TOKENS + 1, 5, BATCH_TOKENS], list(range(1, 600))])
def test_a_batch_has_few_tokens_or_one_text(lengths: list[int]) -> None:
    """Padding included, which bounds the memory; a text is in one of them, however long it is."""
    made = list(itertools.islice(_batches(lengths), len(lengths) + 1))
    assert sorted(row for rows in made for row in rows) == list(range(len(lengths)))
    for rows in made:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= BATCH_TOKENS


def test_probabilities_of_large_logits() -> None:
    """A very sure head has numbers for probabilities, too."""
    found = np.exp(_log_softmax(np.float32([[2000.0, 0.0], [-2000.0, -2000.0]])))
    np.testing.assert_allclose(found, [[1.0, 0.0], [0.5, 0.5]])


def test_lines_end_as_anywhere() -> None:
    """A carriage return is no part of a text; spaces are; and a blank line is no broken pair."""
    assert list(_texts([b"w1 \r\n", b"w2\n"], 1)) == [("w1 ",), ("w2",)]
    assert list(_texts([b"w1\tw2\r\n", b" \n", b"\r\n"], 2)) == [("w1", "w2"), (" ",), ("",)]


@pytest.mark.parametrize(
    ("texts", "nats", "error", "told"),
    [
        ("w1", 0.1, TypeError, "texts: a single string; expected a list of texts"),
        ([("w1", "w2")], 0.1, TypeError, r"texts: number 0 is \('w1', 'w2'\); expected a string"),
        (["w1", None], 0.1, TypeError, "texts: number 1 is None; expected a string"),
        ({"text": ["w1"]}, 0.1, TypeError, r"texts: a dict; expected one of its columns, or zip\(\) of two for pairs"),
        (pd.DataFrame({"text": ["w1"]}), 0.1, TypeError, "texts: a DataFrame; expected one of its columns"),
        (None, 0.1, TypeError, "texts: None; expected a list of texts"),
        *(
            (["w1"], value, ValueError, "threshold: .* is not allowed; expected nats, 0 or more")
            for value in (float("nan"), -1, "0.1", [0.1, 0.2], np.array([0.1, 0.2]), True)
        ),
    ],
)
def test_mistakes_in_python(texts: Any, nats: Any, error: type[Exception], told: str) -> None:
    """They are told before anything is run."""
    runner = Runner.__new__(Runner)
    runner.manifest = {"texts": 1, "threshold_nats": None}
    with pytest.raises(error, match=told):
        runner.predict(texts, nats)


@pytest.mark.parametrize("threads", [-1, 5000, 10**11, "2", 1.0, None])
def test_threads_are_so_many(tmp_path: Path, threads: Any) -> None:
    """Before a file is looked for."""
    with pytest.raises(ValueError, match=r"threads: .* is not allowed; expected 0 to 1024, 0 for all cores"):
        Runner(tmp_path, threads)


def test_an_interrupt_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends with the status that shells give, and without a word."""
    monkeypatch.setattr(runner_module, "Runner", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(SystemExit) as end:
        runner_module.main(["w1"])
    assert end.value.code == 130


@pytest.mark.parametrize("pair", [tuple, list])
def test_a_pair_is_a_tuple_or_a_list(pair: Callable[[list[str]], Any]) -> None:
    """The tokenizer is given tuples, for of a list it makes one text of words."""
    given: list[Any] = []
    runner = Runner.__new__(Runner)
    runner.manifest, runner._tokenizer = {"texts": 2}, SimpleNamespace(encode_batch=lambda texts: given.extend(texts))
    runner._encoded([pair(["w1", "w2"])])
    assert given == [("w1", "w2")]
