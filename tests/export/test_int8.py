"""Linear maps in an ONNX graph in int8, against the engine's."""

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from deebert.export.int8 import ONE, quantize
from deebert.inference.precisions import Int8Linear, Rounding

WIDTH = 48


@pytest.mark.parametrize("coarse", [(), ("c",)])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 1), (3, 5)])
def test_maps_are_the_engines(batch: int, length: int, coarse: tuple[str, ...]) -> None:
    """Two of the same states with other widths and one of the first's GELU; one token alone; a token of zeros."""
    torch.manual_seed(0)
    sizes = {"a": ("states", WIDTH, 32), "b": ("states", WIDTH, 8), "c": ("read", 32, 16)}
    maps = {name: nn.Linear(wide, out, bias=False) for name, (_, wide, out) in sizes.items()}
    nodes = [helper.make_node("MatMul", [read, f"{name}_weight"], [name]) for name, (read, *_) in sizes.items()]
    nodes.insert(2, helper.make_node("Gelu", ["a"], ["read"]))
    graph = helper.make_graph(
        nodes,
        "maps",
        [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "length", WIDTH])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", out])
            for name, (*_, out) in sizes.items()
        ],
        [
            numpy_helper.from_array(np.ascontiguousarray(linear.weight.detach().T.numpy()), f"{name}_weight")
            for name, linear in maps.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    quantize(model, coarse=[maps[name].weight.detach().numpy() for name in coarse])
    whole = [node.op_type for node in model.graph.node]
    assert whole.count("MatMulInteger") == 2  # a and b are one
    states = torch.randn(batch, length, WIDTH) * torch.logspace(-3, 2, WIDTH)
    states[-1, -1] = 0
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    known = {"states": states.numpy(), ONE: np.ones(1, dtype=np.float32)}
    known |= zip(sizes, session.run(list(sizes), known), strict=True)
    known["read"] = nn.functional.gelu(torch.from_numpy(known["a"])).numpy()
    firsts = torch.arange(batch) * length
    for name, (read, *_) in sizes.items():
        reads = torch.from_numpy(known[read]).flatten(0, 1)
        rounding = Rounding(None if name in coarse else firsts)
        expected = Int8Linear(maps[name])(reads, rounding).view(batch, length, -1).detach()
        np.testing.assert_allclose(known[name], expected, atol=1e-5 * float(expected.abs().max()))
