"""The Open Inference Protocol v2 in JSON, with the extension for binary tensors."""
