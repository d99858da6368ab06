"""int8 in an ONNX graph, by the standard's operators: what `inference/precisions.py` does in PyTorch.

onnxruntime's own dynamic quantization has one scale for all tokens of a batch, so an answer depends on its company.
Here each token has a scale of its own, and so has each output of a weight. The products of whole numbers are exact.
First tokens are read in 15 bits: what the first 8 leave over of one is one more token in front of its sentence. What
attention gives is read in 8.

With one short sentence, the operators beside the products take as long as these do. So they are few, and maps of the
same states, such as query, key and value, are one product. onnxruntime's own `MatMulNBits` of 8 bits, with a scale for
each token and block, took longer than float32 where a processor has AVX2 alone.
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.helper import make_node, make_tensor_value_info

from deebert.inference.precisions import STATE_STEPS, STATE_ZERO, WEIGHT_STEPS

TINY = 1e-30  # in place of a scale of 0
# A number that is 1, which graphs take. onnxruntime joins a product of whole numbers, what makes it float32 and the
# scales of its outputs to one operator. For that it looks for a number that scales all states alike, and that it does
# not know beforehand.
ONE = "int8_runtime_one"
CONSTANTS = {
    "int8_tiny": np.float32(TINY),
    "int8_steps": np.float32(STATE_STEPS),
    "int8_step": np.float32(1 / STATE_STEPS),
    "int8_one": np.float32(1),
    "int8_zero": np.uint8(STATE_ZERO),
    "int8_joining": np.array([[1 / STATE_STEPS, 1]], dtype=np.float32),  # a row of what was left over, and its token's
    "int8_last_axis": np.array([-1], dtype=np.int64),
    "int8_token_axis": np.array([1], dtype=np.int64),
    "int8_0": np.array([0], dtype=np.int64),
    "int8_1": np.array([1], dtype=np.int64),
    "int8_2": np.array([2], dtype=np.int64),
    "int8_end": np.array([np.iinfo(np.int64).max]),
}


def quantize(model: ModelProto, exact: Sequence[np.ndarray] = (), coarse: Sequence[np.ndarray] = ()) -> None:
    """Rewrite a graph: linear maps of tokens multiply whole numbers. Heads, which read first tokens, stay float32.

    It then takes `ONE` as well, (1,) float32.

    Args:
        exact: weights (out, in) of maps of tokens that stay float32, too, as they do in the engine.
        coarse: weights (out, in) of maps that read first tokens, too, in 8 bits.
    """
    graph = model.graph
    weights = {each.name: each for each in graph.initializer}
    tokens = _tokens(model)
    joined: dict[str, list[NodeProto]] = defaultdict(list)  # products by the states that they read
    for node in graph.node:
        is_map = node.op_type == "MatMul" and node.input[0] in tokens and node.input[1] in weights
        if is_map and not _is_one_of(weights[node.input[1]], exact):
            joined[node.input[0]].append(node)
    products = {node.output[0]: same for same in joined.values() for node in same}
    nodes: list[NodeProto] = []
    rounded: dict[tuple[str, ...], str] = {}  # weights -> the prefix of the names of what was made of them
    for node in graph.node:
        same = products.get(node.output[0], [])
        if not same:
            nodes.append(node)
        elif node.output == same[0].output:
            names = tuple(each.input[1] for each in same)
            if names not in rounded:
                rounded[names] = f"int8_{len(rounded)}_"
                graph.initializer.extend(_rounded_weights([weights[name] for name in names], rounded[names]))
            finer = not all(_is_one_of(weights[name], coarse) for name in names)
            nodes += _rounded_states(node.input[0], finer)
            nodes += _product(node.input[0], rounded[names], [each.output[0] for each in same], finer)
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    graph.input.append(make_tensor_value_info(ONE, TensorProto.FLOAT, [1]))
    read = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name in read]
    for field, content in ((graph.node, nodes), (graph.initializer, kept)):
        del field[:]
        field.extend(content)
    onnx.checker.check_model(model)


def one_of(read: str) -> list[NodeProto]:
    """What makes `ONE` of an input that has a text at least."""
    return [
        make_node("Shape", [read], [f"{ONE}/count"], end=1),
        make_node("Sign", [f"{ONE}/count"], [f"{ONE}/sign"]),
        make_node("Cast", [f"{ONE}/sign"], [ONE], to=TensorProto.FLOAT),
    ]


def _is_one_of(weight: TensorProto, known: Sequence[np.ndarray]) -> bool:
    """Whether a weight (in, out) of a graph is one of `known`, (out, in)."""
    alike = [each for each in known if each.shape[::-1] == tuple(weight.dims)]
    return any(np.array_equal(numpy_helper.to_array(weight).T, each) for each in alike)


def _tokens(model: ModelProto) -> set[str]:
    """Names of tensors (B, T, ...) with as many dimensions as hidden states have, and that depend on the inputs."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    known = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.value_info}
    depending = {each.name for each in graph.input}
    for node in graph.node:
        if depending & set(node.input):
            depending |= set(node.output)
    of_inputs = {each.name: len(each.type.tensor_type.shape.dim) for each in graph.input}
    return {name for name, rank in (known | of_inputs).items() if rank == 3 and name in depending}


def _rounded_states(states: str, finer: bool) -> list[NodeProto]:
    """Each token's states as whole numbers from 1 to 255, and the largest; in front what first tokens leave over."""
    tokens = f"{states}_tokens" if finer else f"{states}_whole"
    nodes = [
        make_node("Abs", [states], [f"{states}_abs"]),
        make_node("ReduceMax", [f"{states}_abs", "int8_last_axis"], [f"{states}_max"]),
        make_node("Max", [f"{states}_max", "int8_tiny"], [f"{states}_largest"]),
        # One number of each token is divided and not all of its states, which would take twice as long.
        make_node("Div", ["int8_steps", f"{states}_largest"], [f"{states}_steps"]),
        make_node("Mul", [states, f"{states}_steps"], [f"{states}_scaled"]),
        make_node("QuantizeLinear", [f"{states}_scaled", "int8_one", "int8_zero"], [tokens]),
    ]
    if not finer:
        return nodes
    return [
        *nodes,
        _part(f"{states}_scaled", "0", "1", f"{states}_first"),
        make_node("Round", [f"{states}_first"], [f"{states}_rounded"]),
        make_node("Sub", [f"{states}_first", f"{states}_rounded"], [f"{states}_left"]),
        make_node("QuantizeLinear", [f"{states}_left", "int8_step", "int8_zero"], [f"{states}_rest"]),
        make_node("Concat", [f"{states}_rest", tokens], [f"{states}_whole"], axis=1),
    ]


def _part(tokens: str, start: str, end: str, name: str) -> NodeProto:
    """The tokens of each sentence from `start` to `end`, places that are named in `CONSTANTS`."""
    return make_node("Slice", [tokens, f"int8_{start}", f"int8_{end}", "int8_token_axis"], [name])


def _rounded_weights(weights: Sequence[TensorProto], prefix: str) -> list[TensorProto]:
    """Weights (in, out), side by side, as whole numbers, the scale of each output, and how many outputs each has.

    States are parts of their token's largest, in steps of 1 / `STATE_STEPS`. The scale has this step in it.
    """
    values = [numpy_helper.to_array(each) for each in weights]
    sizes = np.array([each.shape[1] for each in values], dtype=np.int64)
    beside = np.concatenate(values, axis=1)
    scale = np.maximum(np.abs(beside).max(axis=0), np.float32(TINY)) / np.float32(WEIGHT_STEPS)
    whole = np.clip(np.rint(beside / scale), -WEIGHT_STEPS, WEIGHT_STEPS).astype(np.int8)
    made = {"whole": whole, "scale": scale / np.float32(STATE_STEPS), "sizes": sizes}
    return [numpy_helper.from_array(value, prefix + name) for name, value in made.items()]


def _product(states: str, weights: str, outputs: Sequence[str], finer: bool) -> list[NodeProto]:
    """The product of rounded states and weights, cut into the outputs of the weights."""
    name = f"{states}_product"
    whole, scaled = outputs[0] if len(outputs) == 1 else name, f"{name}_scaled"
    nodes = [
        make_node("MatMulInteger", [f"{states}_whole", f"{weights}whole", "int8_zero"], [f"{name}_whole"]),
        make_node("Cast", [f"{name}_whole"], [f"{name}_float"], to=TensorProto.FLOAT),
        make_node("Mul", [ONE, f"{weights}scale"], [f"{name}_scale"]),
        make_node("Mul", [f"{name}_float", f"{name}_scale"], [scaled]),
    ]
    if finer:
        nodes += [
            _part(scaled, "0", "2", f"{name}_firsts"),
            make_node("MatMul", ["int8_joining", f"{name}_firsts"], [f"{name}_finer"]),
            _part(scaled, "2", "end", f"{name}_others"),
            make_node("Concat", [f"{name}_finer", f"{name}_others"], [f"{name}_joined"], axis=1),
        ]
        scaled = f"{name}_joined"
    nodes.append(make_node("Mul", [scaled, f"{states}_largest"], [whole]))
    return nodes if len(outputs) == 1 else [*nodes, make_node("Split", [whole, f"{weights}sizes"], outputs, axis=2)]
