"""onnxruntime-gpu's wheel for one kind of GPU: 24 MB instead of 256, for a machine that little can be carried to.

    python -m tests.gpu.lean_wheel onnxruntime_gpu-1.31.1-cp312-....whl OUT_FOLDER [--architecture 90]

The provider's library holds machine code for many GPUs. That of others is overwritten with zeros, which compress to
nothing, and so are kernels of large language models for this one; offsets stay, and a dropped entry says that it is for
another GPU, so that the driver finds no code there rather than a damaged one. Needs ``zstandard``. Results that were
made with it say so: such a runtime is the published one but for what it cannot run.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tyro

_LIBRARY = "libonnxruntime_providers_cuda.so"
_LEFT_OUT = re.compile(r"onnxruntime/capi/(libonnxruntime_providers_tensorrt\.so|libonnxruntime\.so\.[\d.]+)$")
"""TensorRT's provider, and the library for C, which Python does not load."""
_LARGE = re.compile(r"5flash|[Mm]oe|MOE|[fF]pA_?[iI]ntB|MixedInput|kernel_mha|MainloopSm90|GroupProblemShape")
"""In names of kernels: attention in half precision, mixtures of experts, weights in four bits."""
_MAGIC = 0xBA55ED50
_ELF = 2
_NO_GPU_HERE = 120
"""The architecture that a dropped entry says it is for."""
_LZMA_FROM_BYTES = 1 << 16


@dataclass(frozen=True)
class Options:
    """Which wheel, and for which GPU."""

    wheel: tyro.conf.Positional[Path]
    out: tyro.conf.Positional[Path]
    architecture: int = 90
    """As in sm_90."""


@dataclass(frozen=True)
class _Entry:
    """Code for one architecture within a fat binary."""

    at: int
    kind: int
    architecture: int
    head_bytes: int
    payload_bytes: int
    packed_bytes: int
    unpacked_bytes: int


def main(options: Options) -> int:
    """Write the lean wheel."""
    target = options.out / options.wheel.name
    if target.resolve() == options.wheel.resolve():
        raise SystemExit("the lean wheel must lie in another folder than the published one")
    options.out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.wheel) as published, zipfile.ZipFile(target, "w") as lean:
        (record,) = [name for name in published.namelist() if name.endswith(".dist-info/RECORD")]
        rows = []
        for info in published.infolist():
            if info.filename == record or info.is_dir() or _LEFT_OUT.search(info.filename):
                continue
            data = published.read(info)
            if info.filename.endswith(_LIBRARY):
                data = trimmed(data, options.architecture)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{info.filename},sha256={digest},{len(data)}")
            _add(lean, info, data)
        _add(lean, published.getinfo(record), ("\n".join([*rows, f"{record},,"]) + "\n").encode())
    print(f"{target}: {target.stat().st_size / 1e6:.1f} MB of {options.wheel.stat().st_size / 1e6:.1f}")
    return 0


def trimmed(library: bytes, architecture: int) -> bytes:
    """The library with zeros for what this GPU cannot run, and for kernels of large language models.

    Raises:
        ValueError: its fat binaries are not laid out as known here.
    """
    data = bytearray(library)
    for entry in _entries(library):
        runs_there = entry.kind == _ELF and entry.architecture == architecture
        if runs_there and not _is_large(library, entry):
            continue
        if runs_there:
            struct.pack_into("<I", data, entry.at + 28, _NO_GPU_HERE)
        begins = entry.at + entry.head_bytes
        data[begins : begins + entry.payload_bytes] = bytes(entry.payload_bytes)
    return bytes(data)


def _entries(library: bytes) -> Iterator[_Entry]:
    at, size = _section(library, ".nv_fatbin")
    end = at + size
    while at < end:
        magic, _, head_bytes, fat_bytes = struct.unpack_from("<IHHQ", library, at)
        if magic != _MAGIC:
            if any(library[at : at + 8]):
                raise ValueError(f"no fat binary at {at:#x}")
            at += 8  # between two of them
            continue
        at, stop = at + head_bytes, at + head_bytes + fat_bytes
        while at < stop:
            kind, _, entry_bytes, payload_bytes = struct.unpack_from("<HHIQ", library, at)
            (packed_bytes,) = struct.unpack_from("<I", library, at + 16)
            (architecture,) = struct.unpack_from("<I", library, at + 28)
            (unpacked_bytes,) = struct.unpack_from("<Q", library, at + 56)
            yield _Entry(at, kind, architecture, entry_bytes, payload_bytes, packed_bytes, unpacked_bytes)
            at += entry_bytes + payload_bytes


def _is_large(library: bytes, entry: _Entry) -> bool:
    """Whether most kernels of a piece of code are those of large language models."""
    import zstandard

    begins = entry.at + entry.head_bytes
    packed = library[begins : begins + entry.packed_bytes]
    code = zstandard.ZstdDecompressor().decompress(packed, max_output_size=entry.unpacked_bytes)
    names = [name for name in _section_names(code) if name.startswith(".text.")]
    return bool(names) and sum(bool(_LARGE.search(name)) for name in names) > len(names) / 2


def _section(elf: bytes, wanted: str) -> tuple[int, int]:
    """Offset and size in bytes."""
    heads, names = _sections(elf)
    for (_, _, _, _, offset, size), name in zip(heads, names, strict=True):
        if name == wanted:
            return offset, size
    raise ValueError(f"no section {wanted}")


def _section_names(elf: bytes) -> list[str]:
    return _sections(elf)[1]


def _sections(elf: bytes) -> tuple[list[tuple[int, ...]], list[str]]:
    """Heads and names of a 64-bit ELF file's sections."""
    (table,) = struct.unpack_from("<Q", elf, 40)
    head_bytes, count, names_index = struct.unpack_from("<HHH", elf, 58)
    heads = [struct.unpack_from("<IIQQQQ", elf, table + head_bytes * index) for index in range(count)]
    names_at = heads[names_index][4]
    names = []
    for head in heads:
        begins = names_at + head[0]
        names.append(elf[begins : elf.index(b"\0", begins)].decode())
    return heads, names


def _add(archive: zipfile.ZipFile, like: zipfile.ZipInfo, data: bytes) -> None:
    info = zipfile.ZipInfo(like.filename, like.date_time)
    info.external_attr, info.create_system = like.external_attr, like.create_system
    info.compress_type = zipfile.ZIP_LZMA if len(data) > _LZMA_FROM_BYTES else zipfile.ZIP_DEFLATED
    archive.writestr(info, data, compresslevel=9)


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
