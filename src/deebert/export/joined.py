"""Graphs of blocks joined to one, which stops early by itself: all that comes after a ramp is inside an `If`.

A text leaves at the first ramp whose entropy is below the threshold, an input (Xin et al., ACL 2020, section 3.2).
Within the `If` are those that stay, put together. If none does, nothing of it runs. Weights are where they are read:
onnxruntime packs none for its products that come from outside of an `If`, and took 1.4 times as long.

Shapes: B texts, T tokens of the longest, C classes, E blocks and so exits.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_node, make_tensor, make_tensor_value_info

from deebert.export.blocks import BATCH, Named
from deebert.export.graphs import MAX_BYTES, Graph

LOGITS, EXIT_LAYER, THRESHOLD = "logits", "exit_layer", "threshold"
LEAST_APART = 1024  # bytes of a tensor that goes into a file of weights


def early_exit(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks. It takes what the first block takes, and `threshold` in nats, () float64.

    It gives `logits` (B, C) float32, each of the exit that its text left at, and `exit_layer` (B,) int64, from 1.
    """
    joined = _Joined(blocks)
    model, graph, known = joined.begin()
    graph.input.append(make_tensor_value_info(THRESHOLD, TensorProto.DOUBLE, []))
    graph.node.append(make_node("Cast", [THRESHOLD], [f"{THRESHOLD}_float32"], to=TensorProto.FLOAT))
    answers = joined.nest(graph, 0, known)
    for made, name in zip(answers, (LOGITS, EXIT_LAYER), strict=True):
        graph.node.append(make_node("Identity", [made], [name]))
    graph.output.extend(joined.answers((LOGITS, EXIT_LAYER), BATCH))
    return model


def all_exits(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks that nobody leaves early. It gives `logits` (B, E, C) float32 of every exit."""
    joined = _Joined(blocks)
    model, graph, known = joined.begin()
    exits = []
    for number in range(len(blocks)):
        known = joined.add_block(graph, number, known)
        exits.append(f"{joined.prefix(number)}exit")
        axis = f"{joined.prefix(number)}axis"
        graph.node.append(make_node("Constant", [], [axis], value_ints=[1]))
        graph.node.append(make_node("Unsqueeze", [known[LOGITS], axis], exits[-1:]))
    graph.node.append(make_node("Concat", exits, [LOGITS], axis=1))
    graph.output.append(make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, len(blocks), joined.classes]))
    return model


def save_graph(model: ModelProto, path: Path) -> str | None:
    """Write a graph and, where one file cannot hold it, its weights beside it.

    It may take the weights out of `model`.

    Returns:
        the name of the file of weights: `path` with `.data` at its end.
    """
    beside = None
    if sum(len(each.raw_data) for each in _weights(model.graph)) <= MAX_BYTES:
        onnx.save(model, path)
    else:
        beside = f"{path.name}.data"
        onnx.save(model, path, save_as_external_data=True, location=beside, size_threshold=LEAST_APART)
    onnx.checker.check_model(path)
    return beside


class _Joined:
    """Blocks that are added to a graph, with names of their own for all tensors."""

    def __init__(self, blocks: Sequence[Graph]) -> None:
        self._blocks = blocks
        self.classes = blocks[0].gives[0].dims[1]

    def begin(self) -> tuple[ModelProto, GraphProto, dict[str, str]]:
        """An empty model, its graph, and what is known in it: by names in the blocks, those in the graph."""
        first = self._blocks[0]
        model = ModelProto(ir_version=first.model.ir_version)
        model.opset_import.extend(first.model.opset_import)
        model.graph.name = "early_exit"
        for each in first.takes:
            model.graph.input.append(make_tensor_value_info(each.name, TensorProto.INT64, each.dims))
        return model, model.graph, {each.name: each.name for each in first.takes}

    def prefix(self, number: int) -> str:
        """In front of the names of all that comes of a block, from 0."""
        return f"to_layer_{self._blocks[number].last:02d}/"

    def answers(self, names: tuple[str, str], batch: str) -> list[ValueInfoProto]:
        """Logits and exit layers of these names, for as many texts as `batch` stands for."""
        return [
            make_tensor_value_info(names[0], TensorProto.FLOAT, [batch, self.classes]),
            make_tensor_value_info(names[1], TensorProto.INT64, [batch]),
        ]

    def add_block(self, graph: GraphProto, number: int, known: dict[str, str]) -> dict[str, str]:
        """Add a block alone, and give what is known after it."""
        block, prefix = self._blocks[number], self.prefix(number)
        names = {each.name: known[each.name] for each in block.takes}
        for weight in block.model.graph.initializer:
            own = graph.initializer.add()
            own.CopyFrom(weight)
            own.name = prefix + weight.name
        for node in block.model.graph.node:
            own = graph.node.add()
            own.CopyFrom(node)
            own.name = ""  # it may have none, and each has to be another
            own.input[:] = [name and names.get(name, prefix + name) for name in node.input]
            own.output[:] = [name and prefix + name for name in node.output]
        return known | {each.name: prefix + each.name for each in block.gives}

    def nest(self, graph: GraphProto, number: int, known: dict[str, str]) -> tuple[str, str]:
        """Add a block and, inside an `If`, all that follow; the names of logits and exit layers."""
        known = self.add_block(graph, number, known)
        prefix, logits = self.prefix(number), known[LOGITS]
        own = f"{prefix}own_layer"
        layer = make_tensor("layer", TensorProto.INT64, [1], [self._blocks[number].last])
        graph.node.extend(
            [
                make_node("Shape", [logits], [f"{prefix}count"], end=1),
                make_node("ConstantOfShape", [f"{prefix}count"], [own], value=layer),
            ]
        )
        if number == len(self._blocks) - 1:
            return logits, own
        stays, any_stays = f"{prefix}stays", f"{prefix}any_stays"
        graph.node.extend(_staying(prefix, logits, stays, any_stays))
        given = f"{prefix}answer", f"{prefix}layer"
        choice = graph.node.add(op_type="If", input=[any_stays], output=given)
        there, here = (
            choice.attribute.add(name=name, type=AttributeProto.GRAPH).g for name in ("then_branch", "else_branch")
        )
        there.name, here.name = f"{prefix}then", f"{prefix}else"
        left = dict(known)
        for each in self._read_after(number, known):
            if each.dims[0] == BATCH:
                left[each.name] = f"{prefix}left/{each.name}"
                there.node.append(make_node("Compress", [known[each.name], stays], [left[each.name]], axis=0))
        answers = self.nest(there, number + 1, left)
        there.node.append(make_node("NonZero", [stays], [f"{prefix}places"]))
        there.node.append(make_node("Transpose", [f"{prefix}places"], [f"{prefix}rows"], perm=[1, 0]))
        later, now = ((f"{prefix}{name}_logits", f"{prefix}{name}_layer") for name in ("then", "else"))
        for i, of_all in enumerate((logits, own)):
            there.node.append(make_node("ScatterND", [of_all, f"{prefix}rows", answers[i]], [later[i]]))
            here.node.append(make_node("Identity", [of_all], [now[i]]))
        batch = f"{self.prefix(number - 1)}left" if number else BATCH
        there.output.extend(self.answers(later, batch))
        here.output.extend(self.answers(now, batch))
        return given

    def _read_after(self, number: int, known: dict[str, str]) -> list[Named]:
        """What of the known is taken by blocks after this one."""
        takes = {each.name: each for block in self._blocks[number + 1 :] for each in block.takes}
        return [each for name, each in takes.items() if name in known]


def _staying(prefix: str, logits: str, stays: str, any_stays: str) -> list[NodeProto]:
    """Whose entropy is not below the threshold, and whether there is one.

    All is float32, as in the engine: of very sure texts, float64 would give other entropies than those that thresholds
    are chosen by. An entropy that is no number is not below, as there.
    """
    return [
        make_node("LogSoftmax", [logits], [f"{prefix}log_p"], axis=-1),
        make_node("Exp", [f"{prefix}log_p"], [f"{prefix}p"]),
        make_node("Mul", [f"{prefix}p", f"{prefix}log_p"], [f"{prefix}p_log_p"]),
        make_node("Constant", [], [f"{prefix}last_axis"], value_ints=[-1]),
        make_node("ReduceSum", [f"{prefix}p_log_p", f"{prefix}last_axis"], [f"{prefix}sum"], keepdims=0),
        make_node("Neg", [f"{prefix}sum"], [f"{prefix}entropy"]),
        make_node("Less", [f"{prefix}entropy", f"{THRESHOLD}_float32"], [f"{prefix}leaves"]),
        make_node("Not", [f"{prefix}leaves"], [stays]),
        make_node("Cast", [stays], [f"{prefix}stays_int"], to=TensorProto.INT32),
        make_node("ReduceMax", [f"{prefix}stays_int"], [f"{prefix}any_int"], keepdims=0),
        make_node("Cast", [f"{prefix}any_int"], [any_stays], to=TensorProto.BOOL),
    ]


def _weights(graph: GraphProto) -> Iterator[TensorProto]:
    """All of a graph, and of those inside it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _weights(attribute.g)
