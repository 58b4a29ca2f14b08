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
import platform
import re
import time
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.archives import scan_archive
from pipeline.verifier.files import MANIFEST, Bar, Listed, read_manifest, verify_files
from pipeline.verifier.lineage import verify_lineage
from pipeline.verifier.needs import cannot_run, installed, package_needs
from pipeline.verifier.onnx_file import scan_onnx
from pipeline.verifier.outcome import Refused, Unable, parse_json, read_plain
from pipeline.verifier.report import report
from pipeline.verifier.running import ACCEPTED, CHILD, REFUSED, USAGE, Bounds, child, run_artifact
from pipeline.verifier.signature import Trust, verify_signature

_COLD_STARTS = 3
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
    folder = folder.resolve()  # the link of a serving folder may point elsewhere a moment later
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
    found.update(sha256=own, files_count=len(listed), size_bytes=sum(one.size_bytes for one in listed))
    found["hashed_s"] = time.monotonic() - began
    found["signature"] = verify_signature(folder, trust)
    try:
        _verify_artifacts(folder, wanted, bounds, found, listed)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise Refused(f"{BUNDLE} does not hold together: {type(error).__name__} {str(error)[:200]}") from error
    found["took_s"] = time.monotonic() - began


def _verify_artifacts(
    folder: Path, wanted: Sequence[str], bounds: Bounds, found: dict[str, Any], listed: Sequence[Listed]
) -> None:
    """Each artifact that is asked for: its proof, whether it can run here, what its files hold; then it is run."""
    sizes = {one.path: one.size_bytes for one in listed}
    bundle = read_bundle(folder, sizes)
    shipped = {one["name"]: one for one in bundle["shipped"]}
    names = list(wanted) or [bundle["default"]]
    if unknown := [name for name in names if name not in shipped]:
        raise Unable(f"the bundle has no artifact {unknown[0]!r}, it has {', '.join(shipped)}")
    found.update(name=bundle["name"], environment=_environment(), artifacts={}, claims={})
    found["forms"] = {
        name: cannot_run({**one["needs"], **package_needs(folder / one["file"])}) for name, one in shipped.items()
    }
    for name in names:
        one = shipped[name]
        lineage = verify_lineage(folder, bundle, one, {file.path: file.sha256 for file in listed})
        if (why := found["forms"][name]) is not None:
            raise Refused(f"{name} cannot run here: {why}")
        prefix = one["file"].rpartition("/")[0] + "/" if "/" in one["file"] else ""
        for path in sizes:
            if prefix and path.startswith(prefix):
                scan_archive(folder / path)
        nodes_count = scan_onnx(folder / one["file"], sizes, prefix) if one["runtime"] == "onnxruntime" else None
        run = run_artifact(folder, bundle, one, bounds)
        run["cold_s"] = _best_cold_start(folder, bundle, one, bounds, run["cold_s"])
        found["artifacts"][name] = {**run, "lineage": lineage, "nodes_count": nodes_count}
        found["claims"][name] = one["claim"]
        if (broken := _limit_exceeded(bundle["limits"], run)) is not None:
            raise Refused(f"{name}: {broken}")


def _best_cold_start(
    folder: Path, bundle: Mapping[str, Any], one: Mapping[str, Any], bounds: Bounds, first_s: float
) -> float:
    """The first one; where it exceeds a stated limit, the best of three: one slow start proves nothing."""
    most, taken = bundle["limits"]["max_cold_start_s"], [first_s]
    while most is not None and min(taken) > most and len(taken) < _COLD_STARTS:
        taken.append(run_artifact(folder, bundle, one, bounds._replace(speed=False))["cold_s"])
    return min(taken)


def read_bundle(folder: Path, files: Container[str]) -> dict[str, Any]:
    """``bundle.json``, of a schema that is known here, every path in it one of the bundle's ``files``."""
    bundle = parse_json(read_plain(folder / BUNDLE, BUNDLE), BUNDLE)
    if not isinstance(bundle, dict) or bundle.get("schema") != BUNDLE_SCHEMA:
        raise Refused(f"{BUNDLE} must have the schema {BUNDLE_SCHEMA!r}")
    paths = [bundle["kernel"], *(one["file"] for one in bundle["shipped"])]
    for call in bundle["golden"]:
        paths += call["inputs"].values()
        paths += [one[kind] for one in call["outputs"].values() for kind in ("expected", "allowed")]
    for path in paths:
        if not isinstance(path, str) or path not in files:
            raise Refused(f"{BUNDLE} names {str(path)[:200]!r}, which is no file of the bundle")
    for one in bundle["shipped"]:
        if not re.fullmatch(r"[\w-]+", one["name"]):
            raise Refused(f"{BUNDLE}: {one['name'][:200]!r} is no name of an artifact")
        home = f"artifacts/{one['name']}/"
        if one["runtime"] != "onnxruntime" and not one["file"].startswith(home):
            raise Refused(f"{BUNDLE}: {one['file']} does not lie in {home}")
    return bundle


def _limit_exceeded(limits: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """The stated limit that is exceeded here beyond doubt: the whole interval lies above it."""
    latency = next((one for one in run.get("latency", ()) if one["batch_rows"] == limits["batch_rows"]), None)
    if limits["max_median_ms"] is not None and latency is not None and latency["low_s"] * 1e3 > limits["max_median_ms"]:
        return (
            f"batch {limits['batch_rows']} takes at least {latency['low_s'] * 1e3:.3g} ms here, "
            f"the recipe allows {limits['max_median_ms']:g} ms"
        )
    if run.get("p99") and run["p99"]["low_s"] * 1e3 > limits["max_p99_ms"]:
        return f"p99 is at least {run['p99']['low_s'] * 1e3:.3g} ms here, the recipe allows {limits['max_p99_ms']:g} ms"
    most = limits["max_cold_start_s"]
    if most is not None and run["cold_s"] > most:
        return (
            f"{run['cold_s']:.3g} s from nothing to the first answer, the best of {_COLD_STARTS}; "
            f"the recipe allows {most:g} s"
        )
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
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files can be any bytes
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
