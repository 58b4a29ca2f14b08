"""``tritonserver`` 2.51 from the wheel of nvidia-pytriton, which is unpacked and not installed (it wants NumPy 1)."""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.files import write_atomically

WHEEL = "nvidia-pytriton==0.7.0"
_STARTS_WITHIN_S = 90


@dataclass(frozen=True)
class Triton:
    """The unpacked server with our backend beside its own."""

    folder: Path

    @contextlib.contextmanager
    def serving(self, repository: Path, *flags: str, within: Sequence[str] = ()) -> Iterator[Server]:
        """A server on free ports, ready or over; ``within`` is a command that runs the one after it."""
        ports = [_free_port() for _ in range(3)]
        wanted = zip(("http", "grpc", "metrics"), ports, strict=True)
        log = self.folder / f"log.{ports[0]}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *within, str(self.folder / "pytriton/tritonserver/bin/tritonserver"),
                    f"--backend-directory={self.folder / 'backends'}", f"--model-repository={repository}",
                    "--exit-on-error=true", "--exit-timeout-secs=5",
                    *(f"--{name}-port={port}" for name, port in wanted), *flags,
                ],
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {
                    "LD_LIBRARY_PATH": str(self.folder / "nvidia_pytriton.libs"),
                    # By these two the embedded Python finds the packages of this one, in a virtual environment too.
                    "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
                    "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("site-packages")),
                },
            )  # fmt: skip
        server = Server(process=process, http=ports[0], grpc=ports[1], metrics=ports[2], log=log)
        try:
            server.wait()
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    http: int
    grpc: int
    metrics: int
    log: Path

    def wait(self) -> None:
        """Until it answers that it is ready, or has ended."""
        until = time.monotonic() + _STARTS_WITHIN_S
        while self.process.poll() is None and time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.http}/v2/health/ready", timeout=1)
                return
            time.sleep(0.1)

    @property
    def refused(self) -> bool:
        """Whether it would not serve this repository."""
        return self.process.poll() not in (None, 0)


def unpack(folder: Path) -> Triton | str:
    """The server, downloaded once into ``folder``; or why it cannot run here."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "Triton's core comes for x86-64 Linux alone"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if ctypes.util.find_library(f"python{python}") is None:
        return f"Triton's Python backend needs libpython{python}: apt-get install libpython{python}"
    if not (folder / "backends").exists():
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), WHEEL]
        done = subprocess.run(download, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"{WHEEL} cannot be downloaded"
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        wheel.unlink()
        server = folder / "pytriton" / "tritonserver"
        (server / "bin" / "tritonserver").chmod(0o755)
        made = folder / "backends.partial"
        shutil.copytree(server / "backends", made)
        stub = made / "python" / "triton_python_backend_stub"
        shutil.copy(server / "python_backend_stubs" / python / stub.name, stub)
        stub.chmod(0o755)
        made.rename(folder / "backends")
    ours = Path(__file__).with_name("backend.py")  # each time: the folder is kept from one version of ours to the next
    write_atomically(folder / "backends" / "onnxruntime" / "model.py", ours.read_bytes())
    return Triton(folder)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
