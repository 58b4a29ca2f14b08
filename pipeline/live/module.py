"""A module that lives in one process, written down for others: its tensors as safetensors, the rest by cloudpickle.

A class that can be imported is named, and found again by its import; one that cannot (a script's, a notebook's own) is
written whole. Reading it runs code: it is read by the processes of its own run alone, after its digest was verified,
and no bundle holds it.
"""

from __future__ import annotations

import hashlib
import io
import json
import linecache
import os
import pickle  # noqa: TID251 - the user's own module, for the user's own processes; never part of what is shipped
import pickletools
import tempfile
from collections import ChainMap
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import CodeType
from typing import Any

import cloudpickle
import torch
from safetensors.torch import load, save
from torch import nn

from export.errors import UserError
from export.files import write_atomically

STRUCTURE, TENSORS, SOURCES = "module.pickle", "module.safetensors", "module.sources.json"
_NAMELESS = "<dynamic-code>"
"""What cloudpickle calls the file of all code that it writes."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A module as bytes."""

    structure: bytes
    tensors: bytes
    sources: dict[str, str] = field(default_factory=dict)
    """The text of each file that what is written whole was defined in, by its name then: TorchScript compiles it, and
    a refusal quotes the line."""
    imported: tuple[str, ...] = ()
    """Modules that whoever reads it imports, sorted."""

    @property
    def sha256(self) -> str:
        """The same for the same module in every process, unlike that of the structure's bytes: cloudpickle numbers
        the classes that it writes whole at random.
        """
        numbers = getattr(cloudpickle.cloudpickle, "_DYNAMIC_CLASS_TRACKER_BY_ID", {})
        hasher = hashlib.sha256(self.tensors)
        hasher.update(json.dumps(self.sources, sort_keys=True).encode())
        for opcode, argument, _ in pickletools.genops(self.structure):
            drawn = isinstance(argument, str) and argument in numbers
            hasher.update(repr((opcode.name, "" if drawn else argument)).encode("utf-8", "surrogatepass"))
        return hasher.hexdigest()


def written(module: nn.Module) -> Written:
    """A module as bytes, read back once.

    Raises:
        UserError: it holds what no other process can have; its place is named.
    """
    module = unwrapped(module)
    file = io.BytesIO()
    pickler = _Pickler(file)
    try:
        pickler.dump(module)
    except Exception as error:
        raise UserError(
            f"the model cannot be sent to another process: {_culprit(module)} cannot be written "
            f"({type(error).__name__}: {error}). Leave it out of the module, or write a recipe that builds the model"
        ) from error
    structure = file.getvalue()
    whole = Written(structure=structure, tensors=save(pickler.tensors), sources=pickler.sources)
    reader = _Unpickler(whole)
    reader.load()
    return replace(whole, imported=tuple(sorted(reader.imported)))


def write_module(folder: Path, whole: Written) -> list[Path]:
    """Write it into ``folder``; the files."""
    contents = {
        STRUCTURE: whole.structure, TENSORS: whole.tensors, SOURCES: json.dumps(whole.sources, sort_keys=True).encode(),
    }  # fmt: skip
    for name, data in contents.items():
        write_atomically(folder / name, data)
    return [folder / name for name in contents]


def read_module(folder: Path) -> nn.Module:
    """The module in ``folder``, whose digests the caller has verified; on the CPU.

    Raises:
        UserError: what it is made of cannot be imported here.
    """
    files = Written(structure=(folder / STRUCTURE).read_bytes(), tensors=(folder / TENSORS).read_bytes())
    for name, text in json.loads((folder / SOURCES).read_bytes()).items():
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    try:
        module = _Unpickler(files).load()
    except ImportError as error:
        raise UserError(
            f"the model is made of what cannot be imported in another process: {error}. Put it into a module on "
            "Python's path, or into the script itself"
        ) from error
    assert isinstance(module, nn.Module)
    return module


def unwrapped(module: nn.Module) -> nn.Module:
    """The module behind what ``torch.compile`` and the parallel wrappers make of it."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = module.module
        if not isinstance(inner, nn.Module):
            return module
        module = inner


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Plain tensors go by number; whatever else a tensor may be is written as torch writes it."""

    def __init__(self, file: io.BytesIO) -> None:
        self.dispatch_table = ChainMap({CodeType: self._code}, cloudpickle.Pickler.dispatch_table)
        super().__init__(file)  # which reads it
        self.tensors: dict[str, torch.Tensor] = {}
        self.sources: dict[str, str] = {}
        self._numbers: dict[int, tuple[str, bool, bool]] = {}
        self._held: list[torch.Tensor] = []

    def _code(self, code: CodeType) -> tuple[Any, ...]:
        """As cloudpickle writes it, which leaves out where it came from, with that: a file, or a notebook's cell by
        the digest of its text, since its name is another in every session.
        """
        make, arguments = cloudpickle.Pickler.dispatch_table[CodeType](code)
        text = "".join(linecache.getlines(code.co_filename))
        if not text:
            return make, arguments
        is_file = Path(code.co_filename).is_file() and not code.co_filename.startswith(tempfile.gettempdir())
        digest = hashlib.sha256(text.encode()).hexdigest()
        name = os.path.abspath(code.co_filename) if is_file else f"<cell {digest[:12]}>"
        self.sources[name] = text
        return make, tuple(name if argument == _NAMELESS else argument for argument in arguments)

    def persistent_id(self, value: Any) -> tuple[str, bool, bool] | None:
        """Its number, whether it is a parameter, and whether it takes a gradient."""
        if type(value) not in (torch.Tensor, nn.Parameter) or not _is_plain(value):
            return None
        if id(value) not in self._numbers:
            self._held.append(value)  # else its id might come again
            number = str(len(self._numbers))
            self.tensors[number] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
            self._numbers[id(value)] = (number, isinstance(value, nn.Parameter), value.requires_grad)
        return self._numbers[id(value)]


class _Unpickler(pickle.Unpickler):
    """Puts tensors in their places, and keeps the names of what was imported."""

    def __init__(self, files: Written) -> None:
        super().__init__(io.BytesIO(files.structure))
        self.imported: set[str] = set()
        self._tensors = load(files.tensors)
        self._made: dict[str, torch.Tensor] = {}

    def persistent_load(self, identity: Any) -> torch.Tensor:
        number, is_parameter, requires_grad = identity
        if number not in self._made:
            tensor = self._tensors[number]
            self._made[number] = (
                nn.Parameter(tensor, requires_grad) if is_parameter else tensor.requires_grad_(requires_grad)
            )
        return self._made[number]

    def find_class(self, module: str, name: str) -> Any:
        self.imported.add(module)
        attribute = super().find_class(module, name)
        return self._import if (module, name) == ("cloudpickle.cloudpickle", "subimport") else attribute

    def _import(self, name: str) -> Any:
        """A module that a function written whole refers to."""
        self.imported.add(name)
        importer: Callable[[str], Any] = cloudpickle.cloudpickle.subimport
        return importer(name)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether safetensors holds all that it is."""
    return (
        tensor.layout == torch.strided
        and not (tensor.is_meta or tensor.is_quantized or tensor.is_complex() or tensor.is_nested)
        and not vars(tensor)
    )


def _culprit(module: nn.Module) -> str:
    """The attribute that cannot be written, by its path; the module's own name where it is none alone."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in {"_modules", "_parameters", "_buffers"}:
                continue
            try:
                _Pickler(io.BytesIO()).dump(value)
            except Exception:  # noqa: BLE001 - which one raises is what is asked
                return f"{path}.{name}".lstrip(".")
    return type(module).__name__
