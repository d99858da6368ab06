"""Every family as an ONNX graph: what the copied runner answers by it is what the engine answers."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import openvino
import pandas as pd
import pytest
import torch
from transformers import AutoTokenizer

from deebert.data.encoded import Encoded, encode
from deebert.exits.criteria import LayerThresholds
from deebert.export import folder as exported
from deebert.export import joined
from deebert.export.blocks import Cut
from deebert.export.check import every_logits
from deebert.export.graphs import block_graphs, ends
from deebert.export.runner import Runner
from deebert.inference.engine import Engine
from deebert.model import DeeBert, save
from deebert.ramps import KINDS
from tests import tiny

LAYERS, WIDTH, LABELS = 4, 16, 3
ENDS = np.array([1, 2, 4])  # of two blocks of one layer, and of one of two
IN_A_LAYER = 4  # products of whole numbers; query, key and value are one
APART = 1e-3  # nats, more than rounding moves an entropy
CPU = torch.device("cpu")
each_family = pytest.mark.parametrize("family", tiny.EVERY_FAMILY)
each_in_int8 = pytest.mark.parametrize("family", ["bert", "modernbert", "deberta-v2", "electra"])


class Made(NamedTuple):
    """A random model's folder, and that of its export; models of two texts are those of families with token types."""

    source: Path
    out: Path
    size: int
    all_exits: Path

    @property
    def runner(self) -> Runner:
        return Runner(self.out, threads=1)

    def logits(self, texts: Sequence[Any]) -> np.ndarray:
        return every_logits(self.all_exits, self.runner, texts)

    def model(self) -> onnx.ModelProto:
        return onnx.load(self.out / "model.onnx", load_external_data=False)

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


def about(family: str, size: int = 1) -> dict[str, Any]:
    """What an export is told of a model that reads so many texts."""
    return {"text_columns": ["a", "b"][:size], "label_names": list(tiny.LABEL_NAMES), "model_type": family}


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
        out = folder / "out"
        all_exits = folder / "all-exits.onnx"

        def choose(_: Path, write_all_exits: Callable[[Path], None]) -> exported.Chosen:
            write_all_exits(all_exits)
            return exported.Chosen(0.0, "tests")

        exported.write(folder / "deebert", about(family, size), out, ENDS.tolist(), precision, choose)
        return Made(folder / "deebert", out, size, all_exits)

    return made


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All of a graph, and those inside its `If`s."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes_of(attribute.g)


def thresholds_of(logits: np.ndarray) -> list[float]:
    """Near the median entropy of each exit (N, E) but the last, and away from all, so that rounding moves nobody."""
    log_p = torch.from_numpy(logits.astype(np.float64)).log_softmax(dim=-1)
    entropies = -(log_p.exp() * log_p).sum(dim=-1)[:, :-1].numpy()
    known = np.sort(entropies.ravel())
    middles = ((known[1:] + known[:-1]) / 2)[np.diff(known) > APART]
    return [float(middles[np.abs(middles - median).argmin()]) for median in np.median(entropies, axis=0)]


@each_family
def test_every_exit_gives_the_engines_logits(make: Any, family: str) -> None:
    """To 1e-4, for texts of all lengths, in batches of one and of many."""
    made = make(family)
    texts = made.texts(20)
    expected = made.engine().all_logits(made.encoded(texts))[:, ENDS - 1]
    np.testing.assert_allclose(made.logits(texts), expected, atol=1e-4)
    np.testing.assert_allclose(np.concatenate([made.logits([text]) for text in texts[:4]]), expected[:4], atol=1e-4)


@each_family
def test_early_exit_is_the_engines(make: Any, family: str) -> None:
    """The graph leaves where the engine would, had it these ramps alone; company changes no answer; 0 = full depth."""
    made = make(family)
    texts = made.texts(40, seed=1)
    engine, runner, encoded = made.engine(), made.runner, made.encoded(texts)
    left = set()
    for threshold in thresholds_of(engine.all_logits(encoded)[:, ENDS - 1]):
        of_ramps = tuple(threshold if layer in ENDS else 0.0 for layer in range(1, LAYERS))
        expected = engine.answer(encoded, LayerThresholds(of_ramps, drop_points=0))
        answers = runner.predict(texts, threshold)
        assert [each.exit_layer for each in answers] == expected.exit_layers.tolist()
        assert [each.label for each in answers] == [tiny.LABEL_NAMES[i] for i in expected.logits.argmax(axis=1)]
        probabilities = torch.from_numpy(expected.logits).softmax(dim=1).max(dim=1).values
        np.testing.assert_allclose([each.probability for each in answers], probabilities, atol=1e-5)
        alone = [runner.predict([text], threshold)[0] for text in texts[:10]]
        assert [each[::2] for each in alone] == [each[::2] for each in answers[:10]]
        left |= {each.exit_layer for each in answers}
    assert len(left) > 1
    assert {each.exit_layer for each in runner.predict(texts)} == {LAYERS}


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_leaves_has_the_logits_of_its_exit(make: Any, precision: str) -> None:
    """Those that a check chooses thresholds on, which are of the same blocks without an exit."""
    made = make("bert", precision)
    texts = made.texts(40, seed=4)
    logits = made.logits(texts)
    left = set()
    for threshold in thresholds_of(logits):
        for rows, inputs in made.runner.batches(texts):
            found, exit_layers = made.runner.answer(inputs, threshold)
            places = np.searchsorted(ENDS, exit_layers)
            np.testing.assert_allclose(found, logits[rows, places], atol=1e-5)
            assert exit_layers.tolist() == ENDS[places].tolist()
            left |= set(exit_layers)
    assert left == set(ENDS)


@each_in_int8
def test_int8_is_the_engines(make: Any, family: str) -> None:
    """Every linear map of tokens multiplies whole numbers, heads do not, and answers are as near as rounding allows.

    A last bit may move a whole number by one, so they are not the same; but they are much nearer to the engine's in
    int8 than those are to fp32's.
    """
    made = make(family, "int8")
    texts = made.texts(30)
    logits = made.logits(texts)
    encoded = made.encoded(texts)
    expected, exact = (made.engine(precision).all_logits(encoded)[:, ENDS - 1] for precision in ("int8", "fp32"))
    away = np.abs(expected - exact).mean()
    assert np.abs(logits - expected).mean() < away / 3 and np.abs(logits - exact).mean() > away / 2
    whole = list(nodes_of(made.model().graph))
    assert sum(node.op_type == "MatMulInteger" for node in whole) == LAYERS * IN_A_LAYER
    finer = 3  # all but what reads what attention gives
    joining = [name for node in whole for name in node.input if name.endswith("int8_joining")]
    assert len(joining) == LAYERS * finer


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
    texts = made.texts(12, seed=3)
    alone = np.concatenate([made.logits([text]) for text in texts])
    np.testing.assert_allclose(made.logits(texts), alone, atol=1e-5)


@pytest.mark.parametrize(("family", "precision"), [("bert", "fp32"), ("mpnet", "fp32"), ("bert", "int8")])
def test_openvino_reads_the_graph(make: Any, family: str, precision: str) -> None:
    """Its answers are onnxruntime's, whoever leaves."""
    made = make(family, precision)
    runner, texts = made.runner, made.texts(30)
    compiled = openvino.Core().compile_model(made.out / "model.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    left = set()
    for threshold in (0.0, *thresholds_of(made.logits(texts))):
        for _, inputs in runner.batches(texts):
            logits, exit_layers = runner.answer(inputs, threshold)
            given = compiled(inputs | {"threshold": np.array(threshold)})
            same = given["exit_layer"] == exit_layers
            assert same.mean() > (0.99 if precision == "fp32" else 0.9)  # in int8 a last bit may move a number by one
            atol = 1e-4 if precision == "fp32" else 0.1
            np.testing.assert_allclose(given["logits"][same], logits[same], atol=atol)
            left |= set(exit_layers)
    assert left == set(ENDS)


@each_family
def test_graphs_are_of_the_standard(make: Any, family: str) -> None:
    """No operator is onnxruntime's own, weights are in the file, and inputs and outputs are as documented."""
    made = make(family)
    names = ["manifest.json", "model.onnx", "runner.py", "tokenizer.json"]
    assert sorted(path.name for path in made.out.iterdir()) == names
    manifest, model = made.runner.manifest, made.model()
    assert manifest["graph"] == "model.onnx" and manifest["exit_layers"] == ENDS.tolist()
    onnx.checker.check_model(model)
    assert {node.domain for node in nodes_of(model.graph)} == {""}
    assert [(each.domain, each.version) for each in model.opset_import] == [("", manifest["opset"])]
    weights = list(joined._weights(model.graph))
    assert len(weights) > len(model.graph.initializer) and not any(each.external_data for each in weights)
    dims = [
        {each.name: [d.dim_param or d.dim_value for d in each.type.tensor_type.shape.dim] for each in values}
        for values in (model.graph.input, model.graph.output)
    ]
    takes = ["input_ids", "attention_mask", "token_type_ids"][: len(dims[0]) - 1]
    assert dims[0] == {name: ["batch", "length"] for name in takes} | {"threshold": []} and len(takes) >= 2
    assert dims[1] == {"logits": ["batch", LABELS], "exit_layer": ["batch"]}


def test_layers_of_bert_work_no_shapes_out(make: Any) -> None:
    """After the first block, sizes are asked for at its exits alone: how many texts are there."""
    nodes = [node for node in nodes_of(make("bert").model().graph) if node.op_type == "Shape"]
    late = [node for node in nodes if not node.output[0].startswith("to_layer_01/")]
    assert [node.output[0] for node in late] == ["to_layer_02/count", "to_layer_04/count"]


def test_a_graph_may_be_larger_than_a_file(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights are in a second file then, and its answers are the same."""
    made = make("bert")
    cut = Cut(DeeBert.load(made.source)[0], token_types=True)
    whole = joined.early_exit(list(block_graphs(cut, ENDS.tolist(), "fp32", tmp_path)))
    of_first_block = sum(len(each.raw_data) for each in whole.graph.initializer)
    monkeypatch.setattr(joined, "MAX_BYTES", of_first_block)  # the others, inside an `If`, count as well
    beside = joined.save_graph(whole, tmp_path / "model.onnx")
    assert beside == "model.onnx.data" and made.runner.manifest["graph_data"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size > WIDTH**2 * LAYERS * 4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for _, inputs in made.runner.batches(made.texts(12)):
        found = session.run(None, inputs | {"threshold": np.array(1.0)})
        for one, other in zip(found, made.runner.answer(inputs, 1.0), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_joins_what_is_faster_joined(make: Any, tmp_path: Path, precision: str) -> None:
    """In every block: a product of whole numbers and its scales, but no sum and its GELU. Its own optimizer tells.

    Layers have blocks of their own here. Within one, the biases of a random model would be one, for all are 0.
    """
    source, out = make("bert").source, tmp_path / "out"
    exported.write(source, about("bert"), out, ends(LAYERS), precision, lambda *_: exported.Chosen(0.0, "tests"))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this processor alone
    onnxruntime.InferenceSession(out / "model.onnx", options)
    kinds = Counter(node.op_type for node in nodes_of(onnx.load(options.optimized_model_filepath).graph))
    assert kinds["Gelu"] == LAYERS and not kinds["BiasGelu"] + kinds["MatMulInteger"]
    assert kinds["MatMulIntegerToFloat"] == (IN_A_LAYER * LAYERS if precision == "int8" else 0)


def test_exits_are_beside_each_other(make: Any) -> None:
    """onnxruntime keeps a copy of what an `If` holds, so one inside another would keep two, and so on."""
    choices = [node for node in nodes_of(make("bert").model().graph) if node.op_type == "If"]
    assert len(choices) == len(ENDS) - 1
    branches = [branch.g for choice in choices for branch in choice.attribute]
    assert branches and not any(node.op_type == "If" for branch in branches for node in branch.node)


def test_a_deep_model_leaves_after_many_layers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Deeper than the 32 graphs that a file could hold if each were inside the one before. Runtimes warn of nothing."""
    layers = 40
    folder = tmp_path / "model"
    backbone = tiny.write_model(tmp_path / "backbone", "bert", layers=layers, width=WIDTH, labels=LABELS)
    ramps = next(iter(KINDS.values()))(layers - 1, WIDTH, LABELS)
    with torch.no_grad():
        ramps.out_weight.mul_(6)
    folder.mkdir()
    save(backbone, ramps, folder)
    out = tmp_path / "out"
    exported.write(folder, about("bert"), out, ends(layers), "fp32", lambda *_: exported.Chosen(0.0, "tests"))
    runner = Runner(out)
    assert runner.manifest["exit_layers"] == list(range(1, layers + 1))
    texts = [" ".join(tiny.WORDS[first : first + 5]) for first in range(40)]
    left = [{answer.exit_layer for answer in runner.predict(texts, nats)} for nats in np.linspace(0.1, 0.2, 5)]
    assert max(map(len, left)) > 2
    assert [runner.predict(["w1 w2"], nats)[0].exit_layer for nats in (0, 10)] == [layers, 1]
    assert not capfd.readouterr().err
    assert ends(LAYERS, [3, 1, 3]) == [1, 3, 4] and ends(LAYERS, [LAYERS]) == [LAYERS]
