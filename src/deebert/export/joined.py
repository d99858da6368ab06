"""Graphs of blocks joined to one, which stops early by itself: all that comes after a ramp is inside an `If`.

A text leaves at the first ramp whose entropy is below the threshold, an input (Xin et al., ACL 2020, section 3.2).
Within the `If` are those that stay, put together. If none does, nothing of it runs. Weights are outside.

Shapes: B texts, T tokens of the longest, H width, C classes, E blocks and so exits.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_tensor, make_tensor_value_info

from deebert.export.blocks import BATCH, Named
from deebert.export.graphs import MAX_BYTES, Graph

LOGITS, EXIT_LAYER, THRESHOLD = "logits", "exit_layer", "threshold"
LEAST_APART = 1024  # bytes of a tensor that goes into a file of weights


def early_exit(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks. It takes what the first block takes, and `threshold` in nats, () float64.

    It gives `logits` (B, C) float32, each of the exit that its text left at, and `exit_layer` (B,) int64, from 1.
    """
    joined = _Joined(blocks)
    nodes, answers = joined.nested(0, {each.name: each.name for each in blocks[0].takes})
    nodes += [make_node("Identity", [made], [name]) for made, name in zip(answers, (LOGITS, EXIT_LAYER), strict=True)]
    threshold = make_tensor_value_info(THRESHOLD, TensorProto.DOUBLE, [])
    return joined.model(nodes, [threshold], _answers(LOGITS, EXIT_LAYER, joined.classes))


def all_exits(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks that nobody leaves early. It gives `logits` (B, E, C) float32 of every exit."""
    joined = _Joined(blocks)
    known = {each.name: each.name for each in blocks[0].takes}
    nodes: list[NodeProto] = []
    for number in range(len(blocks)):
        more, known = joined.block(number, known)
        of_block = f"{joined.prefix(number)}exit"
        nodes += [*more, make_node("Unsqueeze", [known[LOGITS], joined.axis(1)], [of_block])]
    nodes.append(make_node("Concat", [f"{joined.prefix(i)}exit" for i in range(len(blocks))], [LOGITS], axis=1))
    shape = [BATCH, len(blocks), joined.classes]
    return joined.model(nodes, [], [make_tensor_value_info(LOGITS, TensorProto.FLOAT, shape)])


def save_graph(model: ModelProto, path: Path) -> None:
    """Write a graph; beside it, `path` with `.data` at its end, its weights, where one file cannot hold all."""
    if sum(len(each.raw_data) for each in model.graph.initializer) <= MAX_BYTES:
        onnx.save(model, path)
    else:
        onnx.save(
            model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=LEAST_APART
        )  # takes the weights out of `model`
    onnx.checker.check_model(path)


class _Joined:
    """Blocks whose tensors have names of their own, and the weights of all."""

    def __init__(self, blocks: Sequence[Graph]) -> None:
        self._blocks = blocks
        self._weights: dict[str, TensorProto] = {}
        self.classes = blocks[0].gives[0].dims[1]

    def prefix(self, number: int) -> str:
        """In front of the names of all that comes of a block, from 0."""
        return f"to_layer_{self._blocks[number].last:02d}/"

    def block(self, number: int, known: dict[str, str]) -> tuple[list[NodeProto], dict[str, str]]:
        """The nodes of a block alone, and what is known after it.

        Args:
            known: what is there before, by its names in the blocks: those in the joined graph.
        """
        block, prefix = self._blocks[number], self.prefix(number)
        graph = block.model.graph
        names = {each.name: known[each.name] for each in block.takes}
        for weight in graph.initializer:
            own = self._weights[prefix + weight.name] = TensorProto()
            own.CopyFrom(weight)
            own.name = prefix + weight.name
        nodes = []
        for node in graph.node:
            own = NodeProto()
            own.CopyFrom(node)
            own.name = ""  # it may have none, and each has to be another
            own.input[:] = [name and names.get(name, prefix + name) for name in node.input]
            own.output[:] = [name and prefix + name for name in node.output]
            nodes.append(own)
        return nodes, known | {each.name: prefix + each.name for each in block.gives}

    def nested(self, number: int, known: dict[str, str]) -> tuple[list[NodeProto], tuple[str, str]]:
        """The nodes of a block and, inside an `If`, of all that follow; the names of logits and exit layers."""
        nodes, known = self.block(number, known)
        prefix, logits = self.prefix(number), known[LOGITS]
        own = f"{prefix}own_layer"
        nodes += [
            make_node("Shape", [logits], [f"{prefix}count"], end=1),
            make_node(
                "ConstantOfShape",
                [f"{prefix}count"],
                [own],
                value=make_tensor("layer", TensorProto.INT64, [1], [self._blocks[number].last]),
            ),
        ]
        if number == len(self._blocks) - 1:
            return nodes, (logits, own)
        stays = f"{prefix}stays"
        nodes += self._stays(logits, prefix, stays)
        inside, left = [], {}
        for each in self._read_after(number, known):
            left[each.name] = known[each.name]
            if each.dims[0] == BATCH:
                left[each.name] = f"{prefix}left/{each.name}"
                inside.append(make_node("Compress", [known[each.name], stays], [left[each.name]], axis=0))
        more, answers = self.nested(number + 1, left)
        there = f"{prefix}then_logits", f"{prefix}then_layer"
        inside += [
            *more,
            make_node("NonZero", [stays], [f"{prefix}places"]),
            make_node("Transpose", [f"{prefix}places"], [f"{prefix}rows"], perm=[1, 0]),
            make_node("ScatterND", [logits, f"{prefix}rows", answers[0]], [there[0]]),
            make_node("ScatterND", [own, f"{prefix}rows", answers[1]], [there[1]]),
        ]
        here = f"{prefix}else_logits", f"{prefix}else_layer"
        all_leave = [make_node("Identity", [logits], [here[0]]), make_node("Identity", [own], [here[1]])]
        given = f"{prefix}answer", f"{prefix}layer"
        nodes.append(
            make_node(
                "If",
                [f"{prefix}any_stays"],
                given,
                then_branch=make_graph(inside, f"{prefix}then", [], _answers(*there, self.classes)),
                else_branch=make_graph(all_leave, f"{prefix}else", [], _answers(*here, self.classes)),
            )
        )
        return nodes, given

    def model(
        self, nodes: list[NodeProto], more_inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
    ) -> ModelProto:
        """What is made of nodes that read all the inputs of the first block."""
        takes = [make_tensor_value_info(each.name, TensorProto.INT64, each.dims) for each in self._blocks[0].takes]
        graph = make_graph(nodes, "early_exit", [*takes, *more_inputs], outputs, list(self._weights.values()))
        of_block = self._blocks[0].model
        return make_model(graph, opset_imports=of_block.opset_import, ir_version=of_block.ir_version)

    def axis(self, number: int) -> str:
        """The name of a constant with the number of an axis."""
        name = f"axis_{number}"
        self._weights[name] = numpy_helper.from_array(np.array([number], dtype=np.int64), name)
        return name

    def _stays(self, logits: str, prefix: str, stays: str) -> list[NodeProto]:
        """Whose entropy is not below the threshold; `any_stays`. Of float64 numbers, so company moves nobody."""
        float64, entropy = f"{prefix}float64", f"{prefix}entropy"
        return [
            make_node("Cast", [logits], [float64], to=TensorProto.DOUBLE),
            make_node("LogSoftmax", [float64], [f"{prefix}log_p"], axis=-1),
            make_node("Exp", [f"{prefix}log_p"], [f"{prefix}p"]),
            make_node("Mul", [f"{prefix}p", f"{prefix}log_p"], [f"{prefix}p_log_p"]),
            make_node("ReduceSum", [f"{prefix}p_log_p", self.axis(-1)], [f"{prefix}sum"], keepdims=0),
            make_node("Neg", [f"{prefix}sum"], [entropy]),
            make_node("Less", [entropy, THRESHOLD], [f"{prefix}leaves"]),
            make_node("Not", [f"{prefix}leaves"], [stays]),
            make_node("Cast", [stays], [f"{prefix}stays_int"], to=TensorProto.INT32),
            make_node("ReduceMax", [f"{prefix}stays_int"], [f"{prefix}any_int"], keepdims=0),
            make_node("Cast", [f"{prefix}any_int"], [f"{prefix}any_stays"], to=TensorProto.BOOL),
        ]

    def _read_after(self, number: int, known: dict[str, str]) -> list[Named]:
        """What of the known is taken by blocks after this one."""
        takes = {each.name: each for block in self._blocks[number + 1 :] for each in block.takes}
        return [each for name, each in takes.items() if name in known]


def _answers(logits: str, exit_layer: str, classes: int) -> list[ValueInfoProto]:
    return [
        make_tensor_value_info(logits, TensorProto.FLOAT, [BATCH, classes]),
        make_tensor_value_info(exit_layer, TensorProto.INT64, [BATCH]),
    ]
