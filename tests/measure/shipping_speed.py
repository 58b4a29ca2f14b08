"""How long the check of a bundle takes, and how fast it hashes.

    python -m tests.measure.shipping_speed BUNDLE

Prints Markdown: the check in fresh processes, whole and without latency; and a folder of 2 GiB held against its
manifest, beside reading it and beside OpenSSL's own loop over the same bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from export.environment import machine
from export.files import digest_files
from pipeline.bundle.pack import ARCHIVE_NAME
from pipeline.verifier.files import Listed, verify_files
from tests.conftest import ROOT, environ

_REPEATS_COUNT = 5
_FILES_COUNT, _FILE_BYTES = 4, 512 << 20
_LIMIT_S = 2.0


def main(bundle: Path) -> int:
    print(
        f"{machine().cores_count} cores of {machine().cpu}.\n\n| what | seconds, all repeats | limit |\n|---|---|---|"
    )
    commands = {
        "`python -m pipeline.verify`": [sys.executable, "-m", "pipeline.verify", str(bundle)],
        "the same, `--no-speed`": [sys.executable, "-m", "pipeline.verify", str(bundle), "--no-speed"],
        f"`python {ARCHIVE_NAME}`": [sys.executable, str(bundle / ARCHIVE_NAME)],
    }
    slowest = 0.0
    for name, command in commands.items():
        taken = sorted(_seconds(command) for _ in range(_REPEATS_COUNT))
        slowest = max(slowest, taken[0])
        print(f"| {name} | {', '.join(f'{one:.2f}' for one in taken)} | {_LIMIT_S:g} |")
    _hashing()
    return int(slowest > _LIMIT_S)


def _seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environ())
    return time.monotonic() - started


def _hashing() -> None:
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base)
        for index in range(_FILES_COUNT):
            with (folder / f"{index}.bin").open("wb") as file:
                for _ in range(_FILE_BYTES >> 20):
                    file.write(bytes([index]) * (1 << 20))
        listed = [Listed(one.path, one.size_bytes, one.sha256) for one in digest_files(folder, folder.iterdir())]
        names = sorted(str(path) for path in folder.iterdir())
        reading = min(_seconds(["cat", *names]) for _ in range(2))
        openssl = min(_seconds(["openssl", "dgst", "-sha256", *names]) for _ in range(2))
        hashing = []
        for _ in range(2):
            started = time.monotonic()
            verify_files(folder, listed)
            hashing.append(time.monotonic() - started)
    total = _FILES_COUNT * _FILE_BYTES / 1e9
    print(
        f"\n2 GiB in {_FILES_COUNT} files, in the page cache: read {total / reading:.1f} GB/s (through a pipe), ",
        end="",
    )
    print(f"`openssl dgst -sha256` {total / openssl:.2f} GB/s, `verify_files` {total / min(hashing):.2f} GB/s.")


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
