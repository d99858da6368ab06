"""Blocks of layers as ONNX graphs, of operators that the standard has, which every runtime reads."""

import itertools
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import ModelProto, numpy_helper

from deebert.base.errors import UserError
from deebert.export.blocks import Block, Cut, Named
from deebert.export.int8 import ONE, quantize
from deebert.export.watched import cannot_export

OPSET = 20  # the first with an operator for GELU
MAX_BYTES = 1_900_000_000  # protobuf holds no more than 2 GiB


@dataclass(frozen=True)
class Graph:
    """A block as a graph by itself.

    Attributes:
        last: its last layer, from 1.
        takes, gives: its tensors, by their names in `model`. It gives `logits` (B, C) first.
    """

    model: ModelProto
    last: int
    takes: list[Named]
    gives: list[Named]


def ends(num_layers: int, exits: Collection[int] | None = None) -> list[int]:
    """The last layer of each block: those of `exits`, in order, and the model's last.

    Args:
        exits: layers, from 1; None = each.

    Raises:
        UserError: one is deeper than the model.
    """
    if exits is None:
        return list(range(1, num_layers + 1))
    if (deepest := max(exits)) > num_layers:
        raise UserError(f"--exits: {deepest} is not allowed; expected layers from 1 to {num_layers}")
    return sorted({*exits, num_layers})


def block_graphs(cut: Cut, block_ends: list[int], precision: str, work: Path) -> Iterator[Graph]:
    """Each block as a graph, one at a time.

    Args:
        work: a folder with room for the file of a block, which the exporter writes.

    Raises:
        UserError: a block is too large for the exporter.
    """
    for before, last in itertools.pairwise([0, *block_ends]):
        block = cut.block(before + 1, last)
        _check_size(cut, block)
        model = _exported(block, work)
        takes = _described(model, block)
        if precision == "int8":
            quantize(model, exact=_values(block.before_layers()), coarse=_values(block.after_attention()))
            takes.append(Named(ONE, (1,), torch.ones(1)))
        yield Graph(model, last, takes, block.gives)


def _values(parameters: Iterable[torch.Tensor]) -> list[np.ndarray]:
    return [each.detach().numpy() for each in parameters]


def _check_size(cut: Cut, block: Block) -> None:
    weights = sum(parameter.nbytes for parameter in block.used())
    if weights <= MAX_BYTES:
        return
    told = f"and what comes before have {weights / 1e9:.1f} GB of weights, and PyTorch exports 2 at a time"
    if block.first == block.last:
        raise cannot_export(cut.model, f"layer {block.first} {told}")
    raise UserError(f"--exits: layers {block.first} to {block.last} {told}; expected an exit between them")


def _exported(block: Block, work: Path) -> ModelProto:
    named = [*block.takes, *block.gives]
    with tempfile.TemporaryDirectory(dir=work) as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are checked with Python, and of the exporter's age
        path = Path(folder) / "block.onnx"
        # The exporter that traces. The one by torch.export gives graphs of the same speed, and takes 20 times as long.
        torch.onnx.export(
            block,
            tuple(each.example for each in block.takes),
            path,
            input_names=[each.name for each in block.takes],
            output_names=[each.name for each in block.gives],
            dynamic_axes={each.name: each.dynamic for each in named},
            opset_version=OPSET,
            dynamo=False,
        )
        return onnx.load(path)


def _described(model: ModelProto, block: Block) -> list[Named]:
    """Which tensors the graph takes: it lacks what is not read, such as token types where there is one alone.

    The dimensions that it tells of become those of the block; the exporter forgets some sizes.
    """
    named = {each.name: each for each in (*block.takes, *block.gives)}
    for value in (*model.graph.input, *model.graph.output):
        for told, dim in zip(value.type.tensor_type.shape.dim, named[value.name].dims, strict=True):
            if isinstance(dim, int):
                told.dim_value = dim
    _fix_shapes(model)
    _keep_gelu(model.graph)
    return [named[each.name] for each in model.graph.input]


def _keep_gelu(graph: onnx.GraphProto) -> None:
    """Give what is added before a GELU three dimensions.

    Of one dimension, onnxruntime makes the two an operator of its own, which takes longer than both.
    """
    before_gelu = {node.input[0] for node in graph.node if node.op_type == "Gelu"}
    added: set[str] = set()
    elsewhere: set[str] = set()
    for node in graph.node:
        is_before_gelu = node.op_type == "Add" and node.output[0] in before_gelu
        (added if is_before_gelu else elsewhere).update(node.input)
    for each in graph.initializer:
        if each.name in added - elsewhere and len(each.dims) == 1:
            each.dims[:] = [1, 1, *each.dims]


def _fix_shapes(model: onnx.ModelProto) -> None:
    """Tell each `Reshape` its shape where that is known: 0 for a size as before, -1 for another.

    The exporter has it worked out by operators, anew in every layer: a tenth of those in a layer.
    """
    graph = model.graph
    shapes = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    dims = {
        each.name: [dim.dim_param or dim.dim_value or None for dim in each.type.tensor_type.shape.dim]
        for each in (*graph.input, *graph.output, *shapes.value_info)
    }
    for node in graph.node:
        if node.op_type != "Reshape" or not {node.input[0], node.output[0]} <= dims.keys():
            continue
        before, after = dims[node.input[0]], dims[node.output[0]]
        kept = {i for i, (old, dim) in enumerate(zip(before, after, strict=False)) if dim is not None and dim == old}
        sizes = [0 if i in kept else dim if isinstance(dim, int) else -1 for i, dim in enumerate(after)]
        if sizes.count(-1) <= 1:
            node.input[1] = f"{node.output[0]}_shape"
            graph.initializer.append(numpy_helper.from_array(np.array(sizes, dtype=np.int64), node.input[1]))
    read = {each.name for each in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if read & set(node.output):
            read |= set(node.input)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
