"""How files are made: PyTorch's ONNX exporters, quantisation, and how Inductor is told to compile."""
