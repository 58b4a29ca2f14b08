"""Which ONNX Runtime can know a file, by its opset and IR version."""

from __future__ import annotations

_RUNTIME_OF_OPSET = {
    13: "1.6", 14: "1.8", 15: "1.10", 16: "1.11", 17: "1.12", 18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18",
}  # fmt: skip
"""The first ONNX Runtime that knows an opset, from its compatibility table; newer opsets are left to the loader."""
_RUNTIME_OF_IR = {8: "1.10", 9: "1.15", 10: "1.18"}


def oldest_runtime(opset: int, ir_version: int) -> str:
    """The oldest ONNX Runtime that can know a file's opset and IR version, as far as the tables go."""
    floors = [_RUNTIME_OF_OPSET.get(opset), _RUNTIME_OF_IR.get(ir_version)]
    known = [floor for floor in floors if floor is not None]
    return max(known, key=lambda version: tuple(map(int, version.split(".")))) if known else "1.6"
