"""Whether what a model takes and gives can be sent to a server at all."""

from __future__ import annotations

from export.signature import Signature

_NOT_SENT = "bfloat16"
"""A dtype of neither NumPy nor the servers' requests."""


def not_servable(signature: Signature) -> list[str]:
    """Why its tensors cannot be sent; none if they can."""
    names = [spec.name for spec in (*signature.inputs, *signature.outputs) if spec.dtype == _NOT_SENT]
    if not names:
        return []
    return [
        f"{', '.join(names)} in {_NOT_SENT}, which its served forms do not take: hand over float32, and cast inside"
    ]
