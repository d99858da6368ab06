"""The plain model as an ONNX graph, which other libraries start from."""

import warnings
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from contenders.interface import Batch


def export(model_folder: Path, example: Batch, graph: Path) -> None:
    """Write the backbone's own forward in float32, for any number of sentences and tokens.

    By the older of PyTorch's two exporters: its graph answered as fast, and was made in an eighth of the time.
    """
    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    model.config.return_dict = False
    axes = {name: {0: "sentences", 1: "tokens"} for name in example}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # of the tracer, on every branch; whether the answers are right is counted
        torch.onnx.export(
            model,
            ({name: torch.from_numpy(values) for name, values in example.items()},),
            str(graph),
            input_names=list(example),
            output_names=["logits"],
            dynamic_axes={**axes, "logits": {0: "sentences"}},
            opset_version=17,
            dynamo=False,
        )
