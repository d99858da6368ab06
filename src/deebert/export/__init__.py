"""Models as ONNX graphs: one per block of layers, and what runs them without PyTorch."""
