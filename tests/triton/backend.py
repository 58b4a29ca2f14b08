"""A Triton backend named ``onnxruntime``: stands in for the C++ one, which no package index has.

It is stricter than the real one: names, types, dimensions and the batch axis of the configuration must be those of the
file. As there, a reshape goes before the dimensions, and a tensor without dimensions is one of a single element. Copied
to ``<backends>/onnxruntime/model.py``; DLPack, since this core's NumPy bridge is older than NumPy 2.
"""

import json
import os

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

_TYPES = {
    "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(float16)": "TYPE_FP16",
    "tensor(int64)": "TYPE_INT64", "tensor(int32)": "TYPE_INT32", "tensor(bool)": "TYPE_BOOL",
    "tensor(int8)": "TYPE_INT8", "tensor(uint8)": "TYPE_UINT8",
}  # fmt: skip


class TritonPythonModel:
    """One instance of a model."""

    def initialize(self, args):  # type: ignore[no-untyped-def]
        """Open the file of this version, and hold the configuration against it."""
        config = json.loads(args["model_config"])
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        settings = onnxruntime.SessionOptions()
        threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "1")
        settings.intra_op_num_threads = int(threads)
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        batched = config.get("max_batch_size", 0) > 0
        for kind, tensors in (("input", self.session.get_inputs()), ("output", self.session.get_outputs())):
            declared = {one["name"]: one for one in config[kind]}
            found = {one.name: one for one in tensors}
            if declared.keys() != found.keys():
                raise pb_utils.TritonModelException(
                    f"{kind}s are {sorted(found)}, the configuration says {sorted(declared)}"
                )
            for name, tensor in found.items():
                dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape] or [1]
                shape = declared[name].get("reshape", {"shape": declared[name]["dims"]})["shape"]
                wanted = [-1] * batched + [int(dim) for dim in shape]
                if declared[name]["data_type"] != _TYPES[tensor.type] or wanted != dims:
                    raise pb_utils.TritonModelException(
                        f"{name} is {tensor.type} {dims}, the configuration says {declared[name]['data_type']} {wanted}"
                    )
        self.inputs = [(one.name, len(one.shape)) for one in self.session.get_inputs()]
        self.outputs = [one.name for one in self.session.get_outputs()]

    def execute(self, requests):  # type: ignore[no-untyped-def]
        """Each request by itself: what is tested is the core's handling of the repository."""
        responses = []
        for request in requests:
            fed = {}
            for name, rank in self.inputs:
                array = np.ascontiguousarray(np.from_dlpack(pb_utils.get_input_tensor_by_name(request, name)))
                fed[name] = array if rank else array.reshape(())
            outputs = [np.atleast_1d(output) for output in self.session.run(self.outputs, fed)]
            tensors = [pb_utils.Tensor.from_dlpack(name, out) for name, out in zip(self.outputs, outputs, strict=True)]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses
