"""Graphs of blocks joined to one, which stops early by itself: each block but the first is inside an `If`.

A text leaves at the first ramp whose entropy is below the threshold, an input (Xin et al., ACL 2020, section 3.2).
Within an `If` are those that stay, put together. If none does, nothing of it runs.

Weights are where they are read: onnxruntime packs none for its products that come from outside of an `If`, and took 1.4
times as long. And no `If` is inside another: onnxruntime keeps a copy of all that an `If` holds. With 12 blocks inside
each other, weights of 0.44 GB took 2.7 GB of memory, and six times as long to load.

Shapes: B texts, S of them that stay, T tokens of the longest, H width, C classes, E blocks and so exits.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.helper import make_node, make_tensor, make_tensor_value_info

from deebert.export.blocks import BATCH
from deebert.export.graphs import MAX_BYTES, Graph
from deebert.export.int8 import ONE, one_of

LOGITS, EXIT_LAYER, THRESHOLD = "logits", "exit_layer", "threshold"
ANY_STAYS, ROWS, HIDDEN = "any_stays", "rows", "hidden"
LEAST_APART = 1024  # bytes of a tensor that goes into a file of weights

Names = dict[str, str]  # of tensors in the graph


def early_exit(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks. It takes what the first block takes, and `threshold` in nats, () float64.

    It gives `logits` (B, C) float32, each of the exit that its text left at, and `exit_layer` (B,) int64, from 1.
    """
    joined = _Joined(blocks)
    model, graph, known = joined.begin()
    graph.input.append(make_tensor_value_info(THRESHOLD, TensorProto.DOUBLE, []))
    graph.node.append(make_node("Cast", [THRESHOLD], [f"{THRESHOLD}_float32"], to=TensorProto.FLOAT))
    known |= joined.add_block(graph, 0, known)
    reached = joined.add_exit(graph, 0, known)
    for number in range(1, len(blocks)):
        reached = joined.add_choice(graph, number, known, reached)
    for part in (LOGITS, EXIT_LAYER):
        graph.node.append(make_node("Identity", [reached[part]], [part]))
        graph.output.append(joined.described(part, part))
    return model


def all_exits(blocks: Sequence[Graph]) -> ModelProto:
    """One graph of blocks that nobody leaves early. It gives `logits` (B, E, C) float32 of every exit."""
    joined = _Joined(blocks)
    model, graph, known = joined.begin()
    exits = []
    for number in range(len(blocks)):
        known |= joined.add_block(graph, number, known)
        exits.append(f"{joined.prefix(number)}exit")
        axis = f"{joined.prefix(number)}axis"
        graph.node.append(make_node("Constant", [], [axis], value_ints=[1]))
        graph.node.append(make_node("Unsqueeze", [known[LOGITS], axis], exits[-1:]))
    graph.node.append(make_node("Concat", exits, [LOGITS], axis=1))
    graph.output.append(make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, len(blocks), joined.classes]))
    return model


def save_graph(model: ModelProto, path: Path) -> str | None:
    """Write a graph and, where one file cannot hold it, its weights beside it.

    One file is better where it does: onnxruntime opens no links to weights that are read within an `If`, and in a
    browser no file of them at all.

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
    """Blocks that are added to a graph, with names of their own for all tensors.

    What is reached after an exit are up to five tensors. After the last exit they are two, since no text goes on:

    | | | |
    |---|---|---|
    | `logits` | (B, C) float32 | of the last exit that each text has reached |
    | `exit_layer` | (B,) int64 | the layer of that exit |
    | `any_stays` | () bool | whether a text goes on |
    | `rows` | (S,) int64 | which ones do |
    | `hidden` | (S, T, H) float32 | their hidden states |
    """

    def __init__(self, blocks: Sequence[Graph]) -> None:
        self._blocks = blocks
        self.classes = blocks[0].gives[0].dims[1]

    def begin(self) -> tuple[ModelProto, GraphProto, Names]:
        """An empty model, its graph, and what is known in it: by names in the blocks, those in the graph."""
        first = self._blocks[0]
        model = ModelProto(ir_version=first.model.ir_version)
        model.opset_import.extend(first.model.opset_import)
        model.graph.name = "early_exit"
        given = [each for each in first.takes if each.name != ONE]
        for each in given:
            model.graph.input.append(make_tensor_value_info(each.name, TensorProto.INT64, each.dims))
        if len(given) < len(first.takes):
            model.graph.node.extend(one_of(given[0].name))
        return model, model.graph, {each.name: each.name for each in first.takes}

    def prefix(self, number: int) -> str:
        """In front of the names of all that comes of a block, from 0."""
        return f"to_layer_{self._blocks[number].last:02d}/"

    def described(self, part: str, name: str) -> ValueInfoProto:
        """An output `name` of a graph, which is a part of what is reached.

        How many texts stay has no name. One of the same name after each exit would be taken for one number.
        """
        known = {
            LOGITS: (TensorProto.FLOAT, [BATCH, self.classes]),
            EXIT_LAYER: (TensorProto.INT64, [BATCH]),
            ANY_STAYS: (TensorProto.BOOL, []),
            ROWS: (TensorProto.INT64, [None]),
            HIDDEN: (TensorProto.FLOAT, [None] * 3),
        }
        return make_tensor_value_info(name, *known[part])

    def add_block(self, graph: GraphProto, number: int, known: Names) -> Names:
        """Add a block alone, and give what it gives."""
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
        return {each.name: prefix + each.name for each in block.gives}

    def add_exit(self, graph: GraphProto, number: int, made: Names, before: Names | None = None) -> Names:
        """Add the exit of a block; what is reached after it.

        Args:
            made: what the block gives, of all texts or of those that stayed.
            before: what was reached before; None = all texts ran through the block.
        """
        prefix, logits = self.prefix(number), made[LOGITS]
        reached = {LOGITS: logits, EXIT_LAYER: f"{prefix}own_layer"}
        layer = make_tensor("layer", TensorProto.INT64, [1], [self._blocks[number].last])
        count = f"{prefix}count"
        graph.node.append(make_node("Shape", [logits], [count], end=1))
        graph.node.append(make_node("ConstantOfShape", [count], [reached[EXIT_LAYER]], value=layer))
        if before:
            axis, places = f"{prefix}axis", f"{prefix}places"
            graph.node.append(make_node("Constant", [], [axis], value_ints=[1]))
            graph.node.append(make_node("Unsqueeze", [before[ROWS], axis], [places]))
            for part, own in list(reached.items()):
                reached[part] = f"{prefix}merged/{part}"
                graph.node.append(make_node("ScatterND", [before[part], places, own], [reached[part]]))
        if number == len(self._blocks) - 1:
            return reached
        stays = f"{prefix}stays"
        reached |= {part: f"{prefix}left/{part}" for part in (ANY_STAYS, ROWS, HIDDEN)}
        graph.node.extend(_staying(prefix, logits, stays, reached[ANY_STAYS]))
        if before:
            graph.node.append(make_node("Compress", [before[ROWS], stays], [reached[ROWS]], axis=0))
        else:
            place, flat = f"{prefix}place", f"{prefix}flat"
            graph.node.append(make_node("NonZero", [stays], [place]))
            graph.node.append(make_node("Constant", [], [flat], value_ints=[-1]))
            graph.node.append(make_node("Reshape", [place, flat], [reached[ROWS]]))
        graph.node.append(make_node("Compress", [made[self._hidden(number)], stays], [reached[HIDDEN]], axis=0))
        return reached

    def add_choice(self, graph: GraphProto, number: int, known: Names, before: Names) -> Names:
        """Add a block and its exit, for the texts that stay; what is reached after it. If none does, that is `before`.

        Args:
            known: what the first block gives, of all texts.
            before: what was reached before.
        """
        prefix = self.prefix(number)
        choice = graph.node.add(op_type="If", input=[before[ANY_STAYS]])
        run, skip = (
            choice.attribute.add(name=name, type=AttributeProto.GRAPH).g for name in ("then_branch", "else_branch")
        )
        run.name, skip.name = f"{prefix}run", f"{prefix}skip"
        taken = {self._hidden(number - 1): before[HIDDEN]}
        for each in self._blocks[number].takes:
            if each.name in taken:
                continue
            taken[each.name] = known[each.name]
            if each.dims[0] == BATCH:
                taken[each.name] = f"{prefix}taken/{each.name}"
                run.node.append(make_node("Gather", [known[each.name], before[ROWS]], [taken[each.name]], axis=0))
        then = self.add_exit(run, number, self.add_block(run, number, taken), before)
        reached = {}
        for part, name in then.items():
            skipped, reached[part] = f"{prefix}skipped/{part}", f"{prefix}reached/{part}"
            skip.node.append(make_node("Identity", [before[part]], [skipped]))
            run.output.append(self.described(part, name))
            skip.output.append(self.described(part, skipped))
        choice.output.extend(reached.values())
        return reached

    def _hidden(self, number: int) -> str:
        """The hidden states after a block that is not the last, by their name in blocks."""
        return self._blocks[number].gives[1].name


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
