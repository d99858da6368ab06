"""Three ways, one answer: live exit one at a time, live in batches, and the rule on saved logits."""

import copy
import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deebert.analysis.layer_thresholds import fit_layer_thresholds
from deebert.data.encoded import Encoded
from deebert.encoders.interface import Layer
from deebert.exits.criteria import Consistency, Criterion, Entropy, LayerThresholds
from deebert.exits.rule import entropy
from deebert.exits.table import CRITERIA
from deebert.inference import engine as engine_module
from deebert.inference import packs
from deebert.inference.engine import FULL_DEPTH, Answers, Engine
from deebert.inference.packs import Layout, Pack, PackedBackbone
from deebert.inference.precisions import Rounding
from deebert.model import DeeBert
from deebert.ramps import KINDS, PoolerRamps
from tests import tiny

LAYERS, WIDTH, LABELS = 4, 16, 3
TIE = 1e-4  # nats; an entropy so near a threshold may fall to either side of it by rounding
families = pytest.mark.parametrize("family", tiny.FAMILIES)

_made: dict[tuple[str, int, str], tuple[DeeBert, Engine]] = {}


def made(family: str, seed: int = 0, kind: str = "pooler") -> tuple[DeeBert, Engine]:
    """A random model with outspoken ramps, and an engine on a copy of it."""
    if (family, seed, kind) not in _made:
        models = []
        for _ in range(2):
            backbone = tiny.model(family, seed=seed, layers=LAYERS, width=WIDTH, labels=LABELS)
            torch.manual_seed(seed)
            ramps = KINDS[kind](LAYERS - 1, WIDTH, LABELS)
            with torch.no_grad():
                ramps.out_weight.mul_(6)
            models.append(DeeBert(backbone, ramps).eval())
        _made[family, seed, kind] = models[0], Engine(models[1])
    return _made[family, seed, kind]


def sentences(family: str, lengths: list[int], seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    ids = [rng.integers(2, tiny.VOCAB_SIZE, length).tolist() for length in lengths]
    types = [rng.integers(0, 2, length).tolist() for length in lengths] if family == "bert" else None
    return Encoded.of(ids, types)


def offline(model: DeeBert, encoded: Encoded) -> torch.Tensor:
    """Logits (N, L, C) of every head by the padded forward pass, one sentence at a time."""
    with torch.inference_mode():
        rows = range(len(encoded))
        return torch.cat([model(**encoded.padded(np.array([row]), 1, torch.device("cpu"))) for row in rows])


def in_batches(engine: Engine, encoded: Encoded, criterion: Criterion, size: int) -> Answers:
    parts = [engine.answer(encoded[i : i + size], criterion) for i in range(0, len(encoded), size)]
    return Answers(*(np.concatenate(arrays) for arrays in zip(*(vars(part).values() for part in parts), strict=True)))


def listen(layer: Layer, name: str, hear: Callable[[torch.Tensor], object]) -> None:
    """Let `hear` have what the layer's linear map `name` reads."""
    product = getattr(layer, name)
    setattr(layer, name, lambda states: (hear(states), product(states))[1])


def assert_same(answers: Answers, logits: torch.Tensor, layers: torch.Tensor, where: np.ndarray | None = None) -> None:
    """The answers are those of the heads at `layers`, for the samples `where` true (all if None)."""
    where = np.ones(len(layers), dtype=bool) if where is None else where
    np.testing.assert_array_equal(answers.exit_layers[where], layers.numpy()[where])
    expected = logits[torch.arange(len(layers)), layers - 1].numpy()
    np.testing.assert_allclose(answers.logits[where], expected[where], atol=1e-4)
    np.testing.assert_array_equal(answers.logits[where].argmax(axis=1), expected[where].argmax(axis=1))


@families
@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    first_tokens_first=st.sampled_from([1, 10**9]),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    thresholds=st.one_of(
        st.floats(0, 1.2), st.lists(st.floats(0, 1.2), min_size=LAYERS - 1, max_size=LAYERS - 1).map(tuple)
    ),
    size=st.integers(1, 12),
    pack_tokens=st.integers(1, 60),
    window_tokens=st.integers(1, 120),
    seed=st.integers(0, 3),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_three_ways_one_answer(
    family: str,
    first_tokens_first: int,
    lengths: list[int],
    thresholds: float | tuple[float, ...],
    size: int,
    pack_tokens: int,
    window_tokens: int,
    seed: int,
    kind: str,
) -> None:
    """One at a time, in batches and by the offline rule, samples leave at the same layer with the same answer."""
    model, engine = made(family, seed, kind)
    encoded = sentences(family, lengths, seed)
    logits = offline(model, encoded)
    criterion = LayerThresholds(thresholds, 0.0) if isinstance(thresholds, tuple) else Entropy(thresholds)
    limits = torch.tensor(thresholds if isinstance(thresholds, tuple) else [thresholds] * (LAYERS - 1))
    clear = ~((entropy(logits)[:, :-1] - limits).abs() < TIE).any(dim=1).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "FIRST_TOKENS_FIRST", first_tokens_first)
        patch.setattr(engine_module, "PACK_TOKENS", pack_tokens)
        patch.setattr(engine_module, "WINDOW_TOKENS", window_tokens)
        layers = criterion.exit_layers(logits)
        for answers in (engine.answer(encoded, criterion), in_batches(engine, encoded, criterion, size)):
            assert_same(answers, logits, layers, clear)
        assert_same(in_batches(engine, encoded, criterion, 1), logits, layers, clear)


def some_settings(name: str, logits: torch.Tensor) -> list[Criterion]:
    """Some settings of a criterion of the table, for the model of (N, L, C) logits."""
    if grid := CRITERIA[name].grid:
        return list(grid(LAYERS, LABELS, 6))
    if name == "entropy":
        return [Entropy(threshold) for threshold in (0.0, 0.3, 0.6, 0.9)]
    array = logits.numpy()
    if name == "consistency":
        return [Consistency.fitted(array, threshold) for threshold in (0.0, 0.3, 0.4, 0.5, 0.6, 1.0)]
    assert name == "layer_thresholds"
    return fit_layer_thresholds(array, array[:, -1].argmax(axis=1), "accuracy", [0.3, 0.6, 0.9], [1.0, 20.0])


@functools.cache
def eighty(family: str) -> tuple[Encoded, torch.Tensor]:
    """80 sentences of many lengths, and their logits (80, L, C)."""
    encoded = sentences(family, [int(n) for n in np.random.default_rng(5).integers(2, 20, 80)])
    return encoded, offline(made(family)[0], encoded)


@families
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_live_as_offline(family: str, name: str) -> None:
    """Every criterion of the table gives live what it gives on saved logits, at any setting, while batches shrink."""
    _, engine = made(family)
    encoded, logits = eighty(family)
    depths = set()
    for criterion in some_settings(name, logits):
        assert criterion.name == name
        layers = criterion.exit_layers(logits)
        depths.add(len(set(layers.tolist())))
        assert_same(engine.answer(encoded, criterion), logits, layers)
        assert_same(in_batches(engine, encoded, criterion, 7), logits, layers)
    assert max(depths) > 1, "all leave at one layer by every setting, so memory would not matter"


@families
@pytest.mark.parametrize("count", [1, 2, 70])
@pytest.mark.parametrize("equal", [True, False])
def test_both_ends(family: str, count: int, equal: bool) -> None:
    """At threshold 0 all answer at layer L, above ln C all at layer 1; lengths equal or not, one sample or many."""
    model, engine = made(family)
    encoded = sentences(family, [9] * count if equal else [2 + i % 17 for i in range(count)])
    logits = offline(model, encoded)
    assert_same(engine.answer(encoded, Entropy(0.0)), logits, torch.full((count,), LAYERS))
    assert_same(engine.answer(encoded, Entropy(1.2)), logits, torch.full((count,), 1))


@families
def test_one_survivor(family: str) -> None:
    """One sample of many goes on alone and gets its own answer."""
    model, engine = made(family)
    encoded = sentences(family, [3 + i % 11 for i in range(80)], seed=8)
    logits = offline(model, encoded)
    first = entropy(logits)[:, 0].sort().values
    threshold = float((first[-2] + first[-1]) / 2)
    criterion = LayerThresholds((threshold, *[0.0] * (LAYERS - 2)), 0.0)
    layers = criterion.exit_layers(logits)
    assert layers.tolist().count(LAYERS) == 1
    assert_same(engine.answer(encoded, criterion), logits, layers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 70])
def test_a_ramp_that_is_dropped_is_not_run(kind: str, count: int) -> None:
    """A ramp whose own threshold is 0 is never computed, one at a time or first tokens first; the others are."""
    model = DeeBert(
        tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS), KINDS[kind](LAYERS - 1, WIDTH, LABELS)
    )
    run: list[int] = []
    ramp = model.ramps.ramp
    model.ramps.ramp = lambda layer, states: (run.append(layer), ramp(layer, states))[1]
    engine = Engine(model)
    thresholds = [1e-9 if layer % 2 else 0.0 for layer in range(1, LAYERS)]
    engine.answer(sentences("bert", [5] * count), LayerThresholds(tuple(thresholds), 0.0))
    assert run == [layer for layer in range(1, LAYERS) if layer % 2]
    run.clear()
    engine.answer(sentences("bert", [5] * count), Entropy(0.0))
    assert run == []


def test_nothing_to_answer() -> None:
    """No samples, no answers, no error."""
    answers = made("bert")[1].answer(Encoded.of([]), Entropy(0.5))
    assert answers.logits.shape == (0, LABELS) and answers.exit_layers.shape == (0,)


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_logits_of_any_size(size: float) -> None:
    """Ramps whose logits are +-1e4 are sure, not NaN: all leave at layer 1 by any threshold above 0."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=2)
    ramps = PoolerRamps(LAYERS - 1, WIDTH, 2)
    with torch.no_grad():
        ramps.out_weight.zero_()
        ramps.out_bias.copy_(torch.tensor([size, -size]).expand(LAYERS - 1, 2))
    engine = Engine(DeeBert(backbone, ramps))
    answers = engine.answer(sentences("bert", [5, 7, 7]), Entropy(1e-6))
    assert answers.exit_layers.tolist() == [1, 1, 1]
    assert answers.logits.argmax(axis=1).tolist() == [0 if size > 0 else 1] * 3


def test_ties_stay() -> None:
    """A ramp whose logits are equal has entropy ln C, which is not below a threshold of ln C."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=2)
    ramps = PoolerRamps(LAYERS - 1, WIDTH, 2)
    with torch.no_grad():
        ramps.out_weight.zero_()
    engine = Engine(DeeBert(backbone, ramps))
    tie = float(entropy(torch.zeros(2)))
    encoded = sentences("bert", [5, 6])
    assert engine.answer(encoded, Entropy(tie)).exit_layers.tolist() == [LAYERS] * 2
    assert (
        engine.answer(encoded, Entropy(float(np.nextafter(np.float32(tie), np.float32(1))))).exit_layers.tolist()
        == [1] * 2
    )


@families
def test_padding_token_inside_a_text(family: str) -> None:
    """A text that holds the padding token gets the positions, and so the answer, that Hugging Face's forward gives."""
    model, engine = made(family)
    encoded = sentences(family, [12, 12, 9], seed=2)
    for start in encoded.offsets[:-1]:
        encoded.input_ids[[start + 4, start + 7]] = 1  # [PAD]
    logits = offline(model, encoded)
    assert_same(engine.answer(encoded, FULL_DEPTH), logits, torch.full((3,), LAYERS))


def test_leavers_cost_nothing_more() -> None:
    """After all samples have left no deeper layer runs, and the plain backbone runs no ramp."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS)
    model = DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS))
    engine = Engine(model)
    calls: list[str] = []
    for number, layer in enumerate(engine._packed.layers, start=1):
        listen(layer.layer, "key", lambda _, number=number: calls.append(f"layer {number}"))
    ramp = model.ramps.ramp
    model.ramps.ramp = lambda layer, first: (calls.append(f"ramp {layer}"), ramp(layer, first))[1]
    encoded = sentences("bert", [5, 9])
    engine.answer(encoded, Entropy(1.2))
    assert calls == ["layer 1", "ramp 1"]
    calls.clear()
    engine.answer(encoded, FULL_DEPTH)
    assert calls == [f"layer {number}" for number in range(1, LAYERS + 1)]


@families
def test_first_tokens_only_in_the_last_layer(family: str) -> None:
    """The last layer's feed-forward sees one token of each sentence, ramps or not."""
    backbone = tiny.model(family, layers=LAYERS, width=WIDTH, labels=LABELS)
    engine = Engine(DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS)))
    tokens: list[int] = []
    listen(engine._packed.layers[-1].layer, "up", lambda states: tokens.append(len(states)))
    engine.answer(sentences(family, [5, 9, 9]), FULL_DEPTH)
    assert sum(tokens) == 3


def test_memory_does_not_grow_with_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many samples there are, no more than a window's tokens are in work at a time."""
    monkeypatch.setattr(engine_module, "WINDOW_TOKENS", 64)
    monkeypatch.setattr(engine_module, "PACK_TOKENS", 32)
    engine = made("bert")[1]
    seen = []
    run = Engine._run
    monkeypatch.setattr(
        Engine,
        "_run",
        lambda self, packs, *rest: (seen.append(sum(len(p.hidden) for p in packs)), run(self, packs, *rest))[1],
    )
    engine.answer(sentences("bert", [8] * 200), Entropy(0.5))
    assert len(seen) == 25 and max(seen) <= 64


@functools.cache
def int8_alone(family: str) -> tuple[Engine, Encoded, np.ndarray]:
    """An engine in int8, sentences, and what it says (N, L, C) of each alone."""
    engine = Engine(copy.deepcopy(made(family)[0]), "int8")
    encoded = sentences(family, [5, 9, 9, 17, 3, 1, 25] * 12, seed=4)
    return engine, encoded, np.concatenate([engine.all_logits(encoded[i]) for i in range(len(encoded))])


@pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
@pytest.mark.parametrize("first_tokens_first", [1, 10**9])
def test_company_does_not_matter_in_int8(family: str, first_tokens_first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In int8 a sentence's answer is the same, to float32's rounding, alone, in a pack, and live beside any others.

    Scales are a token's own. But a state half way between two whole numbers falls to either side by its last bit, and
    attention with a bias gives last bits by its company. So few sentences may differ by what one step of a state makes.
    """
    monkeypatch.setattr(engine_module, "FIRST_TOKENS_FIRST", first_tokens_first)
    engine, encoded, alone = int8_alone(family)
    criterion = Entropy(float(Entropy.read(torch.from_numpy(alone[:, 0])).median()))  # half leave at layer 1
    packed, answers = engine.all_logits(encoded), engine.answer(encoded, criterion)
    assert 0 < np.mean(answers.exit_layers < LAYERS) < 1
    live = alone[np.arange(len(alone)), answers.exit_layers - 1]
    for found, expected in ((packed, alone), (answers.logits, live)):
        difference = np.abs(found - expected).reshape(len(encoded), -1).max(axis=1)
        assert np.mean(difference < 1e-5) > 0.9 and difference.max() < 0.005
    expected = criterion.exit_layers(torch.from_numpy(alone)).numpy()
    assert np.mean(answers.exit_layers == expected) > 0.95


@pytest.mark.parametrize("length", [1, 2, 4, 33, 65])
def test_int8_states_are_the_same_bits_either_way(length: int) -> None:
    """A layer's output of all tokens at once is that of the first tokens and then the others, bit for bit."""
    backbone = tiny.model("bert", layers=1, width=64, labels=2)
    layer = PackedBackbone(backbone, "int8").layers[0]
    torch.manual_seed(0)
    pack = Pack(torch.randn(5 * length, 64), Layout(np.full(5, length), np.arange(5)))
    with torch.inference_mode():
        keyed = layer.keys_values(pack)
        parts = layer.other_tokens(pack, keyed, layer.first_tokens([pack], [keyed]), np.ones(5, dtype=bool))
        assert torch.equal(layer(pack).hidden, parts.hidden)


def test_first_tokens_alone_are_finer_in_int8() -> None:
    """What is made of them is that of maps that are finer throughout; all others' is not, nor what attention gives."""
    backbone = tiny.model("bert", layers=1, width=64, labels=2)
    (layer,) = PackedBackbone(backbone, "int8").layers
    torch.manual_seed(0)
    pack = Pack(torch.randn(6, 64), Layout(np.array([4, 2]), np.arange(2)))
    is_first = torch.from_numpy(pack.layout.positions == 0)
    with torch.inference_mode():
        finer = layer._finer(pack.layout.starts)
        for name in layer.layer.linear_names:
            read = pack.hidden if name != "down" else torch.randn(6, backbone.config.intermediate_size)
            product = getattr(layer.layer, name)
            found, fine, plain = getattr(finer, name)(read), product(read, Rounding(torch.arange(6))), product(read)
            of_first = plain if name == "attention_out" else fine
            assert torch.equal(found[is_first], of_first[is_first]) and torch.equal(found[~is_first], plain[~is_first])
            assert not torch.equal(fine, plain)


def test_int8_is_near_fp32() -> None:
    """Logits of every head differ by a small part of their spread, and hardly any label changes."""
    encoded = sentences("bert", [6, 11, 24] * 30, seed=1)
    model, engine = made("bert")
    exact, found = engine.all_logits(encoded), Engine(copy.deepcopy(model), "int8").all_logits(encoded)
    assert 0 < np.abs(found - exact).mean() < 0.05 * exact.std()
    assert np.mean(found.argmax(axis=2) == exact.argmax(axis=2)) > 0.95


def test_bf16_reads_ramps_from_float32_states() -> None:
    """With bf16 layers a ramp still gets unrounded states: early states differ by less than bf16 resolves."""
    backbone = tiny.model("bert", layers=LAYERS, width=WIDTH, labels=LABELS)
    model = DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS))
    engine = Engine(model, precision="bf16")
    read: list[torch.Tensor] = []
    ramp = model.ramps.ramp
    model.ramps.ramp = lambda layer, first: (read.append(first), ramp(layer, first))[1]
    answers = engine.answer(sentences("bert", [6] * 70, seed=1), Entropy(1e-9))
    assert all(states.dtype == torch.float32 for states in read)
    assert any((states.bfloat16().float() != states).any() for states in read)
    assert answers.logits.dtype == np.float32
    exact = offline(made("bert")[0], sentences("bert", [6] * 70, seed=1))[:, -1].numpy()
    assert np.abs(answers.logits - exact).mean() < 0.1 * np.abs(exact).mean(), "bf16 is near, if not equal"


@families
@pytest.mark.parametrize(
    ("pack_tokens", "expected"),
    [(1, [[12], [9], [5], [3], [3], [1]]), (12, [[12], [9], [5, 3, 3, 1]]), (40, [[12, 9, 5, 3, 3, 1]])],
)
def test_all_logits_keep_the_order(
    family: str, pack_tokens: int, expected: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row n of `all_logits` is what the model gives sample n alone, whatever the packs, which are full and no more."""
    monkeypatch.setattr(packs, "PACK_TOKENS", pack_tokens)
    lengths: list[list[int]] = []
    embed = PackedBackbone.embed

    def noted(self: PackedBackbone, encoded: Encoded, rows: np.ndarray) -> Pack:
        lengths.append(encoded.lengths[rows].tolist())
        return embed(self, encoded, rows)

    monkeypatch.setattr(PackedBackbone, "embed", noted)
    model, engine = made(family)
    encoded = sentences(family, [5, 3, 9, 3, 12, 1])
    logits = engine.all_logits(encoded)
    assert lengths == expected
    assert logits.shape == (6, LAYERS, LABELS) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, offline(model, encoded).numpy(), atol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2"])
def test_a_callers_autocast_changes_nothing(family: str, precision: str) -> None:
    """The engine has a precision of its own, to which its thresholds belong: answers are the same bit for bit."""
    engine, encoded = Engine(copy.deepcopy(made(family)[0]), precision), eighty(family)[0][:9]
    assert engine.device == torch.device("cpu")
    for criterion in (FULL_DEPTH, Entropy(0.9)):
        expected, logits = engine.answer(encoded, criterion), engine.all_logits(encoded)
        with torch.autocast("cpu", torch.bfloat16):
            found = engine.answer(encoded, criterion)
            np.testing.assert_array_equal(engine.all_logits(encoded), logits)
        np.testing.assert_array_equal(found.logits, expected.logits)
        np.testing.assert_array_equal(found.exit_layers, expected.exit_layers)
