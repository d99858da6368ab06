"""The way of a GPU gives the answers of the other way. What only a GPU has, attention and graphs, is stood in for."""

import contextlib
import copy
import functools
import itertools
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

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
from deebert.inference.cuda_graphs import CudaGraphs
from deebert.inference.engine import FULL_DEPTH, Engine
from deebert.inference.packs import cut_by_tokens
from deebert.inference.precisions import PRECISIONS, Bf16Linear
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

GPU = torch.device("cuda")
PADDED = ["mpnet", "deberta-v2"]  # their scores are not of contents alone


def slow_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    of_queries: Tensor,
    of_keys: Tensor,
    most: int,
    longest: int,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """What `varlen_attn` is documented to give, a sentence at a time. Queries are taken for the last tokens."""
    assert of_queries.dtype == of_keys.dtype == torch.int32
    assert int(of_queries.diff().max()) <= most and int(of_keys.diff().max()) <= longest
    contexts = [queries.new_empty(0, *queries.shape[1:])]
    for asking, asked in zip(*(itertools.pairwise(each.tolist()) for each in (of_queries, of_keys)), strict=True):
        query, key, value = queries[slice(*asking)], keys[slice(*asked)], values[slice(*asked)]
        if len(key):
            heads = [each.transpose(0, 1) for each in (query, key, value)]
            away = torch.arange(len(key)) - torch.arange(len(key) - len(query), len(key))[:, None]
            seen = torch.ones_like(away, dtype=torch.bool)
            if window_size != (-1, -1):
                seen = (away >= -window_size[0]) & (away <= window_size[1])
            context = scaled_dot_product_attention(*heads, attn_mask=seen)
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

    def wait(self) -> None: ...


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_once, "varlen_attn", slow_attention)
    monkeypatch.setattr(at_once, "multiplies", lambda *_: True)
    monkeypatch.setattr(recorded, "CudaGraphs", DoneAgain)


@functools.cache
def engine_of(family: str, precision: str = "bf16") -> Engine:
    """An engine that believes to be on a GPU. It still multiplies in float32, so that answers can be compared."""
    return on_gpu(copy.deepcopy(made(family)[0]), precision)


def on_gpu(model: DeeBert, precision: str = "bf16") -> Engine:
    attention_for = at_once.attention_for
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(at_once, "multiplies", lambda *_: True)
        patch.setattr(at_once, "attention_for", lambda _, __, *layers: attention_for(GPU, precision, *layers))
        patch.setattr(recorded, "CudaGraphs", DoneAgain)
        engine = Engine(model)
        assert engine.recorded
        return engine


def fresh() -> DeeBert:
    """A model that has not run, the same each time; transformers would else have left in it what cannot be pickled."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS)
    return DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS)).eval()


def test_which_attention_it_is() -> None:
    """PyTorch's kernel is for bf16 and scores of contents alone. On a CPU there is none for all lengths."""
    for family in tiny.EVERY_FAMILY:
        backbone = tiny.model(family)
        layers = family_of(backbone).layers(backbone)
        kind = at_once.Padded if family in PADDED else at_once.Varlen
        width = 16 * layers[0].num_heads
        assert type(at_once.attention_for(GPU, "bf16", layers, width)) is kind, family
        assert type(at_once.attention_for(GPU, "fp32", layers, width)) is at_once.Padded
        assert at_once.attention_for(torch.device("cpu"), "bf16", layers, width) is None


@pytest.mark.parametrize(
    ("head", "multiplies", "kind"),
    [(26, True, at_once.Padded), (264, True, at_once.Padded), (256, True, at_once.Varlen), (64, False, at_once.Padded)],
)
def test_what_the_kernel_refuses_is_padded(
    head: int, multiplies: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads of other widths than a multiple of 8 up to 256, and GPUs that do not multiply bf16 themselves."""
    monkeypatch.setattr(at_once, "multiplies", lambda *_: multiplies)
    backbone = tiny.model("bert")
    layers = family_of(backbone).layers(backbone)
    assert type(at_once.attention_for(GPU, "bf16", layers, head * layers[0].num_heads)) is kind


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_each_family_by_each_attention(family: str, precision: str) -> None:
    """Sentences that are longer than a window and shorter than one; no, some and all ramps that let somebody leave."""
    engine = engine_of(family, precision)
    encoded, logits = eighty(family)
    np.testing.assert_allclose(engine.all_logits(encoded), logits.numpy(), atol=1e-4)
    middle = float(entropy(logits)[:, :-1].median())
    for criterion in (FULL_DEPTH, Entropy(middle), Entropy(10.0)):
        clear = ~((entropy(logits)[:, :-1] - middle).abs() < TIE).any(dim=1).numpy()
        for part in (slice(None), slice(0, 1), slice(3, 10)):
            found, expected = engine.answer(encoded[part], criterion), criterion.exit_layers(logits[part])
            assert_same(found, logits[part], expected, clear[part])


class Unknown(DoneAgain):
    """Work without data. Whoever would wait for a number, or use the host's memory beside the GPU's, gets an error."""

    @staticmethod
    def seen_by_both(count: int) -> tuple[np.ndarray, Tensor]:
        return np.zeros(count, dtype=np.int64), torch.zeros(count, dtype=torch.int64, device="meta")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
def test_what_is_recorded_waits_for_nothing(family: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph would keep the answer to what the host had asked. Its work is the same whatever the data."""
    monkeypatch.undo()  # PyTorch's own attention tells its shapes
    model, encoded = copy.deepcopy(made(family)[0]).to("meta"), sentences(family, [12, 8])
    backbone, code = model.backbone, family_of(model.backbone)
    layers = code.layers(backbone)
    for layer in layers:
        layer.convert(PRECISIONS[precision])
        layer.join(PRECISIONS[precision].joined)
    monkeypatch.setattr(at_once, "multiplies", lambda *_: True)
    attention = at_once.attention_for(GPU, precision, layers, 16 * layers[0].num_heads)
    assert attention
    made_of = functools.partial(code.embed, backbone), attention, layers, model.head, backbone.config
    engine = recorded.Recorded(*made_of, torch.device("meta"), Unknown)
    monkeypatch.setattr(engine, "_look", lambda ramp: 2 * recorded._A_SAMPLE + 20)  # all stay
    inputs = code.inputs(backbone, encoded.input_ids.astype(np.int64), None, encoded.lengths)
    for criterion, graphs in ((FULL_DEPTH, 1), (Entropy(0.5), LAYERS), (Patience(1), LAYERS)):
        with torch.inference_mode(), pytest.raises(NotImplementedError, match="copy out of meta"):  # the answers
            engine.answer(inputs, encoded.lengths, criterion)
        assert len(engine._of_criteria[criterion].by_size) == graphs


@pytest.mark.parametrize("most_scores", [1, 2048, 2**23])
def test_padded_windows_are_bounded(most_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One long sentence does not make many short ones long, and all have their own answers."""
    monkeypatch.setattr(at_once, "MOST_SCORES", most_scores)
    engine = engine_of("mpnet")
    encoded, logits = eighty("mpnet")
    assert engine.recorded
    windows = [*engine.recorded.cut(encoded.lengths)]
    assert sorted(np.concatenate(windows)) == [*range(len(encoded))]
    for window in windows:
        padded = max(16, 1 << (int(encoded.lengths[window].max()) - 1).bit_length())
        assert len(window) == 1 or len(window) * padded**2 <= most_scores
    assert_same(engine.answer(encoded), logits, torch.full((len(logits),), LAYERS))
    np.testing.assert_allclose(engine.all_logits(encoded), logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", [*CRITERIA])
def test_each_criterion_decides_as_on_saved_logits(name: str) -> None:
    """Criteria that remember included: samples leave where the rule on saved logits says, with the same answers."""
    engine = engine_of("bert")
    encoded, logits = eighty("bert")
    for criterion in some_settings(name, logits):
        assert_same(engine.answer(encoded, criterion), logits, criterion.exit_layers(logits))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    threshold=st.floats(0, 1.2),
    name=st.sampled_from(["entropy", "patience", "layer_thresholds"]),
    ramps_alone=st.booleans(),
    window_tokens=st.integers(2, 120),
    family=st.sampled_from(["bert", "mpnet", "modernbert"]),
)
def test_any_lengths(
    lengths: list[int], threshold: float, name: str, ramps_alone: bool, window_tokens: int, family: str
) -> None:
    """Sentences of one token included, in windows of any size; what other calls left in the memory does not matter."""
    encoded = sentences(family, lengths)
    logits = offline(made(family)[0], encoded)
    some: dict[str, Criterion] = {
        "entropy": Entropy(threshold),
        "patience": Patience(1),
        "layer_thresholds": LayerThresholds((0.0, threshold) + (0.0,) * (LAYERS - 3), 0.0),  # other ramps are not run
    }
    clear = ~((entropy(logits)[:, :-1] - threshold).abs() < TIE).any(dim=1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        engine = engine_of(family)
        patch.setattr(recorded, "MANY_TOKENS", 0 if ramps_alone else recorded.MOST_TOKENS)
        cut = functools.partial(cut_by_tokens, np.arange(len(lengths)), max_tokens=window_tokens)
        patch.setattr(engine.recorded, "cut", cut)
        assert_same(engine.answer(encoded, some[name]), logits, some[name].exit_layers(logits), clear)


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


def test_each_size_and_criterion_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(recorded, "GRAPHS_KEPT", 2)  # of three sizes: what was used longest ago goes
    for length, is_new in ((20, True), (7, False), (40, True), (7, False), (20, True)):
        before = len(made_graphs)
        engine.answer(sentences("bert", [length]))
        assert (len(made_graphs) > before) is is_new, length


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


def test_a_call_that_is_broken_off_waits_for_its_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote later would be taken for the next call's."""
    waited = []

    class Waited(DoneAgain):
        def wait(self) -> None:
            waited.append(True)

    engine = copy.copy(engine_of("bert"))
    assert engine.recorded
    engine.recorded = engine.recorded.with_graphs(Waited)
    encoded = sentences("bert", [7, 3])
    expected = engine.answer(encoded, Entropy(0.5))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(engine.recorded, "_look", Mock(side_effect=KeyboardInterrupt))
        engine.answer(encoded, Entropy(0.5))
    assert waited == [True]
    np.testing.assert_array_equal(engine.answer(encoded, Entropy(0.5)).logits, expected.logits)


class Stream:
    """Of `torch.cuda`, as far as recording uses one: what it did goes into `done`."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.name, self.done = name, done

    def wait_stream(self, other: "Stream") -> None:
        self.done.append(f"{self.name} waits for {other.name}")


@pytest.mark.parametrize("fails", ["", "done", "recorded"])
@pytest.mark.parametrize("is_joined", [True, False])
def test_a_recording_that_fails_leaves_nothing_under_way(
    fails: str, is_joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its error is told and no other, all streams are waited for, and the next one gets another pool."""
    done: list[str] = []
    pools, runs = iter(range(9)), iter(("done", "recorded"))
    streams = iter([Stream("recording", done), Stream("aside", done)])
    current = [Stream("current", done)]

    class Graph:
        def capture_begin(self, pool: int, capture_error_mode: str) -> None:
            done.append(f"begin in {pool}")

        def capture_end(self) -> None:
            done.append("end")
            if fails:
                raise RuntimeError("this capture has failed")

        def replay(self) -> None: ...

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    fake = {
        "graph_pool_handle": lambda: next(pools),
        "Stream": lambda _: next(streams),
        "current_stream": lambda _: current[-1],
        "stream": on,
        "CUDAGraph": Graph,
    }
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    graphs = CudaGraphs(GPU)

    def work() -> None:
        with graphs.aside():
            pass
        if is_joined:
            graphs.join()
        if next(runs) == fails:
            raise torch.OutOfMemoryError("no memory")
        if not is_joined:
            graphs.join()

    if fails:
        with pytest.raises(torch.OutOfMemoryError, match="no memory"):
            graphs.record(work)
    else:
        assert graphs.record(work)
    assert done[-2:] == ["current waits for recording", "current waits for aside"]
    assert graphs._pool == (1 if fails == "recorded" else 0)
    if fails == "recorded":  # the block beside was joined, else the end itself would fail
        assert done[done.index("begin in 0") :].count("recording waits for aside") == 1
    assert ("end" in done) is (fails != "done")


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
