"""Blocks of layers as ONNX files, of operators that the standard has, which every runtime reads."""

import itertools
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from deebert.base.errors import UserError
from deebert.export.blocks import Block, Cut, Named
from deebert.export.int8 import quantize

OPSET = 20  # the first with an operator for GELU
MAX_BYTES = 1_900_000_000  # protobuf holds no more than 2 GiB


@dataclass(frozen=True)
class Tensor:
    """A tensor of a graph, as the manifest tells of it: `batch` and `length` are open, as numbers are not."""

    name: str
    dtype: str
    dims: tuple[str | int, ...]


@dataclass(frozen=True)
class Graph:
    """A file, the layers in it from the first to the last, and what goes in and comes out, `logits` first."""

    file: str
    layers: tuple[int, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def ends(num_layers: int, num_blocks: int) -> list[int]:
    """The last layer of each block, for blocks as even as can be, of which the first ones are the smaller.

    Raises:
        UserError: there are more blocks than layers.
    """
    if num_blocks > num_layers:
        raise UserError(f"--blocks: {num_blocks} is not allowed; expected at most the model's {num_layers} layers")
    return [num_layers * block // num_blocks for block in range(1, num_blocks + 1)]


def write_graphs(cut: Cut, block_ends: list[int], precision: str, folder: Path) -> Iterator[Graph]:
    """Write `block-01.onnx` and so on into `folder`, one at a time.

    Raises:
        UserError: a block is too large for a file.
    """
    for number, (before, last) in enumerate(itertools.pairwise([0, *block_ends]), start=1):
        block = cut.block(before + 1, last)
        path = folder / f"block-{number:02d}.onnx"
        _write(block, path)
        takes = _described(path, block)
        if precision == "int8":
            quantize(path, exact=_values(block.before_layers()), coarse=_values(block.after_attention()))
        yield Graph(path.name, (before + 1, last), _told(takes), _told(block.gives))


def _values(parameters: Iterable[torch.Tensor]) -> list[np.ndarray]:
    return [each.detach().numpy() for each in parameters]


def _write(block: Block, path: Path) -> None:
    weights = sum(parameter.nbytes for parameter in block.used())
    if weights > MAX_BYTES:
        raise UserError(
            f"--blocks: layers {block.first} to {block.last} and what they read have {weights / 1e9:.1f} GB of weights,"
            " and an ONNX file holds 2; expected more blocks"
        )
    named = [*block.takes, *block.gives]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of sizes that are checked with Python, and of the exporter's age
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


def _described(path: Path, block: Block) -> list[Named]:
    """Which tensors the written graph takes: it lacks what is not read, such as token types where there is one alone.

    The dimensions that the file tells of become those of the block; the exporter forgets some sizes.
    """
    model = onnx.load(path)
    named = {each.name: each for each in (*block.takes, *block.gives)}
    for value in (*model.graph.input, *model.graph.output):
        for told, dim in zip(value.type.tensor_type.shape.dim, named[value.name].dims, strict=True):
            if isinstance(dim, int):
                told.dim_value = dim
    _fix_shapes(model)
    onnx.save(model, path)
    return [named[each.name] for each in model.graph.input]


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


def _told(tensors: list[Named]) -> tuple[Tensor, ...]:
    return tuple(Tensor(each.name, str(each.example.dtype).removeprefix("torch."), each.dims) for each in tensors)
