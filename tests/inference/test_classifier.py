"""The Python interface answers as the offline rule does, takes what it promises to take, and says no in one line."""

import functools
import itertools
import json
import multiprocessing
import os
import pickle
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from deebert.base import files
from deebert.base.errors import UserError
from deebert.base.files import write_json
from deebert.data.encoded import encode
from deebert.exits.criteria import Consistency, Criterion, Entropy, LayerThresholds, MaxProbability, Patience
from deebert.exits.rule import entropy
from deebert.inference import classifier as classifiers
from deebert.inference.classifier import EarlyExitClassifier, Predictions
from deebert.inference.thresholds import Certified
from deebert.model import DeeBert, fingerprint, save
from deebert.ramps import RAMPS, PoolerRamps
from tests import tiny
from tests.disks import withheld
from tests.hub import Repo, serve

LAYERS, WIDTH, LABELS = 4, 16, 3
COUNT = 14
COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"
TIMEOUT_S = 120  # for what hangs
CLEAR = 1e-4  # nats; nearer to a threshold, an entropy's side of it is a matter of rounding


def write_classifier(folder: Path, family: str = "bert", columns: tuple[str, ...] | None = ("sentence",)) -> Path:
    """Write a random model with ramps, some sure and some not, as the stages do; return its folder."""
    names = dict(enumerate(tiny.LABEL_NAMES))
    backbone = tiny.write_model(folder / "backbone", family, layers=LAYERS, width=WIDTH, labels=LABELS, id2label=names)
    ramps = PoolerRamps(LAYERS - 1, WIDTH, LABELS)
    with torch.no_grad():
        ramps.out_weight.mul_(6)
    (folder / "deebert").mkdir()
    save(backbone, ramps, folder / "deebert")
    if columns is not None:
        about = {"model": "tiny", "task": "tiny", "text_columns": list(columns)}
        write_json(folder / "deebert" / "training.json", about)
    return folder / "deebert"


@pytest.fixture(scope="module", params=("bert", "roberta"))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained on single sentences; no test changes it."""
    return write_classifier(tmp_path_factory.mktemp("single"), request.param)


@pytest.fixture(scope="module")
def classifier(folder: Path) -> EarlyExitClassifier:
    return EarlyExitClassifier.from_pretrained(folder)


@pytest.fixture(scope="module")
def of_pairs(tmp_path_factory: pytest.TempPathFactory) -> EarlyExitClassifier:
    columns = ("sentence1", "sentence2")
    return EarlyExitClassifier.from_pretrained(write_classifier(tmp_path_factory.mktemp("pairs"), columns=columns))


def sentences(count: int = COUNT, seed: int = 0) -> list[str]:
    """From no word at all to more words than the model takes."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(tiny.WORDS, n)) for n in [0, 40, *rng.integers(1, 20, count - 2)]]


def pairs(count: int = COUNT) -> list[tuple[str, str]]:
    return list(zip(sentences(count), sentences(count, seed=1), strict=True))


def logits_of_all_heads(folder: Path, texts: list[Any]) -> torch.Tensor:
    """(N, L, C) by the backbone's own forward on one padded batch."""
    model, tokenizer = DeeBert.load(folder)
    frame = pd.DataFrame([(text,) if isinstance(text, str) else text for text in texts])
    encoded = encode(tokenizer, frame, list(frame))
    with torch.inference_mode():
        return model(**encoded.padded(np.arange(len(encoded)), tokenizer.pad_token_id, torch.device("cpu")))


def check_offline(answers: Predictions, logits: torch.Tensor, criterion: Criterion) -> None:
    """The answers are those of the criterion on saved logits."""
    layers = criterion.exit_layers(logits)
    answering = logits[torch.arange(len(logits)), layers - 1]  # (N, C)
    assert answers.exit_layers.tolist() == layers.tolist()
    assert answers.labels == [tiny.LABEL_NAMES[i] for i in answering.argmax(dim=1)]
    np.testing.assert_allclose(answers.probabilities, answering.softmax(dim=1), atol=1e-5)
    np.testing.assert_allclose(answers.probabilities.sum(axis=1), 1, atol=1e-6)


def check_same(answers: Predictions, others: Predictions) -> None:
    assert answers.labels == others.labels
    assert answers.exit_layers.tolist() == others.exit_layers.tolist()
    np.testing.assert_allclose(answers.probabilities, others.probabilities, atol=1e-5)


def thresholds_between(readings: torch.Tensor) -> list[float]:
    """A threshold in every gap between entropies: all that can differ in effect, but for gaps too narrow to hit."""
    seen = readings.flatten().sort().values.tolist()
    gaps = [(low, high) for low, high in itertools.pairwise(seen) if high - low > 2 * CLEAR]
    assert len(gaps) > len(seen) / 2
    return [0.0, *((low + high) / 2 for low, high in gaps), 2.0]


def test_every_threshold_answers_as_the_offline_rule(folder: Path, classifier: EarlyExitClassifier) -> None:
    """For all thresholds that differ in effect: exit layers, labels and the answering head's softmax are the rule's."""
    logits = logits_of_all_heads(folder, sentences())
    left = set()
    for threshold in thresholds_between(entropy(logits[:, :-1])):
        answers = classifier.predict(sentences(), threshold=threshold)
        check_offline(answers, logits, Entropy(threshold))
        left |= set(answers.exit_layers.tolist())
    assert left >= {1, 2, LAYERS}


def test_all_heads_answer(folder: Path, classifier: EarlyExitClassifier, of_pairs: EarlyExitClassifier) -> None:
    """Every head's logits to every text, in the order of any iterable; of nothing none; a mistake is told."""
    expected = logits_of_all_heads(folder, sentences()).numpy()
    np.testing.assert_allclose(classifier.all_logits(iter(sentences())), expected, atol=1e-5)
    np.testing.assert_allclose(of_pairs.all_logits(pairs()), logits_of_all_heads(of_pairs.folder, pairs()), atol=1e-5)
    assert classifier.all_logits([]).shape == (0, LAYERS, LABELS)
    for texts in ("one text", [1]):
        with pytest.raises(TypeError, match=r"^texts: "):
            classifier.all_logits(texts)


def test_pairs_answer_as_the_offline_rule(of_pairs: EarlyExitClassifier) -> None:
    """Pairs are encoded as pairs, be they tuples or lists."""
    logits = logits_of_all_heads(of_pairs.folder, pairs())
    for threshold in thresholds_between(entropy(logits[:, :-1]))[::5]:
        check_offline(of_pairs.predict(pairs(), threshold), logits, Entropy(threshold))
    check_same(of_pairs.predict(map(list, pairs())), of_pairs.predict(pairs()))


@pytest.mark.parametrize(
    ("threshold", "criterion"),
    [
        ([0.4, 0.0, 0.9], LayerThresholds((0.4, 0.0, 0.9), drop_points=0)),
        ((0, 2, 0), LayerThresholds((0, 2, 0), drop_points=0)),
        (np.array([0.1, 0.5, 0.7]), LayerThresholds((0.1, 0.5, 0.7), drop_points=0)),
        (LayerThresholds((0.4, 0.0, 0.9), drop_points=0), LayerThresholds((0.4, 0.0, 0.9), drop_points=0)),
        (1, Entropy(1.0)),
        (np.float32(0.5), Entropy(0.5)),
        (np.array(0.5), Entropy(0.5)),
        (float("inf"), Entropy(float("inf"))),
        (Patience(1), Patience(1)),
        (Patience(2), Patience(2)),
        (MaxProbability(0.8), MaxProbability(0.8)),
        (LayerThresholds([0.4, 0.0, 0.9], drop_points=0), LayerThresholds((0.4, 0.0, 0.9), drop_points=0)),
        (
            Consistency([[0, -1, 0], [0, -1, -1], [0, -1, -1]], 0.2),
            Consistency(((0, -1, 0), (0, -1, -1), (0, -1, -1)), 0.2),
        ),
    ],
)
def test_every_kind_of_threshold(folder: Path, classifier: EarlyExitClassifier, threshold: Any, criterion: Criterion):
    """One number, one for each ramp, or any criterion."""
    check_offline(classifier.predict(sentences(), threshold), logits_of_all_heads(folder, sentences()), criterion)


@pytest.mark.parametrize("batch_size", [1, 3, COUNT - 1, COUNT, COUNT + 1])
def test_batch_size_changes_no_answer(classifier: EarlyExitClassifier, batch_size: int) -> None:
    """Answers come in the order of the texts, whatever the batches."""
    expected = classifier.predict(sentences(), threshold=0.6)
    assert len(set(expected.exit_layers.tolist())) > 1
    check_same(classifier.predict(sentences(), threshold=0.6, batch_size=batch_size), expected)


@pytest.mark.parametrize("batch_size", [np.int64(4), np.uint8(4), 10**30])
def test_batch_size_is_any_whole_number(classifier: EarlyExitClassifier, batch_size: Any) -> None:
    """A whole number of NumPy's is one, and so is one beyond what memory can hold."""
    check_same(classifier.predict(sentences(), batch_size=batch_size), classifier.predict(sentences()))


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_classifier_can_be_sent_to_another_process(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickled and read again, as multiprocessing does, it gives the same answers and can be saved, and may fork."""
    folder = write_classifier(tmp_path, family)
    sent = pickle.dumps(EarlyExitClassifier.from_pretrained(folder))
    prepared: list[bool] = []
    monkeypatch.setattr(classifiers, "compute_with_one_thread_after_fork", lambda: prepared.append(True))
    received, sent = pickle.loads(sent), EarlyExitClassifier.from_pretrained(folder)
    assert len(prepared) == 2
    check_same(received.predict(sentences(), threshold=0.6), sent.predict(sentences(), threshold=0.6))
    received.save_pretrained(tmp_path / "copy")
    assert content_of(tmp_path / "copy").items() >= content_of(folder).items()


@pytest.fixture
def two_threads() -> Iterator[None]:
    """PyTorch computes with two threads, which it has started."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.ones(1_000_000).add(1)
    yield
    torch.set_num_threads(before)


LOADED: list[EarlyExitClassifier] = []  # what a forked process finds


def answer_in_child(folder: Path | None) -> tuple[Predictions, int]:
    """Answers of the parent's classifier, or of one that is loaded here, and the number of threads that gave them."""
    used = LOADED[-1] if folder is None else EarlyExitClassifier.from_pretrained(folder)
    return used.predict(sentences(200), threshold=0.6), torch.get_num_threads()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.usefixtures("two_threads")
def test_forked_processes_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the parent has computed with several threads, of which a child has none, and which it would wait for.

    So it is with the parent's classifier, with one that is sent, and with one that the child loads.
    """
    monkeypatch.setitem(globals(), "WIDTH", 256)  # wide enough for PyTorch to use several threads
    folder = write_classifier(tmp_path)
    LOADED.append(EarlyExitClassifier.from_pretrained(folder))
    expected = LOADED[-1].predict(sentences(200), threshold=0.6)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        try:
            sent = pool.submit(LOADED[-1].predict, sentences(200), 0.6).result(timeout=TIMEOUT_S)
            for given in (None, folder):
                answers, threads = pool.submit(answer_in_child, given).result(timeout=TIMEOUT_S)
                check_same(answers, expected)
                assert threads == 1
        except TimeoutError:
            for process in pool._processes.values():  # or the test would wait for it, too
                process.kill()
            raise
    check_same(sent, expected)
    assert torch.get_num_threads() == 2


def test_threads_share_a_classifier(folder: Path) -> None:
    """Answers of several threads at once are those of one call after another, from the first call on."""
    batches = [sentences(20, seed) for seed in range(8)]
    expected = [EarlyExitClassifier.from_pretrained(folder).predict(texts, threshold=0.6) for texts in batches]
    shared = EarlyExitClassifier.from_pretrained(folder)
    cut = shared._tokenizer.backend_tokenizer.truncation
    with ThreadPoolExecutor(len(batches)) as pool:
        for answers, alone in zip(pool.map(lambda texts: shared.predict(texts, 0.6), batches), expected, strict=True):
            check_same(answers, alone)
    assert shared._tokenizer.backend_tokenizer.truncation == cut != None  # noqa: E711  what a call sets, others trip over


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """A function that changes PyTorch's default as the test's parameter says; it is put back."""
    yield lambda: torch.set_default_dtype(request.param)
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_the_programs_default_dtype_changes_no_answer(
    family: str, default_dtype: Callable[[], None], tmp_path: Path
) -> None:
    """Changed before loading or after it: answers and saved weights are the same to the bit, in float32."""
    folder = write_classifier(tmp_path, family)
    before = EarlyExitClassifier.from_pretrained(folder)
    expected = before.predict(sentences(), threshold=0.6)
    default_dtype()
    after = EarlyExitClassifier.from_pretrained(folder)
    for answers in (before.predict(sentences(), threshold=0.6), after.predict(sentences(), threshold=0.6)):
        assert answers.exit_layers.tolist() == expected.exit_layers.tolist()
        assert answers.probabilities.dtype == np.float32
        assert np.array_equal(answers.probabilities, expected.probabilities)
    after.save_pretrained(tmp_path / "copy")
    assert content_of(tmp_path / "copy").items() >= content_of(folder).items()


def test_answers_come_batch_by_batch(classifier: EarlyExitClassifier) -> None:
    """As `predict` gives them, each batch before the next is read, and of no text none."""
    expected = classifier.predict(sentences(), threshold=0.6)
    read = []
    parts = classifier.predict_iter((read.append(text) or text for text in sentences()), 0.6, batch_size=4)
    sizes = []
    for part in parts:
        start = sum(sizes)
        sizes.append(len(part.labels))
        assert len(read) == start + len(part.labels)
        own = slice(start, len(read))
        of_batch = Predictions(expected.labels[own], expected.probabilities[own], expected.exit_layers[own])
        check_same(part, of_batch)
    assert sizes == [4, 4, 4, 2]
    assert list(classifier.predict_iter([])) == []


@pytest.mark.parametrize("count", [0, 3, 4, 6])
def test_an_error_on_the_way_loses_no_answer(classifier: EarlyExitClassifier, count: int) -> None:
    """What came before a text that is none, or before the source of the texts broke off, is answered first."""

    def broken() -> Iterator[str]:
        yield from sentences()[:count]
        raise OSError("the disk is gone")

    for texts, error in ((broken(), OSError), ([*sentences()[:count], None, "w1"], TypeError)):
        labels = []
        with pytest.raises(error, match=f"the disk is gone|number {count} is None"):
            for part in classifier.predict_iter(texts, 0.6, batch_size=4):
                labels += part.labels
        assert labels == classifier.predict(sentences()[:count], 0.6).labels


@pytest.mark.parametrize("wrong", [{"texts": "w1"}, {"threshold": -1}, {"batch_size": 0}])
def test_wrong_arguments_are_told_before_the_first_batch(
    classifier: EarlyExitClassifier, wrong: dict[str, Any]
) -> None:
    """By the call itself, not by the first answer that is asked for."""
    with pytest.raises((TypeError, ValueError)):
        classifier.predict_iter(**{"texts": ["w1"], **wrong})


def test_any_iterable_is_read_once_and_a_batch_at_a_time(classifier: EarlyExitClassifier) -> None:
    """A generator, a tuple, an array and a column give what a list gives; no text is asked for ahead of its batch."""
    expected = classifier.predict(sentences())
    for texts in (iter(sentences()), tuple(sentences()), np.array(sentences()), pd.Series(sentences()).add("")):
        check_same(classifier.predict(texts), expected)

    asked = 0

    def endless() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "w1" if asked < 8 else None

    with pytest.raises(TypeError, match="number 7 is None"):
        classifier.predict(endless(), batch_size=3)
    assert asked == 8


def test_shapes_and_types(classifier: EarlyExitClassifier) -> None:
    """Labels are names, probabilities float32, exit layers whole; no text gives empty ones of the same kinds."""
    assert classifier.label_names == list(tiny.LABEL_NAMES)
    assert classifier.num_layers == LAYERS
    for texts in ([], iter(()), ["w1 w2"], sentences()):
        answers = classifier.predict(texts)
        n = len(answers.labels)
        assert n == (len(texts) if isinstance(texts, list) else 0)
        assert answers.probabilities.shape == (n, LABELS) and answers.probabilities.dtype == np.float32
        assert answers.exit_layers.shape == (n,) and answers.exit_layers.dtype == np.int64


def test_labels_are_of_logits_that_probabilities_cannot_tell_apart(folder: Path, tmp_path: Path) -> None:
    """Where rounding makes two probabilities equal, the label is still that of the greater logit, as offline."""
    model = tmp_path / "model"
    EarlyExitClassifier.from_pretrained(folder).save_pretrained(model)
    weights = {name: torch.zeros_like(tensor) for name, tensor in load_file(model / RAMPS).items()}
    weights["out_bias"][:] = torch.tensor([1e-9, 2e-9, 0.0])
    save_file(weights, model / RAMPS)
    answers = EarlyExitClassifier.from_pretrained(model).predict(["w1"], threshold=2)
    assert answers.probabilities[0, 0] == answers.probabilities[0, 1]
    assert answers.labels == [tiny.LABEL_NAMES[1]]


@pytest.mark.parametrize(
    ("texts", "error", "told"),
    [
        ("w1 w2", TypeError, "texts: a single string; expected an iterable of strings or of pairs, such as [text]"),
        (None, TypeError, "texts: None; expected an iterable of strings"),
        (7, TypeError, "texts: 7; expected an iterable of strings"),
        (["w1", None], TypeError, "texts: number 1 is None; expected a string or a pair of strings"),
        ([3], TypeError, "texts: number 0 is 3; expected a string or a pair"),
        (["w1", float("nan")], TypeError, "texts: number 1 is nan; expected"),
        ([b"w1"], TypeError, "texts: number 0 is b'w1'; expected"),
        (b"w1", TypeError, "texts: a single bytes; expected an iterable of strings"),
        (bytearray(b"w1"), TypeError, "texts: a single bytearray; expected an iterable of strings"),
        (np.array("w1"), TypeError, "texts: array('w1', dtype='<U2'); expected an iterable of strings"),
        ({"a": "w1", "b": "w2"}, TypeError, "texts: a dict; expected one of its columns, or zip() of two for pairs"),
        (pd.DataFrame({"a": ["w1"]}), TypeError, "texts: a DataFrame; expected one of its columns, or zip() of two"),
        (np.arange(3), TypeError, "texts: number 0 is np.int64(0); expected a string"),
        (np.array([["w1"] * 200] * 2), TypeError, "texts: number 0 is array(['w1', 'w1',"),
        (["w1", "w2 \ud800 w3"], ValueError, "texts: number 1 holds '\\ud800', half a character; expected whole ones"),
        ([("w1", 2)], TypeError, "texts: number 0 is ('w1', 2); expected"),
        (["w1", ("w1", "w2")], ValueError, "texts: number 1 is ('w1', 'w2'); expected a string"),
        ([("w1", "w2", "w3")], ValueError, "texts: number 0 is ('w1', 'w2', 'w3'); expected a string"),
        ([()], ValueError, "texts: number 0 is (); expected a string"),
    ],
)
def test_wrong_texts(classifier: EarlyExitClassifier, texts: Any, error: type[Exception], told: str) -> None:
    """A text that is none is told by its number, with what is expected, in one line."""
    with pytest.raises(error) as caught:
        classifier.predict(texts)
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_text_that_cannot_be_encoded_is_told_by_its_number(of_pairs: EarlyExitClassifier) -> None:
    """In any batch and on either side of a pair."""
    with pytest.raises(ValueError, match=r"texts: number 5 holds '.udc80', half a character") as caught:
        of_pairs.predict([("w1", "w2")] * 5 + [("w1", "w\udc80")], batch_size=2)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("texts", [["w1"], [("w1", "w2"), "w1"], [("w1",)], [("w1", "w2", "w3")], [[]], ("w1", "w2")])
def test_a_model_of_pairs_wants_pairs(of_pairs: EarlyExitClassifier, texts: Any) -> None:
    """How many strings make a text is what the model was trained on."""
    with pytest.raises(ValueError, match=r"texts: number [01] is .*; expected a pair of strings"):
        of_pairs.predict(texts)


def test_a_model_that_does_not_say_takes_either_but_not_both(tmp_path: Path) -> None:
    """Without training.json the first text decides."""
    classifier = EarlyExitClassifier.from_pretrained(write_classifier(tmp_path, columns=None))
    assert len(classifier.predict(["w1"]).labels) == len(classifier.predict([("w1", "w2")]).labels) == 1
    for texts, told in (
        (["w1", ("w1", "w2")], "number 1 is ('w1', 'w2'); expected a string"),
        ([("w1", "w2"), "w1"], "number 1 is 'w1'; expected a pair of strings"),
        ([("w1", "w2", "w3")], "number 0 is ('w1', 'w2', 'w3'); expected one or two strings"),
        ([()], "number 0 is (); expected one or two strings"),
    ):
        with pytest.raises(ValueError) as caught:
            classifier.predict(texts)
        assert str(caught.value) == f"texts: {told}"


@dataclass(frozen=True)
class Loose(Criterion):
    """One that may be changed after it was given."""

    limits: list[float]
    name: ClassVar[str] = "loose"
    read = staticmethod(entropy)

    @property
    def setting(self) -> float:
        return self.limits[0]

    def decide(self, readings: torch.Tensor, layer: int, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return readings < self.limits[0], state


@pytest.mark.parametrize(
    ("argument", "value", "error", "told"),
    [
        *(
            (
                "batch_size",
                value,
                ValueError,
                f"batch_size: {value!r} is not allowed; expected a whole number, 1 or more",
            )
            for value in (0, -1, 2.0, "8", None, True)
        ),
        ("threshold", -0.1, ValueError, "entropy: threshold is -0.1; allowed: nats, 0 or more"),
        ("threshold", float("nan"), ValueError, "entropy: threshold is nan; allowed: nats, 0 or more"),
        ("threshold", 10**400, ValueError, "threshold: int too large to convert to float"),
        ("threshold", [0.1, -0.1, 0.1], ValueError, "layer_thresholds: thresholds are (0.1, -0.1, 0.1); allowed: nats"),
        (
            "threshold",
            [0.1, 0.1],
            ValueError,
            "layer_thresholds: thresholds of 2 ramps for a model of 4 layers; allowed",
        ),
        ("threshold", [], ValueError, "layer_thresholds: thresholds of 0 ramps for a model of 4 layers; allowed"),
        ("threshold", LayerThresholds((0.1,), 0), ValueError, "layer_thresholds: thresholds of 1 ramps for a model"),
        ("threshold", Consistency(((0, 0, 0),), 0.5), ValueError, "consistency: weights of 1 ramps for a model"),
        *(
            ("threshold", value, TypeError, f"threshold: {value!r}; expected nats, a sequence of nats, or a Criterion")
            for value in ("0.1", None, True, {0.1}, ["0.1", "0.1", "0.1"], [None, 0.1, 0.1], [[0.1], [0.1], [0.1]])
        ),
        (
            "threshold",
            Loose([0.1]),
            TypeError,
            "threshold: Loose(limits=[0.1]) is not hashable",
        ),
        ("threshold", np.zeros((3, 1)), TypeError, "threshold: [[0.0], [0.0], [0.0]]; expected nats"),
    ],
)
def test_wrong_arguments(
    classifier: EarlyExitClassifier, argument: str, value: Any, error: type[Exception], told: str
) -> None:
    """What cannot be is told before any text is read, in one line with the value and what is allowed."""
    with pytest.raises(error) as caught:
        classifier.predict(iter([None]), **{argument: value})
    assert str(caught.value).startswith(told) and "\n" not in str(caught.value)


def test_precision(folder: Path) -> None:
    """bf16 answers nearly as fp32 does, and a precision that is none is told."""
    plain = EarlyExitClassifier.from_pretrained(folder).predict(sentences(), threshold=0)
    rounded = EarlyExitClassifier.from_pretrained(folder, precision="bf16").predict(sentences(), threshold=0)
    assert not np.array_equal(plain.probabilities, rounded.probabilities)
    np.testing.assert_allclose(plain.probabilities, rounded.probabilities, atol=0.1)
    with pytest.raises(ValueError, match="precision: 'fp16' is not allowed; expected one of fp32, bf16, int8, auto"):
        EarlyExitClassifier.from_pretrained(folder, precision="fp16")


def test_precision_is_the_models_own(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model is loaded in what its ramps were made for; in another one it answers too, and one line tells."""
    load = EarlyExitClassifier.from_pretrained
    made = shutil.copytree(folder, tmp_path / "made")
    assert load(made).precision == "fp32" and not caplog.records, "where nothing is recorded"
    write_json(made / "ramps.json", {"precision": "int8"})
    own = load(made)
    assert (own.precision, load(made, precision="auto").precision) == ("int8", "int8") and not caplog.records
    exact = load(made, precision="fp32")
    assert exact.precision == "fp32"
    assert caplog.messages == [f"{made}: loaded in fp32; its ramps and thresholds were made for int8"]
    few = sentences()
    found, expected = own.predict(few, threshold=0), exact.predict(few, threshold=0)
    assert not np.array_equal(found.probabilities, expected.probabilities)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=0.1)
    check_same(pickle.loads(pickle.dumps(own)).predict(few), own.predict(few))

    exact.save_pretrained(tmp_path / "copy")
    assert "Precision: int8; ramps and thresholds" in (tmp_path / "copy" / "README.md").read_text()
    assert load(tmp_path / "copy").precision == "int8"


def test_a_machine_without_int8(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model made for int8 is refused there in one line, and loaded in what there is by auto."""
    made = shutil.copytree(folder, tmp_path / "made")
    write_json(made / "ramps.json", {"precision": "int8"})
    monkeypatch.setattr(torch.backends.quantized.__class__, "supported_engines", ["qnnpack"])
    with pytest.raises(UserError, match="precision: int8 needs a CPU with AVX2"):
        EarlyExitClassifier.from_pretrained(made)
    assert EarlyExitClassifier.from_pretrained(made, precision="auto").precision in ("fp32", "bf16")


@pytest.mark.parametrize(
    ("record", "told"),
    [([], "damaged: expected keys and values"), ({"precision": "fp8"}, "precision: 'fp8' is not allowed; expected")],
)
def test_a_damaged_record_of_the_precision(folder: Path, tmp_path: Path, record: Any, told: str) -> None:
    """It is told in one line, with the file."""
    made = shutil.copytree(folder, tmp_path / "made")
    write_json(made / "ramps.json", record)
    with pytest.raises(UserError, match=f"ramps.json: {told}"):
        EarlyExitClassifier.from_pretrained(made)


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_device(folder: Path, device: Any) -> None:
    """By name or as PyTorch has it."""
    assert EarlyExitClassifier.from_pretrained(folder, device=device).predict(["w1"]).labels


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", "", "cpu:x", 0.5, torch.device("cuda:77")])
def test_a_device_that_cannot_be_used(folder: Path, device: Any) -> None:
    """Unknown, absent or unable to compute: told before the model is loaded, in one line."""
    with pytest.raises(ValueError) as caught:
        EarlyExitClassifier.from_pretrained(folder / "nowhere", device=device)
    assert str(caught.value).startswith(f"device: {device!r} cannot be used: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [None, 3, b"models/deebert"])
def test_a_model_that_is_no_name(model: Any) -> None:
    """Neither text nor path: a TypeError, which says what is expected."""
    with pytest.raises(TypeError, match=f"model: {model!r}; expected a folder, or owner/name@commit"):
        EarlyExitClassifier.from_pretrained(model)


def test_a_path_may_start_at_home(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` is the home folder wherever a folder is given, as text or as a path; one that nobody has is told."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_metrics(tmp_path / "metrics", EarlyExitClassifier.from_pretrained(folder))
    EarlyExitClassifier.from_pretrained(folder).save_pretrained("~/one")
    EarlyExitClassifier.from_pretrained("~/one").save_pretrained(Path("~/two"), metrics="~/metrics")
    assert EarlyExitClassifier.from_pretrained(Path("~/two")).folder == tmp_path / "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics", "one", "two"]
    with pytest.raises(UserError, match="~nobody-has-this-name/m: there is no such home folder"):
        EarlyExitClassifier.from_pretrained("~nobody-has-this-name/m")


def test_nothing_is_asked_of_a_network(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading, answering and saving open no connection; a folder that is not there is not looked for elsewhere."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    classifier = EarlyExitClassifier.from_pretrained(folder)
    assert len(classifier.predict(["w1"]).labels) == 1
    classifier.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match=r"no such folder .*; on the Hub expected owner/name@commit$"):
        EarlyExitClassifier.from_pretrained("google-bert/bert-base-uncased")


# What is there on Linux and macOS alone, and so neither modules nor functions that prediction may need.
ON_WINDOWS = """
import os, signal, sys
import torch, transformers.models.bert.modeling_bert  # which were made for this system
assert not any(name.startswith("deebert") for name in sys.modules)
sys.modules.update(dict.fromkeys(("fcntl", "grp", "pwd", "resource", "syslog", "termios")))
for name in ("register_at_fork", "fork", "posix_fallocate"):
    delattr(os, name)
del signal.SIGHUP
from deebert.classifier import EarlyExitClassifier
classifier = EarlyExitClassifier.from_pretrained(sys.argv[1])
classifier.save_pretrained(sys.argv[2])
print(*EarlyExitClassifier.from_pretrained(sys.argv[2]).predict(sys.argv[3:], threshold=0.6).labels)
"""


@pytest.mark.slow
def test_a_system_that_lacks_what_linux_has(tmp_path: Path, warm_python: Path) -> None:
    """Loading, saving and answering work where modules and functions are missing that Windows does not have."""
    folder = write_classifier(tmp_path)
    (tmp_path / "script.py").write_text(ON_WINDOWS)
    command = [warm_python, tmp_path / "script.py", folder, tmp_path / "copy", *sentences(5)]
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    expected = EarlyExitClassifier.from_pretrained(folder).predict(sentences(5), threshold=0.6)
    assert done.stdout.split() == expected.labels


def test_a_repository_of_the_hub(
    folder: Path, classifier: EarlyExitClassifier, hub_cache: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files at the named commit answer as the folder does, pickles stay there; next time no network is needed."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()} | {"README.md": b"card"}
    pickles = {"optimizer.pt": b"code", "old/model.safetensors": b"old"}
    with serve(Repo("models", "some/one", COMMIT, files | pickles)) as hub:
        hub_cache(hub.endpoint)
        fetched = EarlyExitClassifier.from_pretrained(f"some/one@{COMMIT}")
        with pytest.raises(UserError) as caught:
            EarlyExitClassifier.from_pretrained(f"some/one@{'0' * 40}")
    assert f"model some/one@{'0' * 40}: cannot be loaded" in str(caught.value) and "\n" not in str(caught.value)
    check_same(fetched.predict(sentences(), threshold=0.6), classifier.predict(sentences(), threshold=0.6))
    assert content_of(fetched.folder) == files

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    again = EarlyExitClassifier.from_pretrained(f"some/one@{COMMIT}")
    check_same(again.predict(["w1"]), classifier.predict(["w1"]))
    for revision in ("abc", "v1.0", "release-2"):  # a commit, a tag, a branch
        with pytest.raises(UserError, match=rf"model some/other@{revision}: cannot be loaded.*give a folder as model$"):
            EarlyExitClassifier.from_pretrained(f"some/other@{revision}")


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("config.json", None, "model: no model here (config.json is missing)"),
        ("config.json", b"{", "model: "),
        (RAMPS, None, f"a model without ramps ({RAMPS} is missing); `dvc repro` makes one in models/deebert"),
        (RAMPS, b"half", f"{RAMPS}: cannot be loaded"),
        ("model.safetensors", b"half", "model: cannot be loaded"),
        ("training.json", b"{", "training.json: not readable as JSON"),
        ("training.json", b"[]", "training.json: damaged: expected keys and values"),
    ],
)
def test_a_damaged_folder(folder: Path, tmp_path: Path, file: str, content: bytes | None, told: str) -> None:
    """A file that is missing or damaged is a UserError of one line that names the place."""
    EarlyExitClassifier.from_pretrained(folder).save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        EarlyExitClassifier.from_pretrained(tmp_path / "model")
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", RAMPS, "tokenizer.json", "training.json", ""])
def test_a_folder_that_must_not_be_read(folder: Path, tmp_path: Path, name: str) -> None:
    """That is what the line says, and not that something is missing there."""
    EarlyExitClassifier.from_pretrained(folder).save_pretrained(tmp_path / "model")  # all else may be read there
    with withheld(tmp_path / "model" / name), pytest.raises(UserError) as caught:
        EarlyExitClassifier.from_pretrained(tmp_path / "model")
    assert str(caught.value) == f"{tmp_path / 'model' / name}: cannot be read: Permission denied"


def test_others_can_read_a_saved_model(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """All of its files are as open as the umask leaves them."""
    before = os.umask(0o022)
    try:
        classifier.save_pretrained(tmp_path / "model")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()} == {0o644}


def test_a_model_can_be_saved_into_a_clone(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """Of a repository without a model or with a former one; what git keeps there stays."""
    clone = tmp_path / "clone"
    git = {".git/HEAD": b"ref: refs/heads/main", ".gitattributes": b"*.safetensors filter=lfs"}
    for name, content in git.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_bytes(content)
    for _ in range(2):
        classifier.save_pretrained(clone)
        saved = content_of(clone)
        assert saved.items() >= git.items()
        assert saved.items() >= content_of(classifier.folder).items()
        check_same(EarlyExitClassifier.from_pretrained(clone).predict(["w1"]), classifier.predict(["w1"]))
    (clone / "notes.md").write_bytes(b"mine")
    before = content_of(clone)
    with pytest.raises(UserError, match=r"holds notes.md, which is no part of the model"):
        classifier.save_pretrained(clone)
    assert content_of(clone) == before


@functools.cache
def weights_of(folder: Path) -> str:
    return fingerprint(DeeBert.load(folder)[0].state_dict())


def write_metrics(folder: Path, of: EarlyExitClassifier, task: str = "tiny") -> Path:
    """The metrics that a sweep of a model leaves, with a target of its own, which a card must show."""
    weights = weights_of(of.folder)
    metrics = {"task": task, "n": 50, "full_score": 0.9, "layers_saved_at": {"drop_2_0": 0.4321}}
    metrics |= {"threshold_at": {"drop_2_0": 0.2468}}
    write_json(folder / "sweep.json", metrics)
    choice = {"task": task, "n": 50, "cross_fitted_score_at": {"drop_2_0": 0.8765}}
    choice |= {"certified_confidence": 0.9, "certified_layers_saved_at": {}, "certified_threshold_at": {}}
    write_json(folder / "choice.json", choice)
    layers = {"task": task, "n": 50, "num_layers": LAYERS, "full_score": 0.9, "split": "validation", "weights": weights}
    layers["precision"] = "fp32"
    write_json(folder / "layers.json", layers)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_saved_model_answers_the_same(folder: Path, classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """The copy holds the same files and a card; it may be saved over itself; a card is kept until metrics come."""
    classifier.save_pretrained(str(tmp_path / "new" / "copy"))
    copy = EarlyExitClassifier.from_pretrained(str(tmp_path / "new" / "copy"))
    check_same(copy.predict(sentences(), threshold=0.6), classifier.predict(sentences(), threshold=0.6))
    saved = content_of(copy.folder)
    card = saved.pop("README.md")
    assert saved == content_of(folder)
    assert b"not given when this card was written" in card

    classifier.save_pretrained(copy.folder, metrics=write_metrics(tmp_path, classifier))
    told = (copy.folder / "README.md").read_text()
    assert "0.2468" in told and "not given" not in told
    EarlyExitClassifier.from_pretrained(copy.folder).save_pretrained(tmp_path / "third")
    assert (tmp_path / "third" / "README.md").read_text() == told
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "choice.json",
        "layers.json",
        "new",
        "sweep.json",
        "third",
    ]


def test_thresholds_that_somebody_has_measured_go_with_the_model(
    classifier: EarlyExitClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Into the card and for programs. A model without any takes their place, and a line says so."""
    known = classifier.thresholds(write_metrics(tmp_path / "metrics", classifier))
    known = replace(known, split="fresh.csv", samples="0123456789ab", certified_changed=(Certified(0.02, 0.125, 0.4),))
    (tmp_path / "found.json").write_bytes(known.to_bytes())
    classifier.save_pretrained(tmp_path / "model", tmp_path / "found.json")
    assert EarlyExitClassifier.from_pretrained(tmp_path / "model").thresholds() == known
    card = (tmp_path / "model" / "README.md").read_text()
    assert "on 50 samples of fresh.csv" in card and "| 2 | 0.125 | 40.00 % |" in card and "## Speed" not in card
    assert not caplog.messages
    classifier.save_pretrained(tmp_path / "model")
    path = tmp_path / "model" / "thresholds.json"
    assert not path.exists() and caplog.messages == [f"{path}: is replaced by a model that comes without metrics"]


def test_texts_that_are_cut_are_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the number of tokens that are read; a text that just fits is not cut."""
    loaded = EarlyExitClassifier.from_pretrained(folder)
    most = loaded._tokenizer.model_max_length
    fits = " ".join(["w1"] * (most - 2))  # beside the two tokens around it
    loaded.predict([fits])
    assert not caplog.messages
    for _ in range(2):
        loaded.predict([fits, f"{fits} w1", f"{fits} w2"])
    assert caplog.messages == [f"a text has more than {most} tokens, and is cut there; so will others be, untold"]


def test_what_is_saved_is_what_was_loaded(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the folder was replaced since or is gone, though one works elsewhere now, and though it has answered."""
    original = content_of(folder)
    shutil.copytree(folder, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    loaded = EarlyExitClassifier.from_pretrained("model")
    answers = loaded.predict(sentences())
    for file in Path("model").iterdir():
        file.write_bytes(bytes(file.stat().st_size))
        file.write_bytes(b"of another run")
    loaded.save_pretrained("replaced")
    with pytest.raises(UserError, match="the model was loaded from there"):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        loaded.save_pretrained("../model")
    shutil.rmtree(tmp_path / "model")
    for name in ("gone", "model"):
        loaded.save_pretrained(tmp_path / name)
    for name in ("replaced", "gone", "model"):
        saved = content_of(tmp_path / name)
        del saved["README.md"]
        assert saved == original
    check_same(loaded.predict(sentences()), answers)


def test_rounded_weights_are_not_saved(folder: Path, tmp_path: Path) -> None:
    """In bf16 the weights are no longer those of the file, which is told before anything is written."""
    with pytest.raises(ValueError, match="save_pretrained: loaded in bf16, rounded; expected precision='fp32'"):
        EarlyExitClassifier.from_pretrained(folder, precision="bf16").save_pretrained(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("README.md", b"# My thesis", "README.md: somebody wrote or edited it, and it would be lost"),
        ("config.json", b"{}", "mine: holds config.json but no ramps.safetensors; expected an empty folder or a saved"),
        ("notes.md", b"mine", "mine: holds notes.md, which is no part of the model"),
    ],
)
def test_nobodys_files_are_lost(
    classifier: EarlyExitClassifier, tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    """A folder with a file that is not of a saved model is left as it is."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(told)):
        classifier.save_pretrained(tmp_path / "mine")
    assert content_of(tmp_path) == {f"mine/{name}": content}


def test_an_edited_card_is_not_lost(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """Not under another model, nor under new metrics; it goes with the model when that is saved elsewhere or again."""
    metrics = write_metrics(tmp_path / "metrics", classifier)
    classifier.save_pretrained(tmp_path / "model", metrics)
    classifier.save_pretrained(tmp_path / "model")
    card = tmp_path / "model" / "README.md"
    card.write_text(card.read_text() + "Not for film critics.")
    before = content_of(tmp_path)
    for given in (None, metrics):
        with pytest.raises(UserError, match=r"README.md: somebody wrote or edited it.*expected it to be moved away$"):
            classifier.save_pretrained(tmp_path / "model", given)
    assert content_of(tmp_path) == before
    loaded = EarlyExitClassifier.from_pretrained(tmp_path / "model")
    for _ in range(2):
        loaded.save_pretrained(tmp_path / "copy")
        assert content_of(tmp_path / "copy") == content_of(tmp_path / "model")


def test_folders_beside_the_models_files_are_left_behind(classifier: EarlyExitClassifier, tmp_path: Path) -> None:
    """A model that came as a git clone can be saved; its history is not copied."""
    classifier.save_pretrained(tmp_path / "clone")
    (tmp_path / "clone" / ".git").mkdir()
    EarlyExitClassifier.from_pretrained(tmp_path / "clone").save_pretrained(tmp_path / "copy")
    assert content_of(tmp_path / "copy") == content_of(tmp_path / "clone")


@pytest.mark.parametrize(
    ("where", "metrics", "told"),
    [
        ("model", None, "model: the model was loaded from there; expected another folder"),
        ("model/../model", None, "the model was loaded from there"),
        ("file", None, "file: cannot be written: Not a directory"),
        ("file/copy", None, "file/copy: cannot be written: Not a directory"),
        ("mine", None, "mine: holds thesis.txt, which is no part of the model; expected an empty folder"),
        (".", None, "holds damaged, which is no part of the model"),
        ("copy", "nowhere", "nowhere: no such file or folder; `dvc repro` makes a folder, `deebert measure` a file"),
        ("copy", "other", "other/layers.json: metrics of another model: task RTE; expected tiny, the model's"),
        ("copy", "old", "old/choice.json: has no cross_fitted_score_at; `dvc repro` makes it"),
        ("copy", "damaged", "damaged/sweep.json: not readable as JSON"),
        ("copy", "list", "list/sweep.json: expected figures by name, found []; `dvc repro` makes it"),
        ("copy", "half", "half/benchmark.json: has no n;"),
    ],
)
def test_saving_that_cannot_be(
    classifier: EarlyExitClassifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    metrics: str | None,
    told: str,
) -> None:
    """One line says why; nothing is written, and nobody's files are lost."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    for name in ("mine", "other", "old", "damaged", "list", "half"):
        Path(name).mkdir()
    Path("mine/thesis.txt").write_text("mine")
    write_metrics(Path("other"), classifier, task="RTE")
    old = json.loads((write_metrics(Path("old"), classifier) / "choice.json").read_text())
    del old["cross_fitted_score_at"]
    write_json(Path("old/choice.json"), old)
    (write_metrics(Path("damaged"), classifier) / "sweep.json").write_text("{")
    (write_metrics(Path("list"), classifier) / "sweep.json").write_text("[]")
    write_json(write_metrics(Path("half"), classifier) / "benchmark.json", {"task": "tiny"})
    classifier.save_pretrained("model")
    loaded = EarlyExitClassifier.from_pretrained("model")
    before = content_of(tmp_path)
    with pytest.raises(UserError) as caught:
        loaded.save_pretrained(where, metrics)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert content_of(tmp_path) == before
    assert not Path("copy").exists()
