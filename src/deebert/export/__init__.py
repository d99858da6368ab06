"""A model as one ONNX graph that exits early by itself, and what runs it without PyTorch."""
