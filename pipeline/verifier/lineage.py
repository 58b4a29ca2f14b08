"""The chain of records, walked by digests from an artifact's proof to the recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.verifier.outcome import Refused, parse_json, read_plain


def verify_lineage(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], sha256: Mapping[str, str]
) -> str:
    """Walk from an artifact's files by digests to its proof, and on to the recipe; ``sha256`` is the manifest, by path.

    Raises:
        Refused: a record that another one names is not the one in the bundle, or speaks of other files.
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
        passed, good = parity["status"], row["shippable"]
        allowed = ("pass", "no-reference") if shipped["allow_no_reference"] is True else ("pass",)
        lowered = shipped["lowered_from"]
        links += [
            ("the verdict's row", "artifact", row["artifact_sha256"] if lowered is None else digests["artifact"]),
            ("the verdict's row", "parity", row["parity_sha256"] if lowered is None else digests["parity"]),
        ]
        agreements = [shipped[what] == parity[what] for what in ("options", "proved")]
        agreements += [bundle["limits"] == verdict["limits"], bundle["signature"] == artifact["signature"]]
        beside = shipped["file"].rpartition("/")[0]
        files = {f"{beside}/{one['path']}".lstrip("/"): one["sha256"] for one in artifact["files"]}
    except (KeyError, TypeError, StopIteration, IndexError, ValueError, AttributeError) as error:
        raise Refused(f"the records do not hold together: {type(error).__name__} {error}") from None
    for who, what, wanted in links:
        if digests[what] != wanted:
            raise Refused(f"{who} names another {what} than {places[what].relative_to(folder)}")
    if lowered is not None and lowered != row["artifact_sha256"]:
        raise Refused(f"the verdict judged another artifact than the one that {name} was lowered from")
    if good is not True or passed not in allowed:
        raise Refused(f"the verdict on {name} is that it may not ship (parity {passed})")
    loaded = folder / beside / "artifact.json"
    if beside.startswith("artifacts/") and record_digest(read_plain(loaded, "artifact.json")) != digests["artifact"]:
        raise Refused(f"{beside}/artifact.json is not the record of {name}")
    if not all(agreements):
        raise Refused(f"bundle.json says other options, sizes, limits or tensors of {name} than its records")
    if shipped["file"] not in files or any(sha256.get(path) != wanted for path, wanted in files.items()):
        raise Refused(f"the files of {name} are not those that its record names")
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
