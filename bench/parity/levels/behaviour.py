"""How a loaded artifact behaves: the same call again, the same values in another layout, and what it must refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from bench.parity.cases import Tensors, Values
from bench.parity.check import Check, CheckStatus
from export.arrays import Array, to_numpy, to_torch
from export.backend import Runner
from export.signature import Signature

_REPEATS = 5


def behaviours(runner: Runner, inputs: Tensors) -> list[Check]:
    """Everything that one process can see."""
    again = determinism(runner, inputs)
    if again.status != "pass":
        message = "answers differ from call to call, so that layouts cannot be compared"
        return [
            again,
            Check(level="layouts", subject="inputs", status="unchecked", message=message),
            refusals(runner, inputs),
        ]
    return [again, *layouts(runner, inputs), refusals(runner, inputs)]


def layouts(runner: Runner, inputs: Tensors) -> list[Check]:
    """The same values in other memory layouts must give the same bits: compiled code that ignores strides misreads."""
    checks = []
    for name, lay in _LAYOUTS.items():
        laid = {key: lay(array) for key, array in inputs.items()}
        if all(laid[key].strides == array.strides for key, array in inputs.items()):
            continue
        plain = {key: np.ascontiguousarray(array) for key, array in laid.items()}
        expected = runner(plain)
        differing = {
            kind: _differing(expected, runner(given))
            for kind, given in (("NumPy", laid), ("torch", _as_torch(laid, runner.options.device)))
        }
        wrong = "; ".join(f"{kind} inputs: {what}" for kind, what in differing.items() if what)
        checks.append(
            Check(
                level="layouts",
                subject=name,
                status="fail" if wrong else "pass",
                message=f"{name} inputs are misread: {wrong}" if wrong else "the same bits as contiguous ones",
            )
        )
    return checks


def refusals(runner: Runner, inputs: Tensors) -> Check:
    """Every input that breaks the signature must be refused with an error."""
    accepted = []
    tried = 0
    for what, broken in _broken(runner.signature, inputs):
        tried += 1
        try:
            runner(broken)
        except Exception:  # noqa: BLE001, S112 - any refusal is the right answer; each runtime has its own type
            continue
        accepted.append(what)
    message = f"accepted {', '.join(accepted)}" if accepted else f"{tried} of {tried} wrong inputs refused"
    return Check(level="refusals", subject="inputs", status="fail" if accepted else "pass", message=message)


def determinism(runner: Runner, inputs: Tensors) -> Check:
    """The same call again in this process. Reported: a model with state differs by design; ``calls`` judges that."""
    first = runner(inputs)
    differing = next(filter(None, (_differing(first, runner(inputs)) for _ in range(_REPEATS))), None)
    status: CheckStatus = "reported" if differing else "pass"
    return Check(
        level="determinism",
        subject=f"{_REPEATS} more calls",
        status=status,
        message=differing or "bitwise the same",
    )


def _transposed(array: Values) -> Values:
    """The same values, in memory in the opposite order."""
    return np.asfortranarray(array) if array.ndim >= 2 else array


def _strided(array: Values) -> Values:
    """The same values, every second element of a larger array."""
    if array.ndim == 0:
        return array
    wide = np.repeat(array, 2, axis=-1)
    wide[..., 1::2] = 0
    return wide[..., ::2]


def _expanded(array: Values) -> Values:
    """The first row, for all rows, without a copy."""
    return np.broadcast_to(array[:1], array.shape) if array.ndim and len(array) > 1 else array


_LAYOUTS: dict[str, Callable[[Values], Values]] = {
    "transposed": _transposed,
    "strided": _strided,
    "expanded": _expanded,
}


def _broken(signature: Signature, inputs: Tensors) -> Iterator[tuple[str, Mapping[str, Array]]]:
    """Inputs that a caller may pass by mistake, one fault each."""
    for spec in signature.inputs:
        array = inputs[spec.name]
        for dtype in ("float64", "float32", "float16", "int64", "int32"):
            if dtype != spec.dtype:
                yield f"{spec.name} as {dtype}", {**inputs, spec.name: array.astype(dtype)}
        yield f"{spec.name} with a rank too many", {**inputs, spec.name: array[None]}
        if array.ndim:
            yield f"{spec.name} with a rank too few", {**inputs, spec.name: array[0]}
        for axis, dim in enumerate(spec.shape):
            wider = np.concatenate([array, array.take([-1], axis)], axis) if array.size else array
            if isinstance(dim, int) and array.size:
                yield f"{spec.name} with size {dim + 1} for {dim}", {**inputs, spec.name: wider}
                if dim > 1:
                    narrower = np.ascontiguousarray(array.take(range(dim - 1), axis))
                    yield f"{spec.name} with size {dim - 1} for {dim}", {**inputs, spec.name: narrower}
        yield f"no {spec.name}", {key: value for key, value in inputs.items() if key != spec.name}
    yield "an input too many", {**inputs, "surplus": next(iter(inputs.values()))}


def _as_torch(arrays: Mapping[str, Values], device: str) -> dict[str, Array]:
    """The arrays as tensors with the same strides."""
    import torch

    tensors: dict[str, Array] = {}
    for name, array in arrays.items():
        plain = np.array(array, order="C")
        tensor = to_torch(plain, device)
        steps = [stride // array.itemsize for stride in array.strides]
        if 0 in steps:
            tensor = tensor[:1].expand(tensor.shape)
        elif array.strides != plain.strides and array.size:
            room = 1 + sum((size - 1) * step for size, step in zip(array.shape, steps, strict=True))
            laid = torch.zeros(room, dtype=tensor.dtype, device=tensor.device).as_strided(array.shape, steps)
            tensor = laid.copy_(tensor)
        tensors[name] = tensor
    return tensors


def _differing(first: Mapping[str, Array], second: Mapping[str, Array]) -> str | None:
    """In a few words, how two answers differ; None if they are the same bits."""
    for name, one in first.items():
        a, b = to_numpy(one), to_numpy(second[name])
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{name} is {b.dtype}{list(b.shape)}, was {a.dtype}{list(a.shape)}"
        if a.tobytes() != b.tobytes():
            count = int((a != b).sum())
            largest = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) if a.dtype != bool else 1.0
            return f"{count} of {a.size} values of {name} differ, by {largest:.3g} at most"
    return None
