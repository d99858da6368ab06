"""int8 in an ONNX graph, by the standard's operators: what `inference/precisions.py` does in PyTorch.

onnxruntime's own dynamic quantization has one scale for all tokens of a batch, so an answer depends on its company.
Here each token has a scale of its own, and so has each output of a weight. The products of whole numbers are exact.
First tokens are read in 15 bits: what the first 8 leave over of one is one more token at the end of its sentence.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node

from deebert.inference.precisions import STATE_STEPS, STATE_ZERO, WEIGHT_STEPS

TINY = 1e-30  # in place of a scale of 0
CONSTANTS = {
    "int8_last_axis": np.array([-1], dtype=np.int64),
    "int8_tiny": np.float32(TINY),
    "int8_steps": np.float32(STATE_STEPS),
    "int8_one": np.float32(1),
    "int8_zero": np.uint8(STATE_ZERO),
    "int8_token_axis": np.array([1], dtype=np.int64),
    "int8_first": np.array([0], dtype=np.int64),
    "int8_second": np.array([1], dtype=np.int64),
    "int8_last": np.array([-1], dtype=np.int64),
    "int8_end": np.array([np.iinfo(np.int64).max]),
}


def quantize(path: Path) -> None:
    """Rewrite a graph: linear maps of tokens multiply whole numbers. Heads, which read first tokens, stay float32."""
    model = onnx.load(path)
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    tokens = _tokens(model)
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}  # states or weights -> the prefix of the names of what was made of them
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[0] not in tokens or node.input[1] not in weights:
            nodes.append(node)
            continue
        states, weight = node.input
        if states not in rounded:
            rounded[states] = f"int8_{len(rounded)}_"
            nodes += _rounded_states(states, rounded[states])
        if weight not in rounded:
            rounded[weight] = f"int8_{len(rounded)}_"
            graph.initializer.extend(_rounded_weight(weights[weight], rounded[weight]))
        nodes += _product(rounded[states], rounded[weight], node.output[0])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    read = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in read]
    for field, content in ((graph.node, nodes), (graph.initializer, kept)):
        del field[:]
        field.extend(content)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _tokens(model: onnx.ModelProto) -> set[str]:
    """Names of tensors (B, T, ...) with as many dimensions as hidden states have, and that depend on the inputs."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
    depending = {each.name for each in graph.input}
    for node in graph.node:
        if depending & set(node.input):
            depending |= set(node.output)
    of_inputs = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
    return {name for name, rank in (known | of_inputs).items() if rank == 3 and name in depending}


def _rounded_states(states: str, prefix: str) -> list[NodeProto]:
    """Each token's states as whole numbers from 1 to 255, its scale, and what is left over of first tokens."""
    return [
        make_node("Abs", [states], [f"{prefix}abs"]),
        make_node("ReduceMax", [f"{prefix}abs", "int8_last_axis"], [f"{prefix}max"]),
        make_node("Max", [f"{prefix}max", "int8_tiny"], [f"{prefix}largest"]),
        make_node("Div", [f"{prefix}largest", "int8_steps"], [f"{prefix}scale"]),
        make_node("Div", [states, f"{prefix}scale"], [f"{prefix}scaled"]),
        make_node("QuantizeLinear", [f"{prefix}scaled", "int8_one", "int8_zero"], [f"{prefix}tokens"]),
        _part(f"{prefix}scaled", "first", "second", f"{prefix}first"),
        make_node("Round", [f"{prefix}first"], [f"{prefix}rounded"]),
        make_node("Sub", [f"{prefix}first", f"{prefix}rounded"], [f"{prefix}left"]),
        make_node("Mul", [f"{prefix}left", "int8_steps"], [f"{prefix}left_steps"]),
        make_node("QuantizeLinear", [f"{prefix}left_steps", "int8_one", "int8_zero"], [f"{prefix}rest"]),
        make_node("Concat", [f"{prefix}tokens", f"{prefix}rest"], [f"{prefix}whole"], axis=1),
    ]


def _part(tokens: str, start: str, end: str, name: str) -> NodeProto:
    """The tokens of each sentence from `start` to `end`, the names of places in `CONSTANTS`."""
    return make_node("Slice", [tokens, f"int8_{start}", f"int8_{end}", "int8_token_axis"], [name])


def _rounded_weight(weight: TensorProto, prefix: str) -> list[TensorProto]:
    """A weight (in, out) as whole numbers, and the scale of each output."""
    values = numpy_helper.to_array(weight)
    scale = np.maximum(np.abs(values).max(axis=0), np.float32(TINY)) / np.float32(WEIGHT_STEPS)
    whole = np.clip(np.rint(values / scale), -WEIGHT_STEPS, WEIGHT_STEPS).astype(np.int8)
    return [numpy_helper.from_array(whole, f"{prefix}whole"), numpy_helper.from_array(scale, f"{prefix}scale")]


def _product(states: str, weight: str, output: str) -> list[NodeProto]:
    return [
        make_node("MatMulInteger", [f"{states}whole", f"{weight}whole", "int8_zero"], [f"{output}_whole"]),
        make_node("Cast", [f"{output}_whole"], [f"{output}_float"], to=TensorProto.FLOAT),
        make_node("Mul", [f"{output}_float", f"{weight}scale"], [f"{output}_scaled"]),
        _part(f"{output}_scaled", "first", "second", f"{output}_first"),
        _part(f"{output}_scaled", "second", "last", f"{output}_others"),
        _part(f"{output}_scaled", "last", "end", f"{output}_rest"),
        make_node("Div", [f"{output}_rest", "int8_steps"], [f"{output}_left"]),
        make_node("Add", [f"{output}_first", f"{output}_left"], [f"{output}_finer"]),
        make_node("Concat", [f"{output}_finer", f"{output}_others"], [f"{output}_tokens"], axis=1),
        make_node("Mul", [f"{output}_tokens", f"{states}scale"], [output]),
    ]
