"""Accept or refuse a bundle on the machine where it is to serve.

    python -m pipeline.verify DIR [options]     where Torchstone is installed
    python verify.py [options]                  the same as one file, which lies in every bundle

In order: every file against the manifest, the signature, the chain of records, what the artifact needs, what its file
really holds; then, in a process of its own with limits on memory and time, the golden answers, the cold start and the
latency. Nothing is loaded before all that can be checked without loading it has been. Needs the standard library alone;
running ``model.onnx`` needs numpy and onnxruntime, any other artifact Torchstone, a signature model-signing.

Exit code 0: accepted; 1: refused, and why; 2: usage or environment.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # no file of a bundle, where a person may stand, shadows a module that is imported here
    import os

    _here = os.getcwd() if __package__ else os.path.dirname(os.path.abspath(__file__))
    if not (__package__ and sys.flags.safe_path):  # with -P nobody added it
        sys.path[:] = [place for place in sys.path if os.path.abspath(place or ".") != _here]


import argparse
import hashlib
import json
import mmap
import os
import platform
import re
import stat
import subprocess
import sys
import tarfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple


"""How a check ends when it does not accept, and the careful reading of small JSON files."""


_RECORD_BYTES = 64 << 20


class Refused(Exception):  # noqa: N818 - the word of judgement that a person reads
    """The bundle is not what it says, or does not do here what it must."""


class Unable(Exception):  # noqa: N818
    """This machine or this call cannot check it."""


def read_plain(path: Path, what: str) -> bytes:
    """A small plain file in the bundle, whole."""
    try:
        mode = os.lstat(path)
        if not stat.S_ISREG(mode.st_mode):
            raise Refused(f"{what} is no plain file")
        if mode.st_size > _RECORD_BYTES:
            raise Refused(f"{what} has {mode.st_size} bytes, more than any bundle's")
        return path.read_bytes()
    except FileNotFoundError:
        raise Refused(f"{what} is missing: {path.parent} is no bundle") from None
    except OSError as error:
        raise Unable(f"{path} cannot be read: {error.strerror}") from None


def parse_json(data: bytes, what: str) -> Any:
    """JSON without doubled members and without NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) != len(pairs):
            raise ValueError("a member is doubled")
        return members

    def never(text: str) -> Any:
        raise ValueError(f"{text} is no JSON number")

    try:
        return json.loads(data, object_pairs_hook=unique, parse_constant=never)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what} is not JSON: {str(error)[:200] or 'nested too deeply'}") from None


"""The manifest, and a folder held against it: every file as listed, and nothing else."""


MANIFEST, SIGNATURE = "manifest.json", "model.sig"
MANIFEST_SCHEMA = "torchstone.manifest/1"
_FILES_COUNT, _DEPTH, _PATH_LENGTH = 100_000, 32, 1024
_BAR_AFTER_S = 1.0


class Listed(NamedTuple):
    """One file of the manifest."""

    path: str
    size_bytes: int
    sha256: str


def read_manifest(data: bytes) -> list[Listed]:
    """The files that a manifest lists.

    Raises:
        Refused: not a manifest of this schema in canonical form, or a path that could leave the folder.
    """
    fields = parse_json(data, MANIFEST)
    if not isinstance(fields, dict) or fields.get("schema") != MANIFEST_SCHEMA:
        raise Refused(f"{MANIFEST} must have the schema {MANIFEST_SCHEMA!r}")
    if fields.keys() != {"schema", "key", "files"} or not isinstance(fields["key"], str):
        raise Refused(f"{MANIFEST} must have the members schema, key and files, got {sorted(fields)}")
    if _canonical(fields) != data:
        raise Refused(f"{MANIFEST} is not in canonical form: it was edited")
    files = fields["files"]
    if not isinstance(files, list) or not 0 < len(files) <= _FILES_COUNT:
        raise Refused(f"{MANIFEST} must list between 1 and {_FILES_COUNT} files")
    listed = [_listed(one) for one in files]
    paths = [one.path for one in listed]
    if paths != sorted(paths):
        raise Refused(f"{MANIFEST} must list files in order of their paths")
    seen: dict[str, str] = {}
    for path in paths:
        if (other := seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)) is not path:
            raise Refused(f"{MANIFEST} lists {path!r} and {other!r}, which are one file on some systems")
    return listed


def _listed(entry: Any) -> Listed:
    if not isinstance(entry, dict) or entry.keys() != {"path", "size_bytes", "sha256"}:
        raise Refused(f"{MANIFEST}: every file must have path, size_bytes and sha256, got {str(entry)[:100]}")
    path, size_bytes, sha256 = entry["path"], entry["size_bytes"], entry["sha256"]
    if not isinstance(path, str) or not is_inside(path) or path in (MANIFEST, SIGNATURE):
        raise Refused(f"{MANIFEST}: {str(path)[:200]!r} is not a relative path within the bundle")
    if type(size_bytes) is not int or not 0 <= size_bytes < 1 << 53:
        raise Refused(f"{MANIFEST}: size_bytes of {path} must be a number of bytes, got {str(size_bytes)[:50]}")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise Refused(f"{MANIFEST}: sha256 of {path} must be 64 hex digits, got {str(sha256)[:100]!r}")
    return Listed(path, size_bytes, sha256)


def is_inside(path: str) -> bool:
    """Whether a text is a plain relative POSIX path that stays in its folder on every system."""
    parts = path.split("/")
    plain = all(part not in ("", ".", "..") and not re.search(r'[\\:\x00-\x1f"<>|*?]', part) for part in parts)
    return plain and len(path) <= _PATH_LENGTH and len(parts) <= _DEPTH


def verify_files(folder: Path, listed: Sequence[Listed], progress: Callable[[int], None] = lambda _: None) -> None:
    """Check that the folder holds the listed files, unchanged, and nothing else; sizes first, since they cost nothing.

    ``progress`` hears how many more bytes were read.

    Raises:
        Refused: names a file that is missing, added, changed, or no plain file.
    """
    wanted = {one.path: one for one in listed}
    empty: list[str] = []
    found = dict(_walk(folder, len(listed) + 2, empty))
    for extra in (MANIFEST, SIGNATURE):
        found.pop(extra, None)
    if added := sorted(found.keys() - wanted.keys()):
        raise Refused(f"{added[0]} is not in the manifest" + (f", nor are {len(added) - 1} more" if added[1:] else ""))
    if missing := sorted(wanted.keys() - found.keys()):
        raise Refused(f"{missing[0]} is missing" + (f", and {len(missing) - 1} more" if missing[1:] else ""))
    if empty:
        raise Refused(f"the folder {empty[0]} is empty, a bundle has none")
    for path, size_bytes in found.items():
        if size_bytes != wanted[path].size_bytes:
            raise Refused(f"{path} has {size_bytes} bytes, the manifest says {wanted[path].size_bytes}")

    def check(one: Listed) -> None:
        if _sha256(folder / one.path, progress) != one.sha256:
            raise Refused(f"{one.path} is not the file that was shipped: its SHA-256 differs")

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(check, listed))


def _walk(folder: Path, most: int, empty: list[str]) -> Iterator[tuple[str, int]]:
    """Every file below a folder with its size, following nothing; gives up soon after ``most``. Fills ``empty``."""
    pending, count, folders = [""], 0, 0
    while pending:
        prefix = pending.pop()
        entries_count = 0
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                entries_count += 1
                path = prefix + entry.name
                mode = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(mode.st_mode):
                    folders += 1
                    if path.count("/") >= _DEPTH or folders > _FILES_COUNT:
                        raise Refused(f"{path[:200]}: folders are nested or many beyond any bundle")
                    pending.append(path + "/")
                elif stat.S_ISREG(mode.st_mode):
                    count += 1
                    if count > most:
                        raise Refused(f"there are more files than the manifest lists, such as {path}")
                    yield path, mode.st_size
                else:
                    kind = "a symbolic link" if stat.S_ISLNK(mode.st_mode) else "no plain file"
                    raise Refused(f"{path} is {kind}")
        if prefix and not entries_count:
            empty.append(prefix)


def _sha256(path: Path, progress: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    """RFC 8785 for what a manifest holds: texts and whole numbers, under ASCII names."""
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (ValueError, RecursionError):
        return b""


class Bar:
    """A bar on a terminal, from the first second on."""

    def __init__(self, total: int, quiet: bool) -> None:
        self._total, self._done, self._began = max(total, 1), 0, time.monotonic()
        self._lock, self._said = threading.Lock(), 0.0
        self._shown = not quiet and sys.stderr.isatty()

    def add(self, count: int) -> None:
        """So many more bytes."""
        with self._lock:
            self._done += count
            now = time.monotonic()
            if self._shown and now - self._began > _BAR_AFTER_S and now - self._said > 0.1:
                self._said = now
                share = self._done / self._total
                left_s = (now - self._began) * (1 / max(share, 1e-9) - 1)
                filled = "#" * int(30 * share)
                print(f"\rhashes      [{filled:<30}] {share:4.0%}, {left_s:.0f} s left ", end="", file=sys.stderr)

    def end(self) -> None:
        """Take the bar away."""
        if self._said:
            print("\r" + " " * 70 + "\r", end="", file=sys.stderr)


"""Archives inside a bundle: what torch would unpack is looked at before it does."""


_UNPACKED_RATIO, _UNPACKED_BYTES = 200, 64 << 20
"""No weights or code shrink by so much; below so many bytes it does not matter."""
_MEMBERS_COUNT = 100_000


def scan_archive(path: Path) -> None:
    """Refuse an archive whose members leave its folder, are links, or grow beyond what they can hold.

    Raises:
        Refused: names the archive and the member.
    """
    if path.suffix == ".tar":
        members = _of_tar(path)
    elif path.suffix in (".pt2", ".ts"):
        members = _of_zip(path)
    else:
        return
    if len(members) > _MEMBERS_COUNT:
        raise Refused(f"{path.name} has {len(members)} members, no artifact has so many")
    for name, _ in members:
        if not is_inside(name):
            raise Refused(f"{path.name} holds {name[:200]!r}, which would be unpacked elsewhere")
    unpacked = sum(size for _, size in members)
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_RATIO * path.stat().st_size):
        raise Refused(f"{path.name} would unpack to {unpacked} bytes")


def _of_zip(path: Path) -> list[tuple[str, int]]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [(one.filename.rstrip("/"), one.file_size) for one in archive.infolist()]
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None


def _of_tar(path: Path) -> list[tuple[str, int]]:
    found = []
    try:
        with tarfile.open(path, "r:") as archive:
            for one in archive:
                if not (one.isfile() or one.isdir()):
                    raise Refused(f"{path.name} holds {one.name[:200]!r}, which is no plain file")
                if one.name != ".":
                    found.append((one.name[2:] if one.name.startswith("./") else one.name, one.size))
                if len(found) > _MEMBERS_COUNT:
                    break
    except (tarfile.TarError, OSError, ValueError) as error:
        raise Refused(f"{path.name} is truncated or no archive: {error}") from None
    return found


"""The signature: checked with OpenSSF model-signing, by whoever is asked for."""


class Trust(NamedTuple):
    """Whose signature is asked for; nobody's if all are empty."""

    key: Path | None = None
    certificates: tuple[Path, ...] = ()
    identity: str | None = None
    issuer: str | None = None

    @property
    def asked(self) -> bool:
        """Whether a signature must be there."""
        return bool(self.key or self.certificates or self.identity)


def verify_signature(folder: Path, trust: Trust) -> str:
    """What there is to say of the signature.

    Raises:
        Refused: one is asked for and missing, or does not hold.
        Unable: model-signing is not installed, or a key cannot be read.
    """
    path = folder / SIGNATURE
    if not trust.asked:
        return "signed, not checked: give --key, --certificate or --identity" if path.exists() else "none"
    if not path.exists():
        raise Refused("a signature is asked for, and the bundle has none")
    try:
        from model_signing import hashing, verifying
    except ImportError:
        raise Unable("to check signatures: pip install 'torchstone[signing]' (model-signing and pyopenssl)") from None
    for given in (trust.key, *trust.certificates):
        if given is not None and not given.is_file():
            raise Unable(f"{given} is not there: give the file of the public key or certificate")
    config = verifying.Config().set_hashing_config(
        hashing.Config().use_file_serialization().set_ignored_paths(paths=[path], ignore_git_paths=False)
    )
    if trust.key:
        config.use_elliptic_key_verifier(public_key=trust.key)
    elif trust.certificates:
        config.use_certificate_verifier(certificate_chain=list(trust.certificates))
    else:
        config.use_sigstore_verifier(identity=trust.identity or "", oidc_issuer=trust.issuer or "")
    try:
        config.verify(folder, path)
    except Exception as error:  # noqa: BLE001 - the library raises many kinds; whatever it is, nothing was proved
        raise Refused(f"the signature does not hold: {type(error).__name__}: {str(error)[:300]}") from None
    return f"holds, by {trust.key or trust.identity or trust.certificates[0]}"


"""The chain of records, walked by digests from an artifact's proof to the recipe."""


def verify_lineage(folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> str:
    """Walk from an artifact's proof to the recipe by digests.

    Raises:
        Refused: a record that another one names is not the one in the bundle.
    """
    records, name = folder / "records", shipped["name"]
    places = {
        "recipe": records / "recipe.json",
        "checkpoint": records / "checkpoint.json",
        "program": records / "program.json",
        "reference": records / "reference.json",
        "verdict": records / "verdict.json",
        "artifact": records / "artifacts" / f"{name}.json",
        "parity": records / "parity" / f"{name}.json",
    }
    data = {what: read_plain(place, str(place.relative_to(folder))) for what, place in places.items()}
    fields = {what: parse_json(one, str(places[what])) for what, one in data.items()}
    try:
        digests = {what: record_digest(one) for what, one in data.items()}
        artifact, parity, verdict = fields["artifact"], fields["parity"], fields["verdict"]
        links = [
            ("the bundle", "verdict", bundle["verdict_sha256"]),
            ("the bundle", "artifact", shipped["artifact_sha256"]),
            ("the bundle", "parity", shipped["parity_sha256"]),
            ("the parity report", "artifact", parity["artifact_sha256"]),
            ("the parity report", "reference", parity["reference_sha256"]),
            ("the artifact", "checkpoint", artifact["checkpoint_sha256"]),
            ("the artifact", "program", artifact["program_sha256"]),
            ("the program", "checkpoint", fields["program"]["checkpoint_sha256"]),
            ("the verdict", "recipe", verdict["key"]),
        ]
        row = next(one for one in verdict["rows"] if one["name"] == name)
        judged, passed, good = row["artifact_sha256"], parity["status"], row["shippable"]
        made_of = shipped["lowered_from"] or shipped["artifact_sha256"]
        same = (shipped["allow_no_reference"], passed) in ((True, "no-reference"), (True, "pass"), (False, "pass"))
    except (KeyError, TypeError, StopIteration, IndexError, ValueError) as error:
        raise Refused(f"the records do not hold together: {type(error).__name__} {error}") from None
    for who, what, sha256 in links:
        if digests[what] != sha256:
            raise Refused(f"{who} names another {what} than {places[what].relative_to(folder)}")
    if judged != made_of:
        raise Refused(f"the verdict judged another artifact than {name}")
    if not good or not same:
        raise Refused(f"the verdict on {name} is that it may not ship (parity {passed})")
    return " <- ".join(
        f"{what} {digests[what][:8]}" for what in ("verdict", "parity", "artifact", "checkpoint", "recipe")
    )


def record_digest(data: bytes) -> str:
    """A record's digest: the SHA-256 of its canonical bytes without the member ``observed``.

    Raises:
        Refused: not the canonical bytes of one object.
    """
    try:
        members = _members(data.decode())
    except (ValueError, IndexError, RecursionError) as error:
        raise Refused(f"a record is not in canonical form: {str(error)[:100]}") from None
    kept = [text for name, text in members if name != "observed"]
    return hashlib.sha256(("{" + ",".join(kept) + "}").encode()).hexdigest()


def _members(text: str) -> list[tuple[str, str]]:
    """Names and texts of an object's members, spelled as they are."""
    decoder, place, found = json.JSONDecoder(), 1, []
    while text[place] != "}":
        start = place
        name, place = decoder.raw_decode(text, place)
        if text[place] != ":":
            raise ValueError("white space, or no colon")
        _, place = decoder.raw_decode(text, place + 1)
        found.append((name, text[start:place]))
        if text[place] not in ",}":
            raise ValueError("white space, or no comma")
        place += text[place] == ","
    if text[0] != "{" or text[place + 1 :]:
        raise ValueError("no single object")
    return found


"""What an artifact needs, held against this machine before anything of it is loaded."""


_ISA_FLAGS = {
    "AVX2": ("avx2", "fma"),
    "AVX512": ("avx512f", "avx512dq", "avx512vl", "avx512bw"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile",),
    "AMX_FP16": ("amx_fp16",),
}
"""Inductor's words for instruction sets, and Linux's for what they need."""


def cannot_run(needs: Mapping[str, str]) -> str | None:
    """Why an artifact with these needs cannot run on this machine; None if nothing speaks against it."""
    reasons = (_lacking(name, wanted) for name, wanted in needs.items())
    return next((reason for reason in reasons if reason is not None), None)


def _lacking(name: str, wanted: str) -> str | None:
    if name in ("torch", "onnxruntime", "openvino"):
        return _older(name, wanted)
    have = {"system": platform.system().lower, "machine": platform.machine, "compute_capability": _compute_capability}
    if name in have and (mine := have[name]()) != wanted:
        return f"it was built for {name.replace('_', ' ')} {wanted}, this is {mine or 'without one'}"
    if name == "cpu_isa" and (flags := _cpu_flags()):
        lacking = [isa for isa in wanted.split() if not flags.issuperset(_ISA_FLAGS.get(isa, ()))]
        if lacking:
            return f"it contains {lacking[0]} instructions, which this processor does not have"
    return None


def _older(name: str, wanted: str) -> str | None:
    """Whether the installed version is below what is wanted (``>=``), or of another minor version (``==``)."""
    have = installed(name)
    if have is None:
        return f"{name} is not installed: pip install {name}"
    mine, least = _numbers(have), _numbers(wanted)
    wrong = mine[:2] != least[:2] if wanted.startswith("==") else mine < least
    return f"it needs {name} {wanted}, this is {have}" if wrong else None


def installed(name: str) -> str | None:
    """The version of a package here, in any of its distributions."""
    for distribution in {"onnxruntime": ("onnxruntime", "onnxruntime-gpu")}.get(name, (name,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _cpu_flags() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux: the flags are not known, and nothing is said of them
    return set()


def _compute_capability() -> str | None:
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return told.split()[0].replace(".", "") if told.split() else None


"""What an ONNX file really holds, read from its wire format before any runtime sees it."""


_NODES_COUNT, _GRAPH_DEPTH = 250_000, 64
_PARTS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
"""The messages of onnx.proto that can hold a tensor, by field number."""


def scan_onnx(path: Path, listed: Mapping[str, int], prefix: str) -> int:
    """How many nodes an ONNX file has, read from its wire format alone: no runtime has seen the file yet.

    ``listed`` are the sizes of the bundle's files by path, ``prefix`` the folder of this one.

    Raises:
        Refused: no ONNX file, nested or large beyond any model, or with weights outside of the bundle.
    """
    nodes_count = 0
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise Refused(f"{path.name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            pending = [("model", 0, len(data), 0)]
            while pending:
                kind, start, end, depth = pending.pop()
                if depth > _GRAPH_DEPTH:
                    raise Refused(f"{path.name}: graphs are nested more than {_GRAPH_DEPTH} deep")
                external = []
                for number, begin, stop in _fields(data, start, end, path.name):
                    part = _PARTS[kind].get(number)
                    if part == "external":
                        external.append((begin, stop))
                    elif part is not None:
                        pending.append((part, begin, stop, depth + 1))
                    nodes_count += part == "node"
                    if nodes_count > _NODES_COUNT:
                        raise Refused(f"{path.name} has more than {_NODES_COUNT} nodes")
                if external:
                    _check_external(data, external, listed, prefix, path.name)
    if not nodes_count:
        raise Refused(f"{path.name} holds no graph")
    return nodes_count


def _check_external(
    data: mmap.mmap, entries: Sequence[tuple[int, int]], listed: Mapping[str, int], prefix: str, name: str
) -> None:
    """A tensor's weights elsewhere: in a file of the bundle beside this one, and within its size."""
    told = {}
    for begin, stop in entries:
        texts = {number: data[first:last] for number, first, last in _fields(data, begin, stop, name)}
        told[texts.get(1, b"")] = texts.get(2, b"").decode("utf-8", "replace")
    place = told.get(b"location", "")
    if not is_inside(place) or prefix + place not in listed:
        raise Refused(f"{name} wants weights from {place[:200]!r}, which is no file of the bundle")
    try:
        offset, length = int(told.get(b"offset", "0")), int(told.get(b"length", "0"))
    except ValueError:
        raise Refused(f"{name}: the place of external weights is no number") from None
    if min(offset, length) < 0 or offset + length > listed[prefix + place]:
        raise Refused(f"{name} wants {length} bytes from {offset} of {place}, which has {listed[prefix + place]}")


def _fields(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of every length-delimited field of a protobuf message; others are passed over."""
    place = start
    while place < end:
        key, place = _varint(data, place, end, name)
        wire = key & 7
        if wire == 2:
            length, place = _varint(data, place, end, name)
            if length > end - place:
                raise Refused(f"{name} is truncated or no ONNX file")
            yield key >> 3, place, place + length
            place += length
        elif wire == 0:
            _, place = _varint(data, place, end, name)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        else:
            raise Refused(f"{name} is no ONNX file")
    if place != end:
        raise Refused(f"{name} is truncated or no ONNX file")


def _varint(data: mmap.mmap, place: int, end: int, name: str) -> tuple[int, int]:
    value = shift = 0
    while place < end and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise Refused(f"{name} is truncated or no ONNX file")


"""The artifacts of a bundle as something to call: ONNX with numpy and onnxruntime alone, others through Torchstone."""


class OnnxArtifact:
    """The shipped ONNX file in ONNX Runtime, with the settings that it was proved with."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise Unable(f"{error}: pip install onnxruntime (or onnxruntime-gpu)") from None
        self._runtime, self._shipped = onnxruntime, shipped
        self._file = str(folder / shipped["file"])
        self._outputs = [one["name"] for one in bundle["signature"]["outputs"]]
        self.session = None

    def load(self) -> None:
        """Open the session."""
        self.session = self.open(self._file)

    def open(self, file: str) -> Any:
        """A session with the artifact's own settings."""
        options, runtime = self._shipped["options"], self._runtime
        levels = runtime.GraphOptimizationLevel
        settings = runtime.SessionOptions()
        settings.graph_optimization_level = {
            "off": levels.ORT_DISABLE_ALL, "basic": levels.ORT_ENABLE_BASIC,
            "extended": levels.ORT_ENABLE_EXTENDED, "all": levels.ORT_ENABLE_ALL,
        }[options["optimization"]]  # fmt: skip
        settings.intra_op_num_threads = options["threads_count"]
        settings.inter_op_num_threads = 1
        settings.log_severity_level = 4
        settings.add_session_config_entry("session.intra_op.allow_spinning", str(int(options["spinning"])))
        providers: list[Any] = ["CPUExecutionProvider"]
        if options["device"] != "cpu":
            runtime.preload_dlls()  # CUDA's libraries, from the packages that hold them
            settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
            providers = [("CUDAExecutionProvider", {"use_tf32": 0, "device_id": 0})]
        return runtime.InferenceSession(file, settings, providers=providers, enable_fallback=0)

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call."""
        return dict(zip(self._outputs, self.session.run(self._outputs, dict(inputs))))  # type: ignore[attr-defined]

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on memory that is bound once."""
        return bind_session(self.session, self._runtime, inputs, self._outputs, self._shipped["options"]["device"])


def bind_session(
    session: Any, runtime: Any, inputs: Mapping[str, Any], outputs: Sequence[str], device: str
) -> Callable[[], Any]:
    """ONNX Runtime's call on inputs and outputs bound once."""
    binding = session.io_binding()
    for name, array in inputs.items():
        binding.bind_ortvalue_input(name, runtime.OrtValue.ortvalue_from_numpy(array, device, 0))
    for name in outputs:
        binding.bind_output(name, device)
    session.run_with_iobinding(binding)
    for name, value in zip(outputs, binding.get_outputs()):
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)


def bind_kernel(np: Any, file: Path) -> Callable[[], Any] | None:
    """A small fixed computation that travels along, on one thread: how long it takes tells machines apart."""
    try:
        import onnxruntime
    except ImportError:
        return None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    inputs = {one.name: np.full(one.shape, 0.5, "f4") for one in session.get_inputs()}
    return bind_session(session, onnxruntime, inputs, [one.name for one in session.get_outputs()], "cpu")


class TorchstoneArtifact:
    """Any other artifact, by the very code that proved it."""

    def __init__(self, folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any]) -> None:
        try:
            from export import backend
            from export.backend import LoadOptions
        except ImportError as error:
            raise Unable(f"the artifact {shipped['name']} needs Torchstone: {error}") from None
        self._load: Callable[[], Any] = lambda: backend.load(
            folder / "artifacts" / shipped["name"], LoadOptions(**shipped["options"])
        )
        self.runner: Any = None

    def load(self) -> None:
        """Hashes again, then the files."""
        self.runner = self._load()

    def call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call, NumPy in and out."""
        answer: dict[str, Any] = self.runner(dict(inputs))
        return answer

    def bind(self, inputs: Mapping[str, Any]) -> Callable[[], Any]:
        """A call on tensors that are bound once."""
        import torch

        guard: Any = torch.inference_mode()
        guard.__enter__()  # for the rest of this process
        bound: Callable[[], Any] = self.runner.bind(dict(inputs)).run
        return bound


"""The golden calls, answered here and compared with what is allowed."""


def check_golden(
    np: Any, folder: Path, calls: Sequence[Mapping[str, Any]], artifact: Any, shipped: Mapping[str, Any]
) -> dict[str, Any]:
    """Every golden call: how near its answers are to what is allowed.

    Raises:
        Refused: names the call, the output and the worst element.
    """
    worst, worst_call, values_count = 0.0, calls[0]["name"], 0
    powers: dict[str, list[float]] = {}
    for call in calls:
        inputs = {name: np.load(folder / place, allow_pickle=False) for name, place in call["inputs"].items()}
        answered = artifact.call(inputs)
        for name, places in call["outputs"].items():
            expected = np.load(folder / places["expected"], allow_pickle=False)
            allowed = np.load(folder / places["allowed"], allow_pickle=False)
            got = np.asarray(answered[name])
            if str(got.dtype) != places["dtype"] or got.shape != expected.shape:
                raise Refused(
                    f"{shipped['name']}: {name} ({call['name']}) is {got.dtype}{list(got.shape)}, "
                    f"golden is {places['dtype']}{list(expected.shape)}"
                )
            values_count += int(np.isfinite(allowed).sum())
            if shipped["least_sqnr_db"] is not None and got.dtype.kind == "f":
                if call["real"]:
                    both = np.isfinite(expected) & np.isfinite(got)
                    power = powers.setdefault(name, [0.0, 0.0])
                    power[0] += float(np.square(expected[both].astype("f8")).sum())
                    power[1] += float(np.square(expected[both].astype("f8") - got[both].astype("f8")).sum())
                continue
            share = _share_of_allowed(np, expected, allowed, got)
            if share.size and not float(share.max()) <= 1.0:
                place = np.unravel_index(int(np.argmax(np.where(np.isnan(share), np.inf, share))), share.shape)
                raise Refused(
                    f"{shipped['name']}: {name}{[int(i) for i in place]} ({call['name']}) is {got[place]!s}, golden is "
                    f"{expected[place]!s}, at most {float(allowed[place]):.3g} may differ"
                )
            if share.size and float(share.max()) >= worst:
                worst, worst_call = float(share.max()), call["name"]
    sqnr_db = [
        10 * float(np.log10(signal / noise)) if noise else float("1e3") for signal, noise in powers.values() if signal
    ]
    if sqnr_db and min(sqnr_db) < shipped["least_sqnr_db"]:
        raise Refused(
            f"{shipped['name']}: {min(sqnr_db):.1f} dB of signal over quantisation noise here, "
            f"at least {shipped['least_sqnr_db']:g} is demanded"
        )
    return {
        "calls_count": len(calls),
        "values_count": values_count,
        "worst_share": worst,
        "worst_call": worst_call,
        "sqnr_db": min(sqnr_db) if sqnr_db else None,
    }


def _share_of_allowed(np: Any, expected: Any, allowed: Any, got: Any) -> Any:
    """|got - expected| / allowed, per element: 0 where equal or nothing is asked, above 1 where wrong."""
    if got.dtype.kind != "f":
        return np.where((got == expected) | np.isinf(allowed), 0.0, np.inf)
    same = (got == expected) | (np.isnan(got) & np.isnan(expected)) | np.isinf(allowed)
    error = np.abs(got.astype("f8") - expected.astype("f8"))
    share = np.where(same, 0.0, np.where(allowed > 0, error / np.where(allowed > 0, allowed, 1.0), np.inf))
    return np.where(np.isnan(share), np.inf, share)


"""Latency here, in seconds and in units of the calibration kernel that travels along."""


_ROUNDS, _BLOCK_S, _TIMED_S = 30, 0.002, 0.4
_P99_CALLS = 459
"""The fewest calls of which the largest is above the 99th percentile with 99 % confidence."""


def latency(np: Any, folder: Path, bundle: Mapping[str, Any], artifact: Any) -> list[dict[str, Any]]:
    """Median time per bound call at each batch size, the calibration kernel timed in turn with it."""
    kernel = bind_kernel(np, folder / bundle["kernel"])
    found = []
    for rows in bundle["timed_rows"]:
        call = artifact.bind(first_rows(folder, bundle, rows))
        calls = {"model": call} if kernel is None else {"model": call, "kernel": kernel}
        counts, samples = {}, {name: [] for name in calls}  # type: dict[str, int], dict[str, list[float]]
        for name, one in calls.items():
            one()
            once = _timed(one, 1)
            counts[name] = max(1, min(100_000, int(_BLOCK_S / max(once, 1e-7))))
            _timed(one, counts[name])
        began = time.monotonic()
        while len(samples["model"]) < _ROUNDS and (len(samples["model"]) < 6 or time.monotonic() - began < _TIMED_S):
            for name, one in calls.items():
                samples[name].append(_timed(one, counts[name]))
        low, median, high = _median(samples["model"])
        found.append({
            "batch_rows": rows, "median_s": median, "low_s": low, "high_s": high,
            "kernel_s": _median(samples["kernel"])[1] if kernel else None,
        })  # fmt: skip
    return found


def p99(np: Any, folder: Path, bundle: Mapping[str, Any], artifact: Any) -> dict[str, Any] | None:
    """The 99th percentile of single calls under the recipe's own load, if it limits that."""
    limits = bundle["limits"]
    if limits["max_p99_ms"] is None:
        return None
    inputs = first_rows(folder, bundle, limits["batch_rows"])
    callers = limits["callers_count"]
    each = max(_P99_CALLS, 4 * _P99_CALLS // callers)
    found: list[list[float]] = [[] for _ in range(callers)]

    def calls(mine: list[float]) -> None:
        artifact.call(inputs)
        for _ in range(each):
            began = time.perf_counter()
            artifact.call(inputs)
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=calls, args=(mine,)) for mine in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = sorted(one for mine in found for one in mine)
    # The lower end of the percentile's 95 % interval, by the normal approximation of its order statistic.
    low = max(0, int(0.99 * len(every) - 1.96 * (len(every) * 0.99 * 0.01) ** 0.5) - 1)
    return {"value_s": every[int(0.99 * len(every))], "low_s": every[low], "calls_count": len(every)}


def first_rows(folder: Path, bundle: Mapping[str, Any], rows: int) -> dict[str, Any]:
    """The inputs of the first golden call, repeated or cut to so many rows."""
    import numpy as np

    specs = {one["name"]: one["shape"] for one in bundle["signature"]["inputs"]}
    batch = bundle["batch"]
    found = {}
    for name, place in bundle["golden"][0]["inputs"].items():
        array = np.load(folder / place, allow_pickle=False)
        for axis, dim in enumerate(specs[name]):
            if batch is not None and dim == batch:
                array = np.take(array, np.arange(rows) % max(array.shape[axis], 1), axis=axis)
        found[name] = np.ascontiguousarray(array)
    return found


def _timed(call: Callable[[], Any], count: int) -> float:
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def _median(samples: list[float]) -> tuple[float, float, float]:
    """The median between the order statistics that bound it with 95 % confidence."""
    ordered, n = sorted(samples), len(samples)
    reach = int(0.98 * n**0.5) + 1
    return ordered[max(0, n // 2 - reach)], ordered[n // 2], ordered[min(n - 1, n // 2 + reach)]


"""One artifact run in a process of its own, with limits on its time and memory."""


CHILD = "--child"
ACCEPTED, REFUSED, USAGE = 0, 1, 2
_RUNTIME = 3
"""The child's exit code where the words are the runtime's own."""
_ANSWER_BYTES = 1 << 20
_OWN_MIB = 4096
"""Address space that Python, NumPy and a runtime reserve for themselves."""


class Bounds(NamedTuple):
    """What a run may take."""

    time_s: float = 300.0
    memory_mb: int | None = None
    """Address space of the process; None: by the size of the artifact."""
    speed: bool = True
    """Whether latency is measured as well."""


def run_artifact(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], options: Bounds
) -> dict[str, Any]:
    """Golden answers, cold start and latency of one artifact, from a fresh process.

    Raises:
        Refused: the process failed, or took more time or memory than it may.
        Unable: what it imports is not installed.
    """
    job: dict[str, Any] = {
        "folder": str(folder),
        "bundle": bundle,
        "shipped": shipped,
        "memory_mb": options.memory_mb,
        "speed": options.speed,
    }
    command, environ = _child_command()
    job["began_s"] = time.monotonic()
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
        start_new_session=True,
    )  # fmt: skip
    try:
        told, errors = child.communicate(json.dumps(job).encode(), timeout=options.time_s)
    except subprocess.TimeoutExpired:
        raise Refused(f"{shipped['name']} did not answer within {options.time_s:g} s") from None
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    last = told[-_ANSWER_BYTES:].decode("utf-8", "replace").rpartition("\x1e")[2]
    if child.returncode == 0:
        answer: dict[str, Any] = json.loads(last)
        return answer
    if child.returncode == REFUSED and last:
        raise Refused(last)
    if child.returncode == USAGE and last:
        raise Unable(last)
    cause = last if child.returncode == _RUNTIME else errors[-2000:].decode("utf-8", "replace").strip()
    if child.returncode < 0:
        cause = f"killed by signal {-child.returncode}. {cause}"
    raise Refused(f"{shipped['name']} does not run here: {cause[-600:] or f'exit code {child.returncode}'}")


def _child_command() -> tuple[list[str], dict[str, str]]:
    """How to start the child: this very file where it stands alone, else the package's command."""
    environ = dict(os.environ)
    if not __package__:
        return [sys.executable, os.path.abspath(__file__), CHILD], environ
    home = str(Path(__file__).resolve().parents[2])
    environ["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environ.get("PYTHONPATH"))))
    return [sys.executable, "-P", "-m", "pipeline.verify", CHILD], environ


def child() -> int:
    """The run itself: a job on the standard input, the answer after a record separator on the standard output."""
    entered_s = time.monotonic()
    job = json.loads(sys.stdin.buffer.read())
    try:
        answer = json.dumps(_run(job, entered_s))
        code = 0
    except Refused as error:
        answer, code = str(error), REFUSED
    except Unable as error:
        answer, code = str(error), USAGE
    except MemoryError:
        answer, code = "it takes more memory than it may", _RUNTIME
    except Exception as error:  # noqa: BLE001 - each runtime refuses a file in its own type
        answer, code = f"{type(error).__name__}: {' '.join(str(error).split())}"[:600], _RUNTIME
    sys.stdout.write("\x1e" + answer)
    sys.stdout.flush()
    os._exit(code)  # a runtime's own teardown has nothing left to say


def _run(job: Mapping[str, Any], entered_s: float) -> dict[str, Any]:
    folder, bundle, shipped = Path(job["folder"]), job["bundle"], job["shipped"]
    _bound_memory(job["memory_mb"], shipped)
    importing = time.monotonic()
    try:
        import numpy
    except ImportError as error:
        raise Unable(f"{error}: pip install numpy {shipped['runtime']}") from None
    numpy.seterr(all="ignore")
    artifact = (OnnxArtifact if shipped["runtime"] == "onnxruntime" else TorchstoneArtifact)(folder, bundle, shipped)
    loading = time.monotonic()
    artifact.load()
    loaded = time.monotonic()
    calls = bundle["golden"]
    inputs = first_rows(folder, bundle, bundle["timed_rows"][0])
    calling = time.monotonic()
    artifact.call(inputs)
    answered = time.monotonic()
    found = {
        "start_s": entered_s - job["began_s"],
        "import_s": loading - importing,
        "load_s": loaded - loading,
        "first_call_s": answered - calling,
        "golden": check_golden(numpy, folder, calls, artifact, shipped),
    }
    found["cold_s"] = found["start_s"] + found["import_s"] + found["load_s"] + found["first_call_s"]
    if job["speed"]:
        found["latency"] = latency(numpy, folder, bundle, artifact)
        found["p99"] = p99(numpy, folder, bundle, artifact)
    found["peak_bytes"] = _peak_bytes()
    return found


def _bound_memory(memory_mb: int | None, shipped: Mapping[str, Any]) -> None:
    """No more address space than the artifact can need; not where CUDA maps the whole of a GPU's."""
    if shipped["options"]["device"] != "cpu" or (memory_mb is None and shipped["runtime"] != "onnxruntime"):
        return
    try:
        import resource
    except ImportError:
        return  # no such limit on this system; the one on time holds
    most = (memory_mb << 20) if memory_mb else (_OWN_MIB << 20) + 16 * shipped["size_bytes"] + 4 * shipped["peak_bytes"]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _peak_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) << 10 if found else None


"""What was found, as a person reads it."""


def report(found: Mapping[str, Any]) -> Iterator[str]:
    """What a person reads of what was found, a line each."""
    if "sha256" in found:
        files = f"{found['files_count']} files, {_size(found['size_bytes'])}"
        yield f"hashes      {files}, as the manifest says ({found['hashed_s']:.2f} s)"
        yield f"bundle      sha256:{found['sha256']}"
    if "signature" in found:
        yield f"signature   {found['signature']}"
    for name, why in found.get("forms", {}).items():
        yield f"runs here   {name}: {'yes' if why is None else 'no: ' + why}"
    for name, run in found.get("artifacts", {}).items():
        claim, golden = found["claims"][name], run["golden"]
        yield f"lineage     {run['lineage']}"
        told = f"{golden['worst_share']:.2g} of the allowed error at most ({golden['worst_call']})"
        if golden["sqnr_db"] is not None:
            told = f"{golden['sqnr_db']:.1f} dB of signal over quantisation noise"
        yield f"parity      {name}: {golden['calls_count']} golden calls, {golden['values_count']} values, {told}"
        there = f" ({claim['cold_s']:.2g} s where it was shipped)" if claim else ""
        yield f"cold start  {name}: {run['cold_s']:.2g} s{there}, peak memory {_size(run['peak_bytes'])}"
        before = {one["batch_rows"]: one for one in claim["latency"]} if claim else {}
        for one in run.get("latency", ()):
            line = f"latency     {name}: batch {one['batch_rows']}: {_seconds(one['median_s'])}"
            if (then := before.get(one["batch_rows"])) is not None:
                line += f" ({_seconds(then['median_s'])} where it was shipped"
                if one["kernel_s"] and then["kernel_s"]:
                    ratio = (one["median_s"] / one["kernel_s"]) / (then["median_s"] / then["kernel_s"])
                    line += f"; {ratio:.2f} times that in units of the calibration kernel"
                line += ")"
            yield line
        if run.get("p99"):
            yield f"p99         {name}: {_seconds(run['p99']['value_s'])} of {run['p99']['calls_count']} calls"


def _size(count: int | None) -> str:
    return "unknown" if count is None else (f"{count / 1e6:.3g} MB" if count >= 1e6 else f"{count / 1e3:.3g} kB")


def _seconds(value: float) -> str:
    return f"{value * 1e6:.3g} us" if value < 1e-3 else f"{value * 1e3:.3g} ms"


BUNDLE, BUNDLE_SCHEMA = "bundle.json", "torchstone.bundle/1"


def verify(
    folder: Path, wanted: Sequence[str], trust: Trust, bounds: Bounds, found: dict[str, Any],
    digest: str | None = None, quiet: bool = True,
) -> None:  # fmt: skip
    """Everything, in order, into ``found`` as plain values; ``digest`` is the manifest's SHA-256, known from elsewhere.

    Raises:
        Refused: with the reason.
        Unable: the check itself is not possible.
    """
    began = time.monotonic()
    data = read_plain(folder / MANIFEST, MANIFEST)
    own = hashlib.sha256(data).hexdigest()
    if digest is not None and own != digest:
        raise Refused(f"the manifest's SHA-256 is {own}, {digest} is asked for")
    listed = read_manifest(data)
    bar = Bar(sum(one.size_bytes for one in listed), quiet)
    try:
        verify_files(folder, listed, bar.add)
    finally:
        bar.end()
    sizes = {one.path: one.size_bytes for one in listed}
    found.update(sha256=own, files_count=len(listed), size_bytes=sum(sizes.values()), hashed_s=time.monotonic() - began)
    found["signature"] = verify_signature(folder, trust)
    bundle = read_bundle(folder)
    shipped = {one["name"]: one for one in bundle["shipped"]}
    names = list(wanted) or [bundle["default"]]
    if unknown := [name for name in names if name not in shipped]:
        raise Unable(f"the bundle has no artifact {unknown[0]!r}, it has {', '.join(shipped)}")
    found.update(name=bundle["name"], environment=_environment(), artifacts={}, claims={})
    found["forms"] = {name: cannot_run(one["needs"]) for name, one in shipped.items()}
    for name in names:
        one = shipped[name]
        lineage = verify_lineage(folder, bundle, one)
        if (why := found["forms"][name]) is not None:
            raise Refused(f"{name} cannot run here: {why}")
        prefix = one["file"].rpartition("/")[0] + "/" if "/" in one["file"] else ""
        for path in sizes:
            if prefix and path.startswith(prefix):
                scan_archive(folder / path)
        nodes_count = scan_onnx(folder / one["file"], sizes, prefix) if one["runtime"] == "onnxruntime" else None
        run = run_artifact(folder, bundle, one, bounds)
        found["artifacts"][name] = {**run, "lineage": lineage, "nodes_count": nodes_count}
        found["claims"][name] = one["claim"]
        if (broken := _beyond(bundle["limits"], run)) is not None:
            raise Refused(f"{name}: {broken}")
    found["took_s"] = time.monotonic() - began


def read_bundle(folder: Path) -> dict[str, Any]:
    """``bundle.json``, of a schema that is known here."""
    bundle = parse_json(read_plain(folder / BUNDLE, BUNDLE), BUNDLE)
    if not isinstance(bundle, dict) or bundle.get("schema") != BUNDLE_SCHEMA:
        raise Refused(f"{BUNDLE} must have the schema {BUNDLE_SCHEMA!r}")
    lacking = {
        "shipped",
        "default",
        "name",
        "golden",
        "limits",
        "signature",
        "batch",
        "timed_rows",
        "kernel",
    } - bundle.keys()
    if lacking:
        raise Refused(f"{BUNDLE} lacks {sorted(lacking)[0]!r}")
    return bundle


def _beyond(limits: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """The stated limit that is exceeded here beyond doubt: the whole interval lies above it."""
    latency = next((one for one in run.get("latency", ()) if one["batch_rows"] == limits["batch_rows"]), None)
    if limits["max_median_ms"] is not None and latency is not None and latency["low_s"] * 1e3 > limits["max_median_ms"]:
        return (
            f"batch {limits['batch_rows']} takes at least {latency['low_s'] * 1e3:.3g} ms here, "
            f"the recipe allows {limits['max_median_ms']:g} ms"
        )
    if run.get("p99") and run["p99"]["low_s"] * 1e3 > limits["max_p99_ms"]:
        return f"p99 is at least {run['p99']['low_s'] * 1e3:.3g} ms here, the recipe allows {limits['max_p99_ms']:g} ms"
    memory_mb = (run["peak_bytes"] or 0) / 2**20
    if limits["max_memory_mb"] is not None and memory_mb > limits["max_memory_mb"]:
        return f"it takes {memory_mb:.0f} MiB here, the recipe allows {limits['max_memory_mb']:g} MiB"
    return None


def _environment() -> dict[str, Any]:
    found = {name: installed(name) for name in ("numpy", "onnxruntime", "torch", "openvino")}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{k: v for k, v in found.items() if v},
    }


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify" if __spec__ is not None else "python verify.py",
        description="Accept or refuse a bundle on this machine.",
        epilog="Exit code 0: accepted; 1: refused, and why; 2: usage or environment.",
    )
    here = Path(__file__).resolve().parent
    own = here if (here / MANIFEST).is_file() else None
    parser.add_argument("folder", metavar="DIR", type=Path, nargs="?" if own else None, default=own, help="the bundle")
    parser.add_argument(
        "--artifact",
        action="append",
        default=[],
        metavar="NAME",
        help="check this one (default: what serves); may be repeated",
    )
    parser.add_argument("--key", type=Path, metavar="PEM", help="the public key that must have signed")
    parser.add_argument(
        "--certificate",
        type=Path,
        action="append",
        default=[],
        metavar="PEM",
        help="a chain that must have signed; may be repeated",
    )
    parser.add_argument("--identity", help="the sigstore identity that must have signed")
    parser.add_argument("--issuer", help="its OpenID Connect issuer")
    parser.add_argument("--digest", metavar="SHA256", help="what the manifest must be, known from elsewhere")
    parser.add_argument("--no-speed", action="store_true", help="check all but latency")
    parser.add_argument("--time-limit-s", type=float, default=300.0, help="for running one artifact (300)")
    parser.add_argument("--memory-limit-mb", type=int, help="address space for running it (by its size)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON, and nothing else")
    parsed = parser.parse_args(arguments)
    if parsed.identity and not parsed.issuer:
        parser.error("--identity needs --issuer")
    return parsed


def main(arguments: Sequence[str]) -> int:
    """Check, print, and one line at the end."""
    asked = _arguments(arguments)
    trust = Trust(asked.key, tuple(asked.certificate), asked.identity, asked.issuer)
    bounds = Bounds(asked.time_limit_s, asked.memory_limit_mb, not asked.no_speed)
    found: dict[str, Any] = {}
    try:
        verify(asked.folder, asked.artifact, trust, bounds, found, asked.digest, quiet=asked.json)
        outcome, code = "accepted", ACCEPTED
    except Refused as error:
        outcome, code = f"refused: {error}", REFUSED
    except Unable as error:
        outcome, code = f"error: {error}", USAGE
    if asked.json:
        print(json.dumps({"outcome": outcome.partition(":")[0], "reason": outcome.partition(": ")[2] or None, **found}))
    elif code == USAGE:
        print(outcome, file=sys.stderr)
    else:
        print("\n".join([*report(found), outcome]))
    return code


if __name__ == "__main__":
    if sys.argv[1:] == [CHILD]:
        child()
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
