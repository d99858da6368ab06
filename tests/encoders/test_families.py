"""Every family's layers, packed, compute what transformers computes; and a new one is a file and nothing else."""

import copy
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, ErnieConfig

from deebert.data.encoded import Encoded
from deebert.encoders import families, registry
from deebert.encoders.loading import load_classifier
from deebert.exits.criteria import Entropy
from deebert.inference.engine import Engine
from deebert.model import DeeBert
from deebert.ramps import PoolerRamps
from tests import tiny

LAYERS, WIDTH, LABELS = 4, 16, 3
CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
few = settings(max_examples=10, deadline=None, derandomize=True)

_made: dict[str, tuple[DeeBert, Engine]] = {}


def made(family: str) -> tuple[DeeBert, Engine]:
    """A random model with outspoken ramps, and an engine on a copy of it; no test changes them."""
    if family not in _made:
        backbone = tiny.model(family, layers=LAYERS, width=WIDTH, labels=LABELS)
        torch.manual_seed(1)
        ramps = PoolerRamps(LAYERS - 1, WIDTH, LABELS)
        with torch.no_grad():
            ramps.out_weight.mul_(6)
        model = DeeBert(backbone, ramps).eval()
        _made[family] = model, Engine(copy.deepcopy(model), device=CPU)
    return _made[family]


def sentences(family: str, lengths: list[int], seed: int) -> Encoded:
    """Random ids, the padding token among them, and token types where the family reads them."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(1, tiny.VOCAB_SIZE, length).tolist() for length in lengths]
    types = [rng.integers(0, 2, length).tolist() for length in lengths] if family in tiny.TYPED else None
    return Encoded.of(ids, types)


def by_transformers(model: DeeBert, encoded: Encoded) -> np.ndarray:
    """Logits (N, L, C) by the model's own forward on one padded batch."""
    with torch.inference_mode():
        return model(**encoded.padded(np.arange(len(encoded)), 1, CPU)).numpy()


def test_every_file_is_a_family_that_is_tried() -> None:
    """The families are the files of the folder; the tests below go through all of them."""
    assert set(registry.FAMILIES) == set(tiny.EVERY_FAMILY)
    for name, module in registry.FAMILIES.items():
        assert importlib.import_module(module).FAMILY is registry.family_of(made(name)[0].backbone)


@each_family
@few
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_packed_layers_are_transformers_layers(family: str, lengths: list[int], seed: int) -> None:
    """On random ids and lengths, alone and in a pack, every head gives transformers' logits to 1e-5."""
    model, engine = made(family)
    encoded = sentences(family, lengths, seed)
    expected = by_transformers(model, encoded)
    np.testing.assert_allclose(engine.all_logits(encoded), expected, atol=1e-5)
    for i in range(len(encoded)):
        np.testing.assert_allclose(engine.all_logits(encoded[i])[0], expected[i], atol=1e-5)


@each_family
@pytest.mark.parametrize("count", [5, 80])
def test_early_exit_is_the_rule_on_transformers_logits(family: str, count: int) -> None:
    """Whether the first tokens go first or not, each sample leaves where the rule says, with that head's answer."""
    model, engine = made(family)
    rng = np.random.default_rng(count)
    encoded = sentences(family, rng.integers(1, 30, count).tolist(), seed=count)
    logits = by_transformers(model, encoded)
    first = Entropy.read(torch.from_numpy(logits[:, 0])).sort().values
    low = count // 2 - 1
    gap = low + int(first[low : low + 3].diff().argmax())  # about half leave at layer 1, and rounding changes none
    criterion = Entropy(float(first[gap : gap + 2].mean()))
    answers = engine.answer(encoded, criterion)
    expected = criterion.exit_layers(torch.from_numpy(logits)).numpy()
    assert len(set(expected)) > 1
    np.testing.assert_array_equal(answers.exit_layers, expected)
    np.testing.assert_allclose(answers.logits, logits[np.arange(count), expected - 1], atol=1e-5)


@each_family
def test_in_bf16_the_states_stay_float32(family: str) -> None:
    """Products in bf16 change logits a little; states stay in float32, which early ramps need."""
    model = made(family)[0]
    engine = Engine(copy.deepcopy(model), "bf16", CPU)
    encoded = sentences(family, [9, 9, 4, 17], seed=2)
    seen = []
    run = engine._packed.embed
    engine._packed.embed = lambda *args: (seen.append(run(*args)), seen[-1])[1]
    answered = engine.all_logits(encoded)
    assert {pack.hidden.dtype for pack in seen} == {torch.float32}
    expected = by_transformers(model, encoded)
    assert 0 < np.abs(answered - expected).max() < 0.25 * expected.std() * 6


DEBERTA: dict[str, dict[str, Any]] = {
    "projections of its own for positions": {"share_att_key": False},
    "content to position alone": {"pos_att_type": "c2p"},
    "position to content alone": {"pos_att_type": "p2c"},
    "a bucket for each distance": {"position_buckets": -1, "max_relative_positions": 12},
    "embeddings of positions without a norm": {"norm_rel_ebd": "none"},
    "scores of contents alone": {"relative_attention": False},
    "absolute positions, token types, narrow embeddings": {
        "position_biased_input": True,
        "type_vocab_size": 2,
        "embedding_size": WIDTH // 2,
    },
}


@pytest.mark.parametrize("changed", DEBERTA.values(), ids=DEBERTA)
def test_debertas_variants(changed: dict[str, Any]) -> None:
    """What version 2 may set otherwise gives transformers' logits as well, also if the first tokens go first."""
    backbone = tiny.model("deberta-v2", layers=LAYERS, width=WIDTH, labels=LABELS, **changed)
    model = DeeBert(backbone, made("deberta-v2")[0].ramps).eval()
    lengths = np.random.default_rng(4).integers(1, 30, 80).tolist()
    encoded = sentences("bert" if "type_vocab_size" in changed else "deberta-v2", lengths, seed=4)
    expected = by_transformers(model, encoded)
    engine = Engine(copy.deepcopy(model), device=CPU)
    np.testing.assert_allclose(engine.all_logits(encoded), expected, atol=1e-5)
    answers = engine.answer(encoded, Entropy(0.0))  # nothing leaves early, but all ramps are asked
    np.testing.assert_allclose(answers.logits, expected[:, -1], atol=1e-5)


@pytest.mark.parametrize("kind", ["c2p", "p2c"])
def test_debertas_distances_matter(kind: str) -> None:
    """Without its scores of distances, of either kind, the tiny model answers otherwise."""
    model = made("deberta-v2")[0]
    engine = Engine(copy.deepcopy(model), device=CPU)
    for packed in engine._packed.layers:
        packed.layer.relative._tables[kind].zero_()
    encoded = sentences("deberta-v2", [30, 25], seed=3)
    assert np.abs(engine.all_logits(encoded) - by_transformers(model, encoded)).max() > 1e-3


def test_modernberts_windows_matter() -> None:
    """The tiny model has sentences longer than its window; with a wider window it answers otherwise."""
    model = made("modernbert")[0]
    wide = copy.deepcopy(model)
    wide.backbone.config.local_attention = 1000
    encoded = sentences("modernbert", [30, 25], seed=3)
    assert np.abs(Engine(wide, device=CPU).all_logits(encoded) - by_transformers(model, encoded)).max() > 1e-3


ERNIE = """
from deebert.encoders.families.bert import bert_layer
from deebert.encoders.interface import Family


class Ernie(Family):
    def layers(self, model):
        return [bert_layer(layer, model.config.num_attention_heads) for layer in model.ernie.encoder.layer]

    def head(self, model, first_token):
        return model.classifier(model.dropout(model.ernie.pooler(first_token[:, None])))


FAMILY = Ernie()
"""


def test_a_new_family_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with a class in the folder of families, and its models are loaded, run and left early like all others."""
    (tmp_path / "families").mkdir()
    (tmp_path / "families" / "ernie.py").write_text(ERNIE, encoding="utf-8")
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path / "families")])
    monkeypatch.setitem(registry.FAMILIES, "ernie", "deebert.encoders.families.ernie")
    monkeypatch.delitem(sys.modules, "deebert.encoders.families.ernie", raising=False)
    shape: dict[str, Any] = {"num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}
    shape |= {"vocab_size": tiny.VOCAB_SIZE, "num_attention_heads": 2, "pad_token_id": 1, "initializer_range": 0.3}
    torch.manual_seed(0)
    config = ErnieConfig(num_labels=LABELS, max_position_embeddings=tiny.POSITIONS, **shape)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")

    backbone, _ = load_classifier(tmp_path / "model")
    model = DeeBert(backbone, PoolerRamps(LAYERS - 1, WIDTH, LABELS)).eval()
    encoded = sentences("bert", [7, 3, 12], seed=5)
    np.testing.assert_allclose(
        Engine(copy.deepcopy(model), device=CPU).all_logits(encoded), by_transformers(model, encoded), atol=1e-5
    )
