"""A saved program as a closed world: read as torch reads it, and refused if anything of it could run when it is loaded.

``torch.export.load`` unpickles members of the archive, and without ``weights_only`` where the archive says so. Which
bytes a member has depends on the reader: of two members of one name, or of names that differ in case, readers take
different ones. So the members are looked at through torch's own reader, in the very bytes that torch is then given, and
only those are accepted that ``torch.export.save`` writes of one program whose weights are plain tensors.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader, constants

from export.errors import RecordError
from export.program_json import check_json, check_name

_NAME = "model"
"""What ``torch.export.save`` calls the one program of an archive."""
_PROGRAM = constants.MODELS_FILENAME_FORMAT.format(_NAME)
_EXAMPLE_INPUTS = constants.SAMPLE_INPUTS_FILENAME_FORMAT.format(_NAME)
_TENSORS = {
    constants.WEIGHTS_CONFIG_FILENAME_FORMAT.format(_NAME): constants.WEIGHTS_DIR + constants.WEIGHT_FILENAME_PREFIX,
    constants.CONSTANTS_CONFIG_FILENAME_FORMAT.format(_NAME): (
        constants.CONSTANTS_DIR + constants.TENSOR_CONSTANT_FILENAME_PREFIX
    ),
}
"""By configuration: how the members begin that it describes."""
_ALWAYS = {
    constants.ARCHIVE_FORMAT_PATH, constants.ARCHIVE_VERSION_PATH, ".data/version", ".data/serialization_id",
    "byteorder", _PROGRAM, _EXAMPLE_INPUTS, *_TENSORS,
}  # fmt: skip


def checked_program(data: bytes, path: Path) -> io.BytesIO:
    """The bytes of a saved program, read from ``path``, for ``torch.export.load``: nothing of them runs.

    What happens to the file afterwards changes nothing. While torch loads them, memory holds the weights twice.

    Raises:
        RecordError: names the member that could run, or that no program has.
    """
    with _refusing(f"{path} is not a program as torch saves it"):
        reader = PT2ArchiveReader(io.BytesIO(data))
        members = reader.get_file_names()
    if missing := sorted(_ALWAYS.difference(members)):
        raise RecordError(f"{path} lacks the member {missing[0]!r}, refused")
    known = set(_ALWAYS)
    for configuration, prefix in _TENSORS.items():
        with _refusing(f"{path}: the member {configuration!r}"):
            known.update(_tensors(reader.read_string(configuration), prefix))
    for number, member in enumerate(members):
        if member not in known:
            raise RecordError(f"{path} has the member {member[:200]!r}, which is none of a program's, refused")
        if member in members[:number]:
            raise RecordError(f"{path} has the member {member!r} twice, refused")
    with _refusing(f"{path}: the member {_PROGRAM!r}"):
        check_json(json.loads(reader.read_string(_PROGRAM)))
    with _refusing(f"{path}: the member {_EXAMPLE_INPUTS!r} is not plain tensors that load with weights_only=True"):
        if pickled := reader.read_bytes(_EXAMPLE_INPUTS):  # torch's own first try; it unpickles fully where this fails
            _check_keys(torch.load(io.BytesIO(pickled), weights_only=True))
    return io.BytesIO(data)


def _tensors(configuration: str, prefix: str) -> Iterator[str]:
    """The members that a configuration describes: each the bytes of a tensor, never a pickle.

    Raises:
        ValueError: it describes something else.
    """
    payloads = json.loads(configuration)["config"]
    check_json(payloads)
    folder, _, start = prefix.rpartition("/")
    for tensor, payload in payloads.items():
        if payload["use_pickle"] is not False or not re.fullmatch(f"{start}[0-9]+", payload["path_name"]):
            raise ValueError(f"torch would unpickle {tensor!r} from {payload['path_name']!r}")
        yield f"{folder}/{payload['path_name']}"


def _check_keys(inputs: Any) -> None:
    """The keys of nested inputs are names: torch writes them into the source of guards."""
    if isinstance(inputs, Mapping):
        for key, value in inputs.items():
            check_name(key)
            _check_keys(value)
    elif isinstance(inputs, list | tuple):
        for value in inputs:
            _check_keys(value)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Whatever a forged or damaged file raises in a reader makes it refused."""
    try:
        yield
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")
        raise RecordError(f"{what}, refused: {type(error).__name__}: {reason[:300]}") from error
