"""What runs files: ONNX Runtime, OpenVINO and torch, one file each; the only files that import them."""
