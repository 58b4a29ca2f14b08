"""Serve verified bundles on this machine, by the Open Inference Protocol v2.

    torchstone serve BUNDLE [BUNDLE ...] [options]

BUNDLE is a bundle, or a serving folder, whose current version is followed. Each is verified before anything of it is
loaded, and answers with the options that it was tested with. SIGTERM ends the server when what it took is answered.
Exit code 0: it served until it was asked to end; 1: a bundle is refused; 2: usage or environment.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from export import hints
from export.errors import UserError
from pipeline.cli import GOOD, NOT_GOOD
from pipeline.serving.limits import ServeLimits

_NEEDED = ("uvicorn", "httptools", "prometheus_client")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to serve, to whom, and within which limits."""

    bundles: tyro.conf.Positional[tuple[Path, ...]]
    """Bundles, or serving folders."""
    host: str = "127.0.0.1"
    """The address to listen on; another than the machine's own needs --api-key-file."""
    port: int = 8000
    """The port; 0 takes one that is free."""
    api_key_file: Path | None = None
    """A file with a key on each line: clients send one as Authorization: Bearer KEY."""
    artifact: str | None = None
    """The artifact to serve, where a bundle has several; model.onnx, or the bundle's default, if left out."""
    key: Path | None = None
    """Serve only what this public key signed."""
    trust: bool = False
    """You vouch for the bundles: artifacts that can hold code may be loaded without a signature."""
    control: bool = False
    """Let clients load and unload models."""
    follow_s: float = 1.0
    """How often serving folders are looked at, in seconds."""
    log_requests: bool = False
    """Log every request, and not only those that are refused."""
    limits: ServeLimits = field(default_factory=ServeLimits)
    """What clients may take."""


def main(arguments: Sequence[str], command: str = "torchstone serve") -> int:
    """Check what is asked for, then serve."""
    options = tyro.cli(
        Options, args=list(arguments), prog=command, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
    )
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UserError(f"serving needs {missing[0]}: {hints.install('serve')}")
    from pipeline.serving.access import Access, is_loopback, read_keys
    from pipeline.serving.entry import Source
    from pipeline.serving.log import log_to_stderr
    from pipeline.serving.server import Settings, listen, run
    from pipeline.verifier.outcome import Refused, Unable, printable
    from pipeline.verifier.running import Bounds
    from pipeline.verifier.signing import Trust
    from pipeline.verifier.verify import Request

    if not options.bundles:
        raise UserError(f"name a bundle, or a serving folder: {command} serving")
    keys = read_keys(options.api_key_file) if options.api_key_file else ()
    if not keys and not is_loopback(options.host):
        raise UserError(f"{options.host} can be reached from other machines: give clients a key, --api-key-file FILE")
    if not 0 < options.follow_s < math.inf:
        raise UserError(f"--follow-s must be seconds above 0, got {options.follow_s}")
    request = Request(
        artifacts=(options.artifact,) if options.artifact else (),
        trust=Trust(options.key),
        bounds=Bounds(speed=False),
        origin_known=options.trust,
    )
    settings = Settings(
        sources=[Source(place) for place in options.bundles],
        request=request,
        access=Access(keys),
        limits=options.limits,
        follow_s=options.follow_s,
        control=options.control,
        log_all=options.log_requests,
    )
    log_to_stderr(log_all=options.log_requests)
    try:
        run(settings, listen(options.host, options.port))
    except Refused as error:
        print(printable(f"refused: {error}"), file=sys.stderr)
        return NOT_GOOD
    except Unable as error:
        raise UserError(str(error)) from error
    return GOOD
