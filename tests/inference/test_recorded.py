"""The way of a GPU gives the answers of the other way. What only a GPU has, attention and graphs, is stood in for."""

import contextlib
import copy
import functools
import itertools
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from deebert.encoders.registry import family_of
from deebert.exits.criteria import Criterion, Entropy, LayerThresholds, Patience
from deebert.exits.rule import entropy
from deebert.exits.table import CRITERIA
from deebert.inference import at_once, recorded
from deebert.inference import engine as engine_module
from deebert.inference.engine import FULL_DEPTH, Engine
from deebert.inference.precisions import Bf16Linear
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from tests import tiny
from tests.inference.test_engine import (
    LABELS,
    LAYERS,
    TIE,
    WIDTH,
    assert_same,
    eighty,
    made,
    offline,
    sentences,
    some_settings,
)

AT_ONCE = ["bert", "roberta", "distilbert", "electra", "xlm-roberta", "camembert"]


def slow_attention(
    queries: Tensor, keys: Tensor, values: Tensor, of_queries: Tensor, of_keys: Tensor, most: int, longest: int
) -> Tensor:
    """What `varlen_attn` is documented to give, a sentence at a time."""
    assert of_queries.dtype == of_keys.dtype == torch.int32
    assert int(of_queries.diff().max()) <= most and int(of_keys.diff().max()) <= longest
    contexts = [queries.new_empty(0, *queries.shape[1:])]
    for asking, asked in zip(*(itertools.pairwise(each.tolist()) for each in (of_queries, of_keys)), strict=True):
        query, key, value = queries[slice(*asking)], keys[slice(*asked)], values[slice(*asked)]
        if len(key):
            context = scaled_dot_product_attention(*(each.transpose(0, 1) for each in (query, key, value)))
            contexts.append(context.transpose(0, 1))
        else:
            contexts.append(torch.full_like(query, torch.nan))
    unasked = queries[int(of_queries[-1]) :]
    return torch.cat([*contexts, torch.full_like(unasked, torch.nan)])  # what the kernel leaves as the memory was


class DoneAgain:
    """Graphs without a GPU: the work is done again, and all memory is seen by both."""

    def __init__(self, device: torch.device) -> None: ...

    @staticmethod
    def record(work: Callable[[], None]) -> Callable[[], None]:
        work()
        return work

    aside = contextlib.nullcontext

    def join(self) -> None: ...

    @staticmethod
    def seen_by_both(count: int) -> tuple[np.ndarray, Tensor]:
        memory = torch.zeros(count, dtype=torch.int64)
        return memory.numpy(), memory


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "varlen_attn", slow_attention)
    monkeypatch.setattr(recorded, "CudaGraphs", DoneAgain)


@functools.cache
def engine_of(family: str) -> Engine:
    """An engine that believes to be on a GPU."""
    return on_gpu(copy.deepcopy(made(family)[0]))


def on_gpu(model: DeeBert) -> Engine:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at_once, "runs_on", lambda device, precision, layers: True)
        patch.setattr(recorded, "CudaGraphs", DoneAgain)
        return Engine(model)


def fresh() -> DeeBert:
    """A model that has not run, the same each time; transformers would else have left in it what cannot be pickled."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS)
    return DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS)).eval()


def test_it_is_for_a_gpu_and_bf16_and_plain_attention() -> None:
    """Whoever has positions or biases in attention goes the other way, as do other precisions and processors."""
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    for family in tiny.EVERY_FAMILY:
        backbone = tiny.model(family)
        layers = family_of(backbone).layers(backbone)
        assert at_once.runs_on(gpu, "bf16", layers) == (family in AT_ONCE), family
        assert not at_once.runs_on(gpu, "fp32", layers)
        assert not at_once.runs_on(cpu, "bf16", layers)


@pytest.mark.parametrize("name", [*CRITERIA])
def test_each_criterion_decides_as_on_saved_logits(name: str) -> None:
    """Criteria that remember included: samples leave where the rule on saved logits says, with the same answers."""
    engine = engine_of("bert")
    encoded, logits = eighty("bert")
    for criterion in some_settings(name, logits):
        assert_same(engine.answer(encoded, criterion), logits, criterion.exit_layers(logits))
    assert_same(engine.answer(encoded, FULL_DEPTH), logits, torch.full((len(logits),), LAYERS))
    np.testing.assert_allclose(engine.all_logits(encoded), logits.numpy(), atol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    threshold=st.floats(0, 1.2),
    name=st.sampled_from(["entropy", "patience", "layer_thresholds"]),
    ramps_alone=st.booleans(),
    window_tokens=st.integers(2, 120),
)
def test_any_lengths(lengths: list[int], threshold: float, name: str, ramps_alone: bool, window_tokens: int) -> None:
    """Sentences of one token included, in windows of any size; what other calls left in the memory does not matter."""
    encoded = sentences("bert", lengths)
    logits = offline(made("bert")[0], encoded)
    some: dict[str, Criterion] = {
        "entropy": Entropy(threshold),
        "patience": Patience(1),
        "layer_thresholds": LayerThresholds((0.0, threshold) + (0.0,) * (LAYERS - 3), 0.0),  # other ramps are not run
    }
    clear = ~((entropy(logits)[:, :-1] - threshold).abs() < TIE).any(dim=1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "RECORDED_TOKENS", window_tokens)
        patch.setattr(recorded, "MANY_TOKENS", 0 if ramps_alone else recorded.MOST_TOKENS)
        assert_same(engine_of("bert").answer(encoded, some[name]), logits, some[name].exit_layers(logits), clear)


def test_it_is_shared_by_threads() -> None:
    """There is one memory for all calls; still each has its own answers."""
    engine = engine_of("bert")
    calls = [(sentences("bert", [3 + i, 9, 2], seed=i), Entropy(0.1 * i)) for i in range(8)]
    alone = [engine.answer(*call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for one, other in zip(alone * 4, pool.map(lambda call: engine.answer(*call), calls * 4), strict=True):
            np.testing.assert_array_equal(one.logits, other.logits)
            np.testing.assert_array_equal(one.exit_layers, other.exit_layers)


def test_what_the_program_has_made_pytorchs_default_does_not_matter() -> None:
    engine, encoded = on_gpu(fresh()), sentences("bert", [5, 3, 8])
    torch.set_default_dtype(torch.float64)
    try:
        found = engine.answer(encoded, Entropy(0.5))
    finally:
        torch.set_default_dtype(torch.float32)
    expected = on_gpu(fresh()).answer(encoded, Entropy(0.5))
    np.testing.assert_array_equal(found.logits, expected.logits)
    np.testing.assert_array_equal(found.exit_layers, expected.exit_layers)


def test_it_is_pickled_without_what_was_recorded() -> None:
    encoded = sentences("bert", [5, 3, 8])
    engine = on_gpu(fresh())
    expected = engine.answer(encoded, Entropy(0.5))
    received = pickle.loads(pickle.dumps(engine)).answer(encoded, Entropy(0.5))
    np.testing.assert_array_equal(received.logits, expected.logits)
    np.testing.assert_array_equal(received.exit_layers, expected.exit_layers)


def test_each_size_and_criterion_is_recorded_once() -> None:
    """Graphs of the latest few criteria are kept, so that memory does not grow with each new threshold."""
    made_graphs = []

    class Counted(DoneAgain):
        @staticmethod
        def record(work: Callable[[], None]) -> Callable[[], None]:
            made_graphs.append(work)
            return DoneAgain.record(work)

    engine = copy.copy(engine_of("bert"))
    assert engine.recorded
    engine.recorded = engine.recorded.with_graphs(Counted)
    encoded = sentences("bert", [7])
    engine.answer(encoded)
    assert len(made_graphs) == 1  # no ramp is run: one graph is the whole model
    engine.answer(sentences("bert", [6]))  # rounds up to the same size
    assert len(made_graphs) == 1
    for threshold in np.linspace(1e-9, 1e-6, 2 * recorded.CRITERIA_KEPT):
        engine.answer(encoded, Entropy(threshold))
    assert len(made_graphs) == 1 + 2 * recorded.CRITERIA_KEPT * LAYERS
    engine.answer(encoded, Entropy(1e-6))
    assert len(made_graphs) == 1 + 2 * recorded.CRITERIA_KEPT * LAYERS
    engine.answer(encoded)  # long out of use
    assert len(made_graphs) == 2 + 2 * recorded.CRITERIA_KEPT * LAYERS


def test_a_gpu_that_says_nothing_is_an_error() -> None:
    """Not a wait for ever."""

    class Silent(DoneAgain):
        @staticmethod
        def record(work: Callable[[], None]) -> Callable[[], None]:
            return lambda: None

        @staticmethod
        def is_idle() -> bool:
            return True

    engine = copy.copy(engine_of("bert"))
    assert engine.recorded
    engine.recorded = engine.recorded.with_graphs(Silent)
    with pytest.raises(RuntimeError, match="has not said what the ramp after layer 1 has left"):
        engine.answer(sentences("bert", [7, 3]), Entropy(0.5))


def test_queries_keys_and_values_are_one_product() -> None:
    """Their weights are held once: those of the three maps are parts of the joined one."""
    maps = [Bf16Linear(torch.nn.Linear(8, 6)) for _ in range(3)]
    for each in maps:
        each._weight, each._is_packed = each.weight(), False  # as on a GPU
    states = torch.randn(5, 8)
    apart = [each(states) for each in maps]
    joined = Bf16Linear.joined(maps)
    if joined._is_packed:
        joined._weight, joined._is_packed = joined.weight(), False
    torch.testing.assert_close(joined(states), torch.cat(apart, dim=1))
