"""Accept or refuse a bundle on the machine where it is to serve.

In order: every file against the manifest, and copied as it is hashed, so that what was checked is what is loaded; then,
of the copy, the signature, the chain of records, what the artifact needs, what its file really holds; then, in a
process of its own with limits on memory and time, the golden answers, the cold start and the latency. Nothing is loaded
before all that can be checked without loading it has been.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.verifier.archives import scan_archive
from pipeline.verifier.contents import BUNDLE, ONNX_FILE, read_bundle
from pipeline.verifier.files import MANIFEST, SIGNATURE, Listed, read_manifest, verify_files
from pipeline.verifier.lineage import verify_lineage
from pipeline.verifier.needs import cannot_run, installed, package_needs
from pipeline.verifier.onnx_file import scan_onnx
from pipeline.verifier.outcome import Refused, Unable, read_regular
from pipeline.verifier.private import private_folder
from pipeline.verifier.progress import ProgressBar
from pipeline.verifier.running import Bounds, run_artifact
from pipeline.verifier.signing import Trust, verify_signature

_COLD_STARTS_COUNT = 3


class Request(NamedTuple):
    """What is asked of a check."""

    artifacts: Sequence[str] = ()
    """Those to run; the bundle's default if there are none."""
    trust: Trust = Trust()
    bounds: Bounds = Bounds()
    digest: str | None = None
    """What the manifest's SHA-256 must be, known from elsewhere."""
    origin_known: bool = False
    """The caller vouches for the bundle: formats that can hold code may be loaded."""
    quiet: bool = True
    """Show no progress."""

    @property
    def trusted(self) -> bool:
        """Whether formats that can hold code may be loaded, once signature and digest, where asked for, held."""
        return self.origin_known or self.digest is not None or self.trust.asked


def verify(folder: Path, request: Request, findings: dict[str, Any]) -> None:
    """Everything, in order; ``findings`` is filled with plain values as far as the check comes.

    Raises:
        Refused: with the reason.
        Unable: the check itself is not possible.
    """
    with verified(folder, request, findings):
        pass


@contextlib.contextmanager
def verified(folder: Path, request: Request, findings: dict[str, Any]) -> Iterator[Path]:
    """As ``verify``, for whoever goes on to load it: the private copy, the very bytes that were checked.

    It is gone at the end of the block.

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
    with private_folder() as own:
        bar = ProgressBar(total_bytes, request.quiet)
        try:
            verify_files(folder, listed, bar.add, copy=own)
        finally:
            bar.end()
        findings.update(sha256=digest, files_count=len(listed), size_bytes=total_bytes)
        findings["hashed_s"] = time.monotonic() - began_s
        (own / MANIFEST).write_bytes(data)
        if os.path.lexists(folder / SIGNATURE):
            (own / SIGNATURE).write_bytes(read_regular(folder / SIGNATURE, SIGNATURE))
        findings["signature"] = verify_signature(own, request.trust)
        try:
            _verify_artifacts(own, request, listed, findings)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
            raise Refused(f"{BUNDLE} does not hold together: {type(error).__name__} {str(error)[:200]}") from error
        findings["took_s"] = time.monotonic() - began_s
        yield own


def verify_contents(folder: Path) -> None:
    """All that can be checked of a bundle without running it, for whoever has just made it.

    Raises:
        Refused: with the reason.
    """
    listed = read_manifest(read_regular(folder / MANIFEST, MANIFEST))
    verify_files(folder, listed)
    sizes_bytes = {file.path: file.size_bytes for file in listed}
    bundle = read_bundle(folder, sizes_bytes)
    for shipped in bundle["shipped"]:
        verify_lineage(folder, bundle, shipped, {file.path: file.sha256 for file in listed})
        _scan(folder, shipped, sizes_bytes)


def _verify_artifacts(folder: Path, request: Request, listed: Sequence[Listed], findings: dict[str, Any]) -> None:
    """Each artifact that is asked for: its proof, whether it can run here, what its files hold; then it is run."""
    sizes_bytes = {file.path: file.size_bytes for file in listed}
    bundle = read_bundle(folder, sizes_bytes)
    by_name = {shipped["name"]: shipped for shipped in bundle["shipped"]}
    names = _chosen(bundle, by_name, request)
    findings.update(name=bundle["name"], environment=_environment(), artifacts={}, claims={})
    findings["forms"] = {
        name: cannot_run({**shipped["needs"], **package_needs(folder / shipped["file"])})
        for name, shipped in by_name.items()
    }
    scan_onnx(folder / bundle["workload"], sizes_bytes, _home(bundle["workload"]))
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


def _chosen(bundle: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]], request: Request) -> list[str]:
    """The artifacts to run: those that are asked for, else ``model.onnx``, else what the bundle says if it is trusted.

    All formats but ONNX can hold code of whoever made the file, which runs when it is loaded. So the bundle alone never
    brings it about that one of them is.

    Raises:
        Refused: an artifact that can hold code, in a bundle that nobody vouches for.
        Unable: an artifact that the bundle does not have.
    """
    if unknown := [name for name in request.artifacts if name not in by_name]:
        raise Unable(f"the bundle has no artifact {unknown[0]!r}, it has {', '.join(by_name)}")
    onnx = [name for name, shipped in by_name.items() if shipped["file"] == ONNX_FILE]
    names = list(request.artifacts) or onnx or [bundle["default"]]
    if not request.trusted:
        for name in names:
            if by_name[name]["runtime"] != "onnxruntime":
                raise Refused(
                    f"{name} is not loaded: such a file can hold code of whoever made it, and nothing says who that "
                    "was. Ask for a signature (--key, --certificate, --identity), give --digest, or say --trust"
                )
    return names


def _scan(folder: Path, shipped: Mapping[str, Any], sizes_bytes: Mapping[str, int]) -> int | None:
    """Look into the artifact's files without loading them; the number of nodes of an ONNX file, else None."""
    home = _home(shipped["file"])
    for path in sizes_bytes:
        if home and path.startswith(home):
            scan_archive(folder / path)
    return scan_onnx(folder / shipped["file"], sizes_bytes, home) if shipped["runtime"] == "onnxruntime" else None


def _home(path: str) -> str:
    """The folder of a file in the bundle, with its slash; empty at the root."""
    return path[: path.rfind("/") + 1]


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
