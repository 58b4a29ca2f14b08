"""Accept or refuse a bundle on the machine where it is to serve.

    python -m pipeline.verify DIR [options]     where Torchstone is installed
    python DIR/verify.pyz [options]             the same as one file, which lies in every bundle

In order: every file against the manifest, the signature, the chain of records, what the artifact needs, what its file
really holds; then, in a process of its own with limits on memory and time, the golden answers, the cold start and the
latency. Nothing is loaded before all that can be checked without loading it has been. Needs the standard library alone;
running ``model.onnx`` needs numpy and onnxruntime, any other artifact Torchstone, a signature model-signing.

Exit code 0: accepted; 1: refused, and why; 2: usage or environment.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.archives import scan_archive
from pipeline.verifier.contents import BUNDLE, read_bundle
from pipeline.verifier.files import MANIFEST, Listed, ProgressBar, read_manifest, verify_files
from pipeline.verifier.lineage import verify_lineage
from pipeline.verifier.location import ARCHIVE
from pipeline.verifier.needs import cannot_run, installed, package_needs
from pipeline.verifier.onnx_file import scan_onnx
from pipeline.verifier.outcome import Refused, Unable, read_regular
from pipeline.verifier.report import report
from pipeline.verifier.running import ACCEPTED, REFUSED, USAGE, Bounds, run_artifact
from pipeline.verifier.signing import Trust, verify_signature

_COLD_STARTS_COUNT = 3
_INTERRUPTED = 130


class Request(NamedTuple):
    """What is asked of a check."""

    artifacts: Sequence[str] = ()
    """Those to run; the bundle's default if there are none."""
    trust: Trust = Trust()
    bounds: Bounds = Bounds()
    digest: str | None = None
    """What the manifest's SHA-256 must be, known from elsewhere."""
    quiet: bool = True
    """Show no progress."""


def verify(folder: Path, request: Request, findings: dict[str, Any]) -> None:
    """Everything, in order; ``findings`` is filled with plain values as far as the check comes.

    Raises:
        Refused: with the reason.
        Unable: the check itself is not possible.
    """
    began_s = time.monotonic()
    folder = folder.resolve()  # the link of a serving folder may point elsewhere a moment later
    data = read_regular(folder / MANIFEST, MANIFEST)
    digest = hashlib.sha256(data).hexdigest()
    if request.digest is not None and digest != request.digest:
        raise Refused(f"the manifest's SHA-256 is {digest}, {request.digest} is asked for")
    listed = read_manifest(data)
    total_bytes = sum(file.size_bytes for file in listed)
    bar = ProgressBar(total_bytes, request.quiet)
    try:
        verify_files(folder, listed, bar.add)
    finally:
        bar.end()
    findings.update(sha256=digest, files_count=len(listed), size_bytes=total_bytes)
    findings["hashed_s"] = time.monotonic() - began_s
    findings["signature"] = verify_signature(folder, request.trust)
    try:
        _verify_artifacts(folder, request, listed, findings)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise Refused(f"{BUNDLE} does not hold together: {type(error).__name__} {str(error)[:200]}") from error
    findings["took_s"] = time.monotonic() - began_s


def _verify_artifacts(folder: Path, request: Request, listed: Sequence[Listed], findings: dict[str, Any]) -> None:
    """Each artifact that is asked for: its proof, whether it can run here, what its files hold; then it is run."""
    sizes_bytes = {file.path: file.size_bytes for file in listed}
    bundle = read_bundle(folder, sizes_bytes)
    by_name = {shipped["name"]: shipped for shipped in bundle["shipped"]}
    names = list(request.artifacts) or [bundle["default"]]
    if unknown := [name for name in names if name not in by_name]:
        raise Unable(f"the bundle has no artifact {unknown[0]!r}, it has {', '.join(by_name)}")
    findings.update(name=bundle["name"], environment=_environment(), artifacts={}, claims={})
    findings["forms"] = {
        name: cannot_run({**shipped["needs"], **package_needs(folder / shipped["file"])})
        for name, shipped in by_name.items()
    }
    for name in names:
        shipped = by_name[name]
        lineage = verify_lineage(folder, bundle, shipped, {file.path: file.sha256 for file in listed})
        if (reason := findings["forms"][name]) is not None:
            raise Refused(f"{name} cannot run here: {reason}")
        nodes_count = _scan(folder, shipped, sizes_bytes)
        run = run_artifact(folder, bundle, shipped, request.bounds)
        run["cold_s"] = _best_cold_start(folder, bundle, shipped, request.bounds, run["cold_s"])
        findings["artifacts"][name] = {**run, "lineage": lineage, "nodes_count": nodes_count}
        findings["claims"][name] = shipped["claim"]
        if (exceeded := _limit_exceeded(bundle["limits"], run)) is not None:
            raise Refused(f"{name}: {exceeded}")


def _scan(folder: Path, shipped: Mapping[str, Any], sizes_bytes: Mapping[str, int]) -> int | None:
    """Look into the artifact's files without loading them; the number of nodes of an ONNX file, else None."""
    prefix = shipped["file"].rpartition("/")[0] + "/" if "/" in shipped["file"] else ""
    for path in sizes_bytes:
        if prefix and path.startswith(prefix):
            scan_archive(folder / path)
    return scan_onnx(folder / shipped["file"], sizes_bytes, prefix) if shipped["runtime"] == "onnxruntime" else None


def _best_cold_start(
    folder: Path, bundle: Mapping[str, Any], shipped: Mapping[str, Any], bounds: Bounds, first_s: float
) -> float:
    """The first one; where it exceeds a stated limit, the best of three: one slow start proves nothing."""
    most_s, taken_s = bundle["limits"]["max_cold_start_s"], [first_s]
    while most_s is not None and min(taken_s) > most_s and len(taken_s) < _COLD_STARTS_COUNT:
        taken_s.append(run_artifact(folder, bundle, shipped, bounds._replace(speed=False))["cold_s"])
    return min(taken_s)


def _limit_exceeded(limits: Mapping[str, Any], run: Mapping[str, Any]) -> str | None:
    """The stated limit that is exceeded here beyond doubt: the whole interval lies above it."""
    rows, most_ms = limits["batch_rows"], limits["max_median_ms"]
    latency = next((figure for figure in run.get("latency", ()) if figure["batch_rows"] == rows), None)
    if most_ms is not None and latency is not None and latency["low_s"] * 1e3 > most_ms:
        return f"batch {rows} takes at least {latency['low_s'] * 1e3:.3g} ms here, the recipe allows {most_ms:g} ms"
    if run.get("p99") and run["p99"]["low_s"] * 1e3 > limits["max_p99_ms"]:
        return f"p99 is at least {run['p99']['low_s'] * 1e3:.3g} ms here, the recipe allows {limits['max_p99_ms']:g} ms"
    most_s = limits["max_cold_start_s"]
    if most_s is not None and run["cold_s"] > most_s:
        return (
            f"{run['cold_s']:.3g} s from nothing to the first answer, the best of {_COLD_STARTS_COUNT}; "
            f"the recipe allows {most_s:g} s"
        )
    memory_mb = (run["peak_bytes"] or 0) / 2**20
    if limits["max_memory_mb"] is not None and memory_mb > limits["max_memory_mb"]:
        return f"it takes {memory_mb:.0f} MiB here, the recipe allows {limits['max_memory_mb']:g} MiB"
    return None


def _environment() -> dict[str, Any]:
    versions = {name: installed(name) for name in ("numpy", "onnxruntime", "torch", "openvino")}
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        **{name: version for name, version in versions.items() if version},
    }


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.verify" if ARCHIVE is None else f"python {ARCHIVE.name}",
        description="Accept or refuse a bundle on this machine.",
        epilog="Exit code 0: accepted; 1: refused, and why; 2: usage or environment.",
    )
    own = ARCHIVE.parent if ARCHIVE is not None and (ARCHIVE.parent / MANIFEST).is_file() else None
    parser.add_argument("folder", metavar="DIR", type=Path, nargs="?" if own else None, default=own, help="the bundle")
    parser.add_argument(
        "--artifact", action="append", default=[], metavar="NAME",
        help="check this one (default: what serves); may be repeated",
    )  # fmt: skip
    parser.add_argument("--key", type=Path, metavar="PEM", help="the public key that must have signed")
    parser.add_argument(
        "--certificate", type=Path, action="append", default=[], metavar="PEM",
        help="a chain that must have signed; may be repeated",
    )  # fmt: skip
    parser.add_argument("--identity", help="the sigstore identity that must have signed")
    parser.add_argument("--issuer", help="its OpenID Connect issuer")
    parser.add_argument("--digest", metavar="SHA256", help="what the manifest must be, known from elsewhere")
    parser.add_argument("--no-speed", action="store_true", help="check all but latency")
    parser.add_argument("--time-limit-s", type=float, default=300.0, help="for running one artifact (300)")
    parser.add_argument("--memory-limit-mb", type=int, help="address space for running it (by its size)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, and nothing else")
    parsed = parser.parse_args(arguments)
    if parsed.identity and not parsed.issuer:
        parser.error("--identity needs --issuer")
    return parsed


def main(arguments: Sequence[str]) -> int:
    """Check, print, and one line at the end."""
    parsed = _arguments(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names of files can be any bytes
    request = Request(
        artifacts=parsed.artifact,
        trust=Trust(parsed.key, tuple(parsed.certificate), parsed.identity, parsed.issuer),
        bounds=Bounds(parsed.time_limit_s, parsed.memory_limit_mb, not parsed.no_speed),
        digest=parsed.digest,
        quiet=parsed.json,
    )
    findings: dict[str, Any] = {}
    try:
        verify(parsed.folder, request, findings)
        outcome, reason, code = "accepted", None, ACCEPTED
    except Refused as error:
        outcome, reason, code = "refused", str(error), REFUSED
    except Unable as error:
        outcome, reason, code = "error", str(error), USAGE
    summary = outcome if reason is None else f"{outcome}: {reason}"
    if parsed.json:
        print(json.dumps({"outcome": outcome, "reason": reason, **findings}))
    elif code == USAGE:
        print(summary, file=sys.stderr)
    else:
        print("\n".join([*report(findings), summary]))
    return code


def run(arguments: Sequence[str]) -> int:
    """The command from its arguments to its exit code, interrupted or not."""
    try:
        return main(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
