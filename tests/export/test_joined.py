"""Exits inside a graph: texts leave where they leave in the engine."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from deebert.exits.rule import entropy
from deebert.export.graphs import OPSET
from deebert.export.joined import THRESHOLD, _staying


@pytest.mark.parametrize("classes", [2, 77])
def test_the_surest_leave_as_in_the_engine(classes: int) -> None:
    """Beyond a lead of 16 float32 does not tell the top probability from 1; thresholds were chosen on its entropies."""
    nodes = [make_node("Cast", [THRESHOLD], [f"{THRESHOLD}_float32"], to=TensorProto.FLOAT)]
    graph = make_graph(
        [*nodes, *_staying("ramp_", "logits", "stays", "any_stays")],
        "exit",
        [
            make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
            make_tensor_value_info(THRESHOLD, TensorProto.DOUBLE, []),
        ],
        [make_tensor_value_info("stays", TensorProto.BOOL, ["batch"])],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits = torch.zeros(400, classes)
    logits[:, 0] = torch.linspace(0, 60, 400)
    logits[1] = torch.nan  # is sure of nothing
    logits[2, 0] = 200  # as sure as can be: its entropy is 0, and not below 0
    entropies = entropy(logits).numpy()
    ordered = np.sort(entropies[~np.isnan(entropies)].astype(np.float64))
    between = [(low + high) / 2 for low, high in itertools.pairwise(ordered) if high > 1.001 * low]
    assert len(between) > 300 and min(between) < 1e-20
    for nats in (0.0, *between):
        (stays,) = session.run(["stays"], {"logits": logits.numpy(), THRESHOLD: np.array(nats)})
        assert stays.tolist() == (~(entropies < np.float32(nats))).tolist()
