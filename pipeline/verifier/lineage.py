"""The chain of records, walked by digests from an artifact's proof to the recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.outcome import Refused, parse_json, read_regular
from pipeline.verifier.upgrade import upgrade_parity

_RECORDS = {
    "recipe": "recipe.json",
    "checkpoint": "checkpoint.json",
    "program": "program.json",
    "reference": "reference.json",
    "verdict": "verdict.json",
    "artifact": "artifacts/{name}.json",
    "parity": "parity/{name}.json",
}
"""Where the records of an artifact lie in ``records/``."""

LEAST_SQNR_DB = 20.0
"""The least ratio of signal to noise that parity accepts of an artifact whose precision is not the program's own."""


class _Link(NamedTuple):
    """A record that another one names by its digest."""

    by: str
    record: str
    sha256: Any


def verify_lineage(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], sha256: Mapping[str, str]
) -> str:
    """Walk from an artifact's files by digests to its proof, and on to the recipe; ``sha256`` is the manifest, by path.

    ``bundle`` and ``shipped`` are in the present version's names. Returns the chain as a person reads it.

    Raises:
        Refused: a record that another one names is not the one in the bundle, or speaks of other files.
    """
    name = shipped["name"]
    places = {record: f"records/{place.format(name=name)}" for record, place in _RECORDS.items()}
    data = {record: read_regular(folder / place, place) for record, place in places.items()}
    digests = {record: record_digest(content) for record, content in data.items()}
    fields = {record: parse_json(content, places[record]) for record, content in data.items()}
    try:
        fields["parity"] = upgrade_parity(fields["parity"])
        row = next(row for row in fields["verdict"]["rows"] if row["name"] == name)
        for link in _links(bundle, shipped, fields, row):
            if digests[link.record] != link.sha256:
                raise Refused(f"{link.by} names another {link.record} than {places[link.record]}")
        _verify_judgement(shipped, fields["parity"], row)
        _verify_agreement(bundle, shipped, fields)
        _verify_artifact_files(folder, shipped, fields["artifact"], digests["artifact"], sha256)
    except (KeyError, TypeError, StopIteration, IndexError, ValueError, AttributeError) as error:
        raise Refused(f"the records do not hold together: {type(error).__name__} {error}") from None
    return " <- ".join(
        f"{record} {digests[record][:8]}" for record in ("verdict", "parity", "artifact", "checkpoint", "recipe")
    )


def _links(
    bundle: Mapping[str, Any], shipped: Mapping[str, Any], fields: Mapping[str, Any], row: Mapping[str, Any]
) -> list[_Link]:
    """Every digest that must be the one of a record in the bundle."""
    links = [
        _Link("the bundle", "verdict", bundle["verdict_sha256"]),
        _Link("the bundle", "artifact", shipped["artifact_sha256"]),
        _Link("the bundle", "parity", shipped["parity_sha256"]),
        _Link("the parity report", "artifact", fields["parity"]["artifact_sha256"]),
        _Link("the parity report", "reference", fields["parity"]["reference_sha256"]),
        _Link("the artifact", "checkpoint", fields["artifact"]["checkpoint_sha256"]),
        _Link("the artifact", "program", fields["artifact"]["program_sha256"]),
        _Link("the program", "checkpoint", fields["program"]["checkpoint_sha256"]),
        _Link("the verdict", "recipe", fields["verdict"]["key"]),
    ]
    if shipped["lowered_from"] is None:  # else its own artifact and parity came after the verdict
        links += [
            _Link("the verdict's row", "artifact", row["artifact_sha256"]),
            _Link("the verdict's row", "parity", row["parity_sha256"]),
        ]
    return links


def _verify_judgement(shipped: Mapping[str, Any], parity: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    """The verdict is that the artifact, or the one that it was lowered from, may ship."""
    name, lowered_from, status = shipped["name"], shipped["lowered_from"], parity["status"]
    if lowered_from is not None and lowered_from != row["artifact_sha256"]:
        raise Refused(f"the verdict judged another artifact than the one that {name} was lowered from")
    allowed = ("pass", "no-reference") if shipped["allow_no_reference"] is True else ("pass",)
    if row["shippable"] is not True or status not in allowed:
        raise Refused(f"the verdict on {name} is that it may not ship (parity {status})")


def _verify_agreement(bundle: Mapping[str, Any], shipped: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """What ``bundle.json`` repeats of the records is what they say."""
    agrees = (
        shipped["options"] == fields["parity"]["options"]
        and shipped["tested_sizes"] == fields["parity"]["tested_sizes"]
        and bundle["limits"] == fields["verdict"]["limits"]
        and bundle["signature"] == fields["artifact"]["signature"]
    )
    if not agrees:
        raise Refused(f"bundle.json says other options, sizes, limits or tensors of {shipped['name']} than its records")
    least_db, program = shipped["least_sqnr_db"], fields["program"]
    enough = least_db is None or (type(least_db) in (int, float) and least_db >= LEAST_SQNR_DB)
    rounded = fields["artifact"]["precision"] != program["precision"]
    if not enough or (program["failure"] is None and rounded is (least_db is None)):
        raise Refused(f"bundle.json asks for {least_db} dB of signal over noise of {shipped['name']}")


def _verify_artifact_files(
    folder: Path, shipped: Mapping[str, Any], artifact: Mapping[str, Any], digest: str, sha256: Mapping[str, str]
) -> None:
    """The files beside the one that is loaded are those of the artifact's record; ``digest`` is the record's."""
    beside = shipped["file"].rpartition("/")[0]
    loaded = folder / beside / "artifact.json"
    if beside.startswith("artifacts/") and record_digest(read_regular(loaded, f"{beside}/artifact.json")) != digest:
        raise Refused(f"{beside}/artifact.json is not the record of {shipped['name']}")
    files = {f"{beside}/{file['path']}".lstrip("/"): file["sha256"] for file in artifact["files"]}
    if shipped["file"] not in files or any(sha256.get(path) != recorded for path, recorded in files.items()):
        raise Refused(f"the files of {shipped['name']} are not those that its record names")


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
    decoder, place, members = json.JSONDecoder(), 1, []
    while text[place] != "}":
        start = place
        name, place = decoder.raw_decode(text, place)
        if text[place] != ":":
            raise ValueError("white space, or no colon")
        _, place = decoder.raw_decode(text, place + 1)
        members.append((name, text[start:place]))
        if text[place] not in ",}":
            raise ValueError("white space, or no comma")
        place += text[place] == ","
    if text[0] != "{" or text[place + 1 :]:
        raise ValueError("not a single object")
    return members
