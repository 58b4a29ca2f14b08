"""NumPy arrays on the host, or torch tensors on a device: the two kinds of value that a runner takes and returns.

Nothing here imports torch until a torch tensor is at hand, so that an ONNX model can be served without it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

import ml_dtypes  # NumPy knows bfloat16 by its name from here on
import numpy as np

from export.device import HOST, Device

if TYPE_CHECKING:
    import torch

Array: TypeAlias = "np.ndarray[Any, Any] | torch.Tensor"


def is_numpy(array: Array) -> bool:
    """Whether the array lies in host memory as NumPy's."""
    return isinstance(array, np.ndarray)


def dtype_name(array: Array) -> str:
    """``float32``, ``int64``, ``bool``, ...: the same word for NumPy and torch."""
    return str(array.dtype).removeprefix("torch.")


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name; bfloat16 is one that ``ml_dtypes`` adds."""
    return np.dtype(name)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is one of real numbers, bfloat16 among them."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def float_limits(dtype: np.dtype[Any]) -> Any:
    """``eps``, ``tiny`` and ``max`` of a floating dtype."""
    if dtype.name == "bfloat16":
        return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    return np.finfo(dtype)


def layout(array: Array) -> Hashable:
    """Shape, dtype, device and memory order: what a contract can be broken by, in one comparison.

    Raises:
        AttributeError: neither a NumPy array nor a torch tensor.
    """
    if isinstance(array, np.ndarray):
        return array.shape, array.dtype, array.flags.c_contiguous
    return array.shape, array.dtype, array.device, array.is_contiguous()


def contiguous(array: Array) -> Array:
    """The same values in C order; no copy if they already are. Compiled code reads memory, not strides."""
    if isinstance(array, np.ndarray):
        return array if array.flags.c_contiguous else np.ascontiguousarray(array)
    return array if array.is_contiguous() else array.contiguous()


def to_torch(array: Array, where: Device = HOST) -> torch.Tensor:
    """A torch tensor on the device ``where``; shares memory with a NumPy array when that is the host.

    It is an ordinary tensor also where inference mode is on: torch.compile keeps other graphs for inference tensors.
    """
    import torch

    if isinstance(array, np.ndarray):
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False):
                tensor = _from_numpy(array)
        else:
            tensor = _from_numpy(array)
    else:
        tensor = array
    if where is HOST and tensor.is_cpu:
        return tensor
    with torch.inference_mode(False):
        return where.move(tensor)


def to_numpy(array: Array) -> np.ndarray[Any, Any]:
    """A NumPy array in host memory; shares it with a CPU tensor."""
    if isinstance(array, np.ndarray):
        return array
    host = array.detach().cpu()
    if dtype_name(host) == "bfloat16":  # NumPy's own conversion knows none
        import torch

        return host.contiguous().view(torch.int16).numpy().view(numpy_dtype("bfloat16"))
    return host.numpy()


def _from_numpy(array: np.ndarray[Any, Any]) -> torch.Tensor:
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
