"""Programs that carry code: every way that is known to make ``torch.export.load``, or a call of what it loads, run it.

The code is harmless: it makes the folder ``ran``, so that it can be seen whether it ran.
"""

from __future__ import annotations

import io
import json
import os
import pickle  # noqa: TID251 - what is forged are pickles
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from export.program import quiet
from tests.archives.models import Small
from tests.archives.pack import Part, pack, parts_of

PROGRAM, INPUTS = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"


def _inputs(key: str) -> tuple[Any, ...]:
    return (torch.zeros(3, 2), "add", {key: torch.ones(2)})


def small_program() -> bytes:
    """It, saved by torch."""
    file = io.BytesIO()
    with quiet():
        batch = torch.export.Dim("batch", max=64)
        shapes = ({0: batch}, None, {"key": None})
        torch.export.save(torch.export.export(Small(), _inputs("key"), dynamic_shapes=shapes), file)
    return file.getvalue()


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = str(ran)

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (self.ran,))


def pickled(ran: Path) -> bytes:
    """The code as ``torch.load`` takes it."""
    file = io.BytesIO()
    torch.save(_Payload(ran), file)
    return file.getvalue()


def source(ran: Path) -> str:
    """The code as Python evaluates it."""
    return f"__import__('os').mkdir({str(ran)!r})"


Make = Callable[[list[Part], Path], "list[Part] | bytes"]


@dataclass(frozen=True)
class Forgery:
    """A way to arrange a program."""

    make: Make
    runs: Literal["loaded", "called"] | None = "loaded"
    """When torch by itself runs the code; None: not shown."""

    def of(self, program: bytes, ran: Path) -> bytes:
        """The program, forged: its code makes the folder ``ran``."""
        forged = self.make(parts_of(program), ran)
        return forged if isinstance(forged, bytes) else pack(forged)


def place_of(parts: list[Part], name: str) -> int:
    """The place of the member of that name, whatever folder all lie in."""
    return next(place for place, part in enumerate(parts) if part.name.partition(b"/")[2] == name.encode())


def beside(parts: list[Part], name: str | bytes) -> bytes:
    """A name in the folder that all members lie in."""
    return parts[0].name.partition(b"/")[0] + b"/" + (name if isinstance(name, bytes) else name.encode())


def with_data(name: str, change: Callable[[bytes, Path], bytes]) -> Make:
    """The member of that name holds something else."""

    def make(parts: list[Part], ran: Path) -> list[Part]:
        place = place_of(parts, name)
        changed = replace(parts[place], data=change(parts[place].data, ran))
        return [*parts[:place], changed, *parts[place + 1 :]]

    return make


def with_json(name: str, change: Callable[[Any, Path], Any]) -> Make:
    """The JSON of that name says something else."""

    def changed(data: bytes, ran: Path) -> bytes:
        value = json.loads(data)
        change(value, ran)
        return json.dumps(value).encode()

    return with_data(name, changed)


def added(name: str | bytes, data: Callable[[Path], bytes], *, first: bool = False) -> Make:
    """One more member."""

    def make(parts: list[Part], ran: Path) -> list[Part]:
        part = Part(name=beside(parts, name), data=data(ran))
        return [part, *parts] if first else [*parts, part]

    return make


def both(*makes: Make) -> Make:
    """One after another."""

    def make(parts: list[Part], ran: Path) -> list[Part]:
        for one in makes:
            changed = one(parts, ran)
            assert isinstance(changed, list)
            parts = changed
        return parts

    return make


def _renamed(name: str, new: str) -> Make:
    def make(parts: list[Part], ran: Path) -> list[Part]:
        place = place_of(parts, name)
        return [*parts[:place], replace(parts[place], name=beside(parts, new)), *parts[place + 1 :]]

    return make


def _unpickled(config: Any, ran: Path) -> None:
    for payload in config["config"].values():
        if payload["path_name"] == "weight_0":
            payload["use_pickle"] = True


def _other_class(config: Any, ran: Path) -> None:
    (payload,) = config["config"].values()
    payload.update(path_name="opaque_obj_0", use_pickle=True, tensor_meta=None)


def _script_object(config: Any, ran: Path) -> None:
    (payload,) = config["config"].values()
    payload.update(path_name="custom_obj_0", use_pickle=True, tensor_meta=None)


def _size(program: Any, ran: Path) -> None:
    program["graph_module"]["graph"]["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = source(ran)


def _input_name(program: Any, ran: Path) -> None:
    renamed = json.loads(json.dumps(program).replace('"more_key"', json.dumps(f"more_key={source(ran)}")))
    program.clear()
    program.update(renamed)


def _guard(program: Any, ran: Path) -> None:
    program["guards_code"] = [source(ran)]


def _tree(program: Any, ran: Path) -> None:
    ran.with_name("imported_with_a_tree.py").write_text(f"{source(ran)}\n")
    context = [{"__enum__": True, "fqn": "imported_with_a_tree:Key", "name": "A"}]
    spec = {"type": "builtins.dict", "context": json.dumps(context), "children_spec": []}
    program["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = json.dumps([1, spec])


def _text(program: Any, ran: Path) -> None:
    """The value of an input that is a text."""
    forged = json.dumps(f"' + str({source(ran)}) + '")
    changed = json.loads(json.dumps(program).replace('{"as_string": "add"}', f'{{"as_string": {forged}}}'))
    program.clear()
    program.update(changed)


def _key(ran: Path) -> str:
    return f'" + str({source(ran)}) + "'.replace("'", '"')


def _key_in_tree(program: Any, ran: Path) -> None:
    signature = program["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = signature["in_spec"].replace(
        json.dumps(json.dumps(["key"])), json.dumps(json.dumps([_key(ran)]))
    )


def _inputs_by_key(_: bytes, ran: Path) -> bytes:
    file = io.BytesIO()
    torch.save((_inputs(_key(ran)), {}), file)
    return file.getvalue()


def _writing_operator(program: Any, ran: Path) -> None:
    inputs = {"filename": {"as_string": str(ran)}, "shared": {"as_bool": True}, "size": {"as_int": 2}}
    node = program["graph_module"]["graph"]["nodes"][-1]
    node["target"] = "torch.ops.aten.from_file.default"
    node["inputs"] = [{"name": name, "arg": value, "kind": 1 + (name != "filename")} for name, value in inputs.items()]


def _any_function(program: Any, ran: Path) -> None:
    node = program["graph_module"]["graph"]["nodes"][-1]
    node.update(target="torch.os.mkdir", inputs=[{"name": "", "arg": {"as_string": str(ran)}, "kind": 1}])


def _of_torch_2_7(parts: list[Part], ran: Path) -> bytes:
    program = parts[place_of(parts, PROGRAM)].data
    members = {
        "version": b"8.20", "serialized_exported_program.json": program, "serialized_state_dict.pt": pickled(ran),
        "serialized_constants.pt": b"", "serialized_example_inputs.pt": b"",
    }  # fmt: skip
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def _called_raw(member: str) -> Make:
    """A configuration, of which torch knows nothing, says that the member is no pickle."""
    folder, _, name = member.rpartition("/")
    config = {"config": {"w": {"path_name": name, "is_param": True, "use_pickle": False, "tensor_meta": None}}}
    return added(f"{folder}/another_config.json", lambda ran: json.dumps(config).encode())


def _second_directory(parts: list[Part], ran: Path) -> bytes:
    """Torch's reader follows the pointer to the directory's end, Python's takes what lies before that pointer."""
    evil = _EVIL_INPUTS(parts, ran)
    assert isinstance(evil, list)
    first = pack(evil)
    whole = bytearray(pack(parts, before=first))
    struct.pack_into("<4sLQL", whole, len(whole) - 42, b"PK\6\7", 0, len(first) - 98, 1)
    return bytes(whole)


_EVIL_INPUTS = with_data(INPUTS, lambda _, ran: pickled(ran))
FORGERIES: dict[str, Forgery] = {
    "the example inputs": Forgery(_EVIL_INPUTS),
    "the example inputs, which a configuration calls raw": Forgery(both(_EVIL_INPUTS, _called_raw(INPUTS))),
    "a weight that is unpickled": Forgery(
        both(with_json(WEIGHTS, _unpickled), with_data("data/weights/weight_0", lambda _, ran: pickled(ran)))
    ),
    "weights in the older layout": Forgery(added("data/weights/model.pt", pickled)),
    "weights in the older layout, which a configuration calls raw": Forgery(
        both(added("data/weights/model.pt", pickled), _called_raw("data/weights/model.pt"))
    ),
    "constants in the older layout": Forgery(added("data/constants/model.pt", pickled)),
    "the layout of torch 2.7": Forgery(_of_torch_2_7),
    "a member twice, the other first": Forgery(added(INPUTS, pickled, first=True)),
    "a member twice, the other last": Forgery(added(INPUTS, pickled), None),
    "a member's name in other case": Forgery(both(_EVIL_INPUTS, _renamed(INPUTS, INPUTS.upper()))),
    "a member in other case beside it": Forgery(added(INPUTS.upper(), pickled, first=True)),
    "a second directory": Forgery(_second_directory),
    "an object of some class": Forgery(
        both(
            with_json(CONSTANTS, _other_class),
            added("data/constants/opaque_obj_0", lambda ran: pickle.dumps(_Payload(ran))),
        )
    ),
    "an object of TorchScript": Forgery(
        both(with_json(CONSTANTS, _script_object), added("data/constants/custom_obj_0", pickled)), None
    ),
    "a compiled library": Forgery(added("data/aotinductor/model/a.wrapper.so", lambda ran: b"\x7fELF"), None),
    "a file beside": Forgery(added("extra/notes.txt", lambda ran: b"notes"), None),
    "the size of an input": Forgery(with_json(PROGRAM, _size)),
    "the name of an input": Forgery(with_json(PROGRAM, _input_name)),
    "the type of the outputs": Forgery(with_json(PROGRAM, _tree)),
    "a guard": Forgery(with_json(PROGRAM, _guard), "called"),
    "the value of an input": Forgery(with_json(PROGRAM, _text), "called"),
    "the key of an input": Forgery(both(with_data(INPUTS, _inputs_by_key), with_json(PROGRAM, _key_in_tree)), "called"),
    "an operator that writes files": Forgery(with_json(PROGRAM, _writing_operator), "called"),
    "any function": Forgery(with_json(PROGRAM, _any_function), None),
}
"""By what carries the code."""
