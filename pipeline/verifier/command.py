"""The command of the check.

    python -m pipeline.verify DIR [options]     where Torchstone is installed
    python DIR/verify.pyz [options]             the same as one file, which lies in every bundle

Needs the standard library alone; running ``model.onnx`` needs numpy and onnxruntime, any other artifact Torchstone, a
signature model-signing. Exit code 0: accepted; 1: refused, and why; 2: usage or environment.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline.verifier.files import MANIFEST
from pipeline.verifier.location import ARCHIVE
from pipeline.verifier.outcome import Refused, Unable, printable
from pipeline.verifier.report import report
from pipeline.verifier.running import ACCEPTED, REFUSED, USAGE, Bounds
from pipeline.verifier.signing import Trust
from pipeline.verifier.verify import Request, verify

_INTERRUPTED = 130
_LONGEST_S, _LARGEST_MB = 1e6, 1 << 30


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
    parser.add_argument("--digest", metavar="SHA256", type=_digest, help="the bundle's, known from elsewhere")
    parser.add_argument("--trust", action="store_true", help="load formats that can hold code (all but ONNX)")
    parser.add_argument("--no-speed", action="store_true", help="check all but latency")
    parser.add_argument(
        "--time-limit-s", type=_bounded(float, _LONGEST_S), default=300.0, help="for running one artifact (300)"
    )
    parser.add_argument(
        "--memory-limit-mb", type=_bounded(int, _LARGEST_MB), help="for running one artifact (by its size)"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, and nothing else")
    parsed = parser.parse_args(arguments)
    if parsed.identity and not parsed.issuer:
        parser.error("--identity needs --issuer")
    return parsed


def _digest(text: str) -> str:
    """A SHA-256 in hex, also as the check prints it."""
    digest = text.strip().lower()
    digest = digest[len("sha256:") :] if digest.startswith("sha256:") else digest
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise argparse.ArgumentTypeError(f"must be 64 hex digits, got {text[:100]!r}")
    return digest


def _bounded(kind: Callable[[str], Any], most: float) -> Callable[[str], Any]:
    """A number above 0, at most so large."""

    def number(text: str) -> Any:
        value = kind(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"must lie above 0 and be at most {most:.0f}, got {text}")
        return value

    return number


def main(arguments: Sequence[str]) -> int:
    """Check, print, and one line at the end."""
    parsed = _arguments(arguments)
    request = Request(
        artifacts=parsed.artifact,
        trust=Trust(parsed.key, tuple(parsed.certificate), parsed.identity, parsed.issuer),
        bounds=Bounds(parsed.time_limit_s, parsed.memory_limit_mb, not parsed.no_speed),
        digest=parsed.digest,
        origin_known=parsed.trust,
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
    else:
        lines = [summary] if code == USAGE else [*report(findings), summary]
        print("\n".join(map(printable, lines)), file=sys.stderr if code == USAGE else sys.stdout)
    return code


def run(arguments: Sequence[str]) -> int:
    """The command from its arguments to its exit code, interrupted or not."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed
        stream.reconfigure(errors="backslashreplace")  # names of files can be any bytes
    try:
        code = main(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:
        return _cannot_say(error)


def _cannot_say(error: OSError) -> int:
    """The output cannot be written: whoever asked has not read that the bundle is accepted."""
    with contextlib.suppress(OSError, ValueError):
        print(f"error: the findings cannot be written: {error.strerror}", file=sys.stderr)
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in its buffer has nowhere to go
    return USAGE
