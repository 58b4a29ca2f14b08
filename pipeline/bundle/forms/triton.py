"""A Triton model repository: ``<repository>/<model>/config.pbtxt`` and ``<version>/<file>``.

Names, types and shapes come from the signature, the largest batch from the tested sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from export.device import CHILD_ENVIRONMENT, Cuda, device
from export.record import to_json
from export.signature import Signature, TensorSpec
from pipeline.bundle.forms.triton_config import TYPES, new_config, type_number, write_config
from pipeline.bundle.record import Shipped
from pipeline.verifier.files import link_or_copy
from pipeline.verifier.upgrade import runtime_option

RELEASE = "24.10"
"""The release of the container; the tests load the ONNX repository in its core, 2.51."""
VERSION = "1"
GPU_CONFIG, BATCHED_CONFIG = "gpu", "batched"
"""Variants of the configuration: ``tritonserver --model-config-name=gpu`` takes the one of this name."""
STRICT_FLOAT32 = {"use_tf32": "0"}
"""The option of ONNX Runtime's GPU provider by which float32 is multiplied as float32, as parity tested it.

Triton hands options of the accelerator on as they are (from 23.09 on).
"""
_ENVIRONMENT = " ".join(f"{name}={value}" for name, value in CHILD_ENVIRONMENT.items())
_AOTI_COMMENT = (
    f"Start the server with {_ENVIRONMENT}: its PyTorch backend has no setting for it, and cuDNN would multiply "
    "float32 as TF32, which is not what parity tested."
)
_WARM_ROWS = 32
_LEVELS = {"basic": -1, "extended": 1}
"""What Triton's ONNX Runtime backend calls the levels of optimisation; without one it takes all."""


def write_onnx_repository(
    repository: Path,
    name: str,
    model: Path,
    signature: Signature,
    shipped: Shipped,
    row: Mapping[str, np.ndarray[Any, Any]],
    *,
    joins: bool = True,
) -> None:
    """The repository of an ONNX file: ``config.pbtxt`` for CPUs, ``configs/gpu.pbtxt`` for GPUs, warm-up from ``row``.

    ``row`` holds real inputs by name: of one row where the server may join requests, else of a size that was tested.
    ``joins``: whether each row of a call is for itself.
    The file (and its external data, if it has any) is linked, not copied, where the file system can.
    """
    folder = repository / name
    (folder / VERSION).mkdir(parents=True)
    for file in (model, *model.parent.glob(f"{model.name}.*")):
        link_or_copy(file, folder / VERSION / file.name)
    batched = most_rows(signature, shipped) if joins else 0
    warmup = folder / "warmup"
    warmup.mkdir()
    for number, spec in enumerate(signature.inputs):  # numbers: two names may differ in case alone
        (warmup / f"{number}.bin").write_bytes(np.ascontiguousarray(row[spec.name]).tobytes())
    for kind, place in (
        ("KIND_CPU", folder / "config.pbtxt"),
        ("KIND_GPU", folder / "configs" / f"{GPU_CONFIG}.pbtxt"),
    ):
        config = _config(name, signature, batched)
        config.backend = "onnxruntime"
        config.instance_group.add(count=1, kind=kind)
        if kind == "KIND_CPU":
            config.parameters["intra_op_thread_count"].string_value = str(shipped.options.threads_count)
        else:
            accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=Cuda.kind)
            accelerator.parameters.update(STRICT_FLOAT32)
        if (level := _LEVELS.get(runtime_option(to_json(shipped.options), "optimization"))) is not None:
            config.optimization.graph.level = level
        _warm_up(config, signature, batched, row)
        write_config(config, place)


def write_aoti_repository(
    repository: Path, name: str, package: Path, signature: Signature, shipped: Shipped, *, joins: bool = True
) -> None:
    """The repository of an AOTInductor package: ``config.pbtxt``, ``configs/batched.pbtxt`` where rows may be joined.

    Triton's PyTorch backend takes the platform ``torch_aoti`` from release 26.03 on and joins requests to it from 26.06
    on. The first configuration, which every such release loads, does not ask for that. Tensors are named by place.
    ``joins``: whether each row of a call is for itself.
    """
    folder = repository / name
    (folder / VERSION).mkdir(parents=True)
    link_or_copy(package, folder / VERSION / "model.pt2")
    variants = {folder / "config.pbtxt": 0}
    if joins and most_rows(signature, shipped):
        variants[folder / "configs" / f"{BATCHED_CONFIG}.pbtxt"] = most_rows(signature, shipped)
    for place, batched in variants.items():
        config = _config(name, signature, batched)
        for prefix, tensors in (("INPUT", config.input), ("OUTPUT", config.output)):
            for index, tensor in enumerate(tensors):
                tensor.name = f"{prefix}__{index}"
        config.backend, config.platform = "pytorch", "torch_aoti"
        on_gpu = device(shipped.options.device).asynchronous
        config.instance_group.add(count=1, kind="KIND_GPU" if on_gpu else "KIND_CPU")
        write_config(config, place, _AOTI_COMMENT if on_gpu else "")


def aoti_refuses(signature: Signature) -> str | None:
    """Why Triton's PyTorch backend cannot serve a package of these tensors; None if it can."""
    scalars = [spec.name for spec in (*signature.inputs, *signature.outputs) if not spec.shape]
    return f"its PyTorch backend takes no tensor without dimensions, and {scalars[0]} is one" if scalars else None


def most_rows(signature: Signature, shipped: Shipped) -> int:
    """Triton's ``max_batch_size``: the most rows tested, where it may join requests; 0 where it may not.

    It may if the symbol that counts rows is the first dimension of every tensor and stands nowhere else, and one row
    was tested.
    """
    batch = signature.batch
    if batch is None or batch not in shipped.tested_sizes or shipped.tested_sizes[batch].min > 1:
        return 0
    tensors = (*signature.inputs, *signature.outputs)
    joined = all(spec.shape[:1] == (batch,) and batch not in spec.shape[1:] for spec in tensors)
    return shipped.tested_sizes[batch].max if joined else 0


def _config(name: str, signature: Signature, batched: int) -> Any:
    config = new_config()
    config.name = name
    config.max_batch_size = batched
    for tensors, specs in ((config.input, signature.inputs), (config.output, signature.outputs)):
        for spec in specs:
            _add(tensors, spec, batched)
    if batched > 1:
        config.dynamic_batching.SetInParent()  # and nothing more: a queue policy makes the core wait in steps of 0.5 s
    return config


def _add(tensors: Any, spec: TensorSpec, batched: int) -> None:
    """A tensor with its sizes without the batch, -1 for one that changes.

    The core knows no empty ``dims``. Where only the batch is left, clients see ``(batch, 1)`` and it is reshaped for
    the model. A tensor without any dimension is ``(1)`` to clients; there the core refuses a reshape, and the ONNX
    Runtime backend takes the one for the other.
    """
    shape = spec.shape[1:] if batched else spec.shape
    dims = [dim if isinstance(dim, int) else -1 for dim in shape]
    tensor = tensors.add(name=spec.name, data_type=TYPES[spec.dtype], dims=dims or [1])
    if batched and not dims:
        tensor.reshape.SetInParent()


def _warm_up(config: Any, signature: Signature, batched: int, row: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """One request of one row, and one of several; the server repeats the row."""
    for rows in sorted({1, min(_WARM_ROWS, batched)}) if batched else (0,):
        warmup = config.model_warmup.add(name=f"batch {rows}" if rows else "golden", batch_size=max(rows, 1))
        for number, spec in enumerate(signature.inputs):
            entry = warmup.inputs[spec.name]
            entry.data_type = type_number(spec.dtype)
            entry.dims.extend((row[spec.name].shape[1:] if batched else row[spec.name].shape) or (1,))
            entry.input_data_file = f"{number}.bin"
