"""torch as a runtime: what every backend that torch executes is wrapped in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.arrays import Array, is_numpy, to_numpy, to_torch
from export.backend import Backend, LoadOptions, Witness
from export.device import device


@dataclass(frozen=True, kw_only=True)
class TorchOptions:
    """What a torch backend can be told otherwise."""

    cuda_graph: bool = False
    """Whether a bound call on a GPU is captured once, and replayed from then on."""


@dataclass(frozen=True, kw_only=True)
class TorchBackend(Backend):
    """A backend without its model's source that torch executes."""

    options: type = TorchOptions

    def settings(self, before: LoadOptions, cores_count: int) -> list[LoadOptions]:
        """On a GPU whether a bound call is captured: the host's threads compute nothing there."""
        if not device(before.device).asynchronous:
            return super().settings(before, cores_count)
        now: TorchOptions = self.runtime_options(before)
        return [self.with_runtime(before, replace(now, cuda_graph=not now.cuda_graph))]

    def session(
        self, call: Callable[..., Sequence[Array]], options: LoadOptions, witness: Callable[[], Witness] | None = None
    ) -> TorchSession:
        """The call as these options ask for it."""
        return TorchSession(call, options, witness, captures=self.captures(options))

    def captures(self, options: LoadOptions) -> bool:
        """Whether bound calls become CUDA graphs.

        Raises:
            UserError: the device has none.
        """
        chosen: TorchOptions = self.runtime_options(options)
        if chosen.cuda_graph:
            device(options.device).check_captures()
        return chosen.cuda_graph


class TorchSession:
    """``Loaded`` around a callable on flat torch tensors."""

    def __init__(
        self,
        call: Callable[..., Sequence[Array]],
        options: LoadOptions,
        witness: Callable[[], Witness] | None = None,
        *,
        captures: bool = False,
    ) -> None:
        import torch

        torch.set_num_threads(options.threads_count)
        self._device = device(options.device)
        self._device.strict_float32()
        self._call = call
        self._witness = witness
        self._captures = captures
        self._inference_mode = torch.inference_mode
        self._is_inference_mode = torch.is_inference_mode_enabled

    def __call__(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """One call in inference mode; NumPy inputs are moved to the device, and the outputs back."""
        for array in inputs:
            if isinstance(array, np.ndarray):
                return self._from_host(inputs)
        return self._run(inputs)

    def _run(self, tensors: Sequence[Array]) -> Sequence[Array]:
        try:
            if self._is_inference_mode():
                return self._call(*tensors)
            with self._inference_mode():
                return self._call(*tensors)
        except RuntimeError as error:
            from export.gradients import asks_for_gradients, call_with_gradients

            if not asks_for_gradients(error):
                raise
            call = self._call
            self._call = lambda *given: call_with_gradients(call, given)
            return self._call(*tensors)

    def _from_host(self, inputs: Sequence[Array]) -> Sequence[Array]:
        outputs = self._run([to_torch(array, self._device) for array in inputs])
        return [to_numpy(output) for output in outputs] if is_numpy(inputs[0]) else outputs

    def bind(self, inputs: Sequence[Array]) -> Callable[[], Sequence[Array]]:
        """The call itself on these tensors, or its CUDA graph; run it inside ``torch.inference_mode()``."""
        tensors = [to_torch(array, self._device) for array in inputs]
        self._run(tensors)  # which finds out whether the call needs gradients
        if self._captures:
            replay = self._device.captured(lambda: self._run(tensors))

            def captured(kept: Sequence[Array] = tensors) -> Sequence[Array]:  # a graph keeps no tensor alive
                return replay()

            return captured
        call = self._call
        return lambda: call(*tensors)

    def witness(self) -> Witness:
        """The device asked for (torch raises rather than move a computation elsewhere), how float32 is multiplied."""
        witness = self._witness() if self._witness else Witness(device=self._device.name)
        return replace(witness, evidence={"float32_products": self._device.float32_products(), **witness.evidence})
