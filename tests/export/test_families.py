"""Every family as ONNX graphs: what the copied runner answers by them is what the engine answers."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import openvino
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from deebert.data.encoded import Encoded, encode
from deebert.exits.criteria import LayerThresholds
from deebert.export import folder as exported
from deebert.export.runner import Runner
from deebert.inference.engine import Engine
from deebert.model import DeeBert, save
from deebert.ramps import KINDS
from tests import tiny

LAYERS, WIDTH, LABELS = 3, 16, 3
ENDS = np.array([1, 3])  # of a block of one layer, and of one of two
CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
each_in_int8 = pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "electra"])


class Made(NamedTuple):
    """A random model's folder, and that of its export; models of two texts are those of families with token types."""

    source: Path
    out: Path
    size: int

    @property
    def runner(self) -> Runner:
        return Runner(self.out, threads=1)

    def engine(self, precision: str = "fp32") -> Engine:
        return Engine(DeeBert.load(self.source)[0], precision, CPU)

    def texts(self, count: int, seed: int = 0) -> list[Any]:
        """Of no word to more words than the model takes."""
        rng = np.random.default_rng(seed)
        lengths = [0, 40, *rng.integers(1, 20, self.size * count - 2)]
        words = [" ".join(rng.choice(tiny.WORDS, length)) for length in lengths]
        return words if self.size == 1 else list(zip(words[::2], words[1::2], strict=True))

    def encoded(self, texts: Sequence[Any]) -> Encoded:
        frame = pd.DataFrame(texts)
        return encode(AutoTokenizer.from_pretrained(self.source), frame, list(frame))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def made(family: str, precision: str = "fp32") -> Made:
        folder = tmp_path_factory.mktemp(family)
        backbone = tiny.write_model(folder / "backbone", family, layers=LAYERS, width=WIDTH, labels=LABELS)
        kinds = tuple(KINDS.values())  # each goes into the graphs of some families
        ramps = kinds[tiny.EVERY_FAMILY.index(family) % len(kinds)](LAYERS - 1, WIDTH, LABELS)
        with torch.no_grad():
            ramps.out_weight.mul_(6)
        (folder / "deebert").mkdir()
        save(backbone, ramps, folder / "deebert")
        size = 2 if family in tiny.TYPED else 1
        about = {"text_columns": ["a", "b"][:size], "label_names": list(tiny.LABEL_NAMES), "model_type": family}
        out = folder / "out"
        exported.write(folder / "deebert", about, out, len(ENDS), precision, lambda _: exported.Chosen(0.0, "tests"))
        return Made(folder / "deebert", out, size)

    return made


@each_family
def test_every_graph_gives_the_engines_logits(make: Any, family: str) -> None:
    """To 1e-4, for texts of all lengths, in batches of one and of many."""
    made = make(family)
    texts = made.texts(20)
    expected = made.engine().all_logits(made.encoded(texts))[:, ENDS - 1]
    runner = made.runner
    np.testing.assert_allclose(runner.logits(texts), expected, atol=1e-4)
    for text, logits in zip(texts[:8], expected, strict=False):
        np.testing.assert_allclose(runner.logits([text])[0], logits, atol=1e-4)


@each_family
def test_early_exit_is_the_engines(make: Any, family: str) -> None:
    """The runner leaves where the engine would, had it these ramps alone; company changes no answer; 0 = full depth."""
    made = make(family)
    texts = made.texts(40, seed=1)
    engine, runner, encoded = made.engine(), made.runner, made.encoded(texts)
    first = torch.from_numpy(engine.all_logits(encoded)[:, 0]).softmax(dim=1)
    entropies = np.sort(-(first * first.log()).sum(dim=1).numpy())
    gap = 15 + int(np.diff(entropies[15:25]).argmax())  # rounding moves nobody
    threshold = float(entropies[gap : gap + 2].mean())
    expected = engine.answer(encoded, LayerThresholds((threshold, 0.0), drop_points=0))
    answers = runner.predict(texts, threshold)
    assert [each.exit_layer for each in answers] == expected.exit_layers.tolist()
    assert [each.label for each in answers] == [tiny.LABEL_NAMES[i] for i in expected.logits.argmax(axis=1)]
    assert len({each.exit_layer for each in answers}) == 2
    probabilities = torch.from_numpy(expected.logits).softmax(dim=1).max(dim=1).values
    np.testing.assert_allclose([each.probability for each in answers], probabilities, atol=1e-5)
    alone = [runner.predict([text], threshold)[0] for text in texts[:10]]
    assert [each[::2] for each in alone] == [each[::2] for each in answers[:10]]
    assert {each.exit_layer for each in runner.predict(texts)} == {LAYERS}


@each_in_int8
def test_int8_is_the_engines(make: Any, family: str) -> None:
    """Every linear map of tokens multiplies whole numbers, heads do not, and answers are as near as rounding allows.

    A last bit may move a whole number by one, so they are not the same; but they are much nearer to the engine's in
    int8 than those are to fp32's.
    """
    made = make(family, "int8")
    texts = made.texts(30)
    logits = made.runner.logits(texts)
    encoded = made.encoded(texts)
    expected, exact = (made.engine(precision).all_logits(encoded)[:, ENDS - 1] for precision in ("int8", "fp32"))
    away = np.abs(expected - exact).mean()
    assert np.abs(logits - expected).mean() < away / 3 and np.abs(logits - exact).mean() > away / 2
    whole = [node for file in sorted(made.out.glob("*.onnx")) for node in onnx.load(file).graph.node]
    in_a_layer = 4  # query, key and value are one
    assert sum(node.op_type == "MatMulInteger" for node in whole) == LAYERS * in_a_layer
    finer = 3  # all but what reads what attention gives
    assert sum("int8_joining" in node.input for node in whole) == LAYERS * finer


def test_threads_may_share_a_runner(make: Any) -> None:
    """Batches that run at the same time keep out of each other's way."""
    made = make("bert")
    runner, parts = made.runner, [made.texts(20, seed=seed) for seed in range(6)]
    alone = [runner.predict(texts, 1.0) for texts in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        together = list(threads.map(lambda texts: runner.predict(texts, 1.0), parts * 5))
    assert together == alone * 5


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_company_changes_no_answer(make: Any, precision: str) -> None:
    """Alone, or in a batch with longer texts and so with padding, a text gets the same logits, in int8 as well.

    A scale that a whole batch shared would move those of int8.
    """
    made = make("bert", precision)
    texts, runner = made.texts(12, seed=3), made.runner
    alone = np.concatenate([runner.logits([text]) for text in texts])
    np.testing.assert_allclose(runner.logits(texts), alone, atol=1e-5)


@pytest.mark.parametrize(("family", "precision"), [("bert", "fp32"), ("mpnet", "fp32"), ("bert", "int8")])
def test_openvino_reads_the_graphs(make: Any, family: str, precision: str) -> None:
    """Its answers are onnxruntime's, by the names in the manifest."""
    made = make(family, precision)
    runner = made.runner
    texts = made.texts(6)
    core = openvino.Core()
    known = runner._inputs(runner._encoded(texts))
    expected = runner.logits(texts)
    for i, graph in enumerate(runner.manifest["graphs"]):
        compiled = core.compile_model(made.out / graph["file"], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        given = compiled({each["name"]: known[each["name"]] for each in graph["inputs"]})
        known |= {each["name"]: given[each["name"]] for each in graph["outputs"]}
        np.testing.assert_allclose(known["logits"], expected[:, i], atol=1e-4 if precision == "fp32" else 0.1)


@each_family
def test_graphs_are_of_the_standard(make: Any, family: str) -> None:
    """No operator is onnxruntime's own, weights are in the file, and inputs and outputs are as the manifest says."""
    made = make(family)
    assert sorted(path.name for path in made.out.iterdir()) == [
        "block-01.onnx",
        "block-02.onnx",
        "manifest.json",
        "runner.py",
        "tokenizer.json",
    ]
    manifest = made.runner.manifest
    assert [graph["layers"] for graph in manifest["graphs"]] == [[1, 1], [2, 3]]
    for graph in manifest["graphs"]:
        model = onnx.load(made.out / graph["file"], load_external_data=False)
        onnx.checker.check_model(model)
        assert {node.domain for node in model.graph.node} == {""}
        assert [(each.domain, each.version) for each in model.opset_import] == [("", manifest["opset"])]
        assert not any(each.external_data for each in model.graph.initializer)
        for told, found in ((graph["inputs"], model.graph.input), (graph["outputs"], model.graph.output)):
            dims = [[d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in found]
            assert [each["name"] for each in told] == [each.name for each in found]
            assert [each["dims"] for each in told] == dims


def test_layers_of_bert_work_no_shapes_out(make: Any) -> None:
    """No operator after the first graph tells of a tensor's size."""
    graph = onnx.load(make("bert").out / "block-02.onnx").graph
    assert "Shape" not in {node.op_type for node in graph.node}
