"""One server of the shared run's bundle, for all tests here that do not change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.serving.servers import Started, serving


@pytest.fixture(autouse=True)
def _installed(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("extra"):
        pytest.importorskip("uvicorn", reason="extra: pip install 'torchstone[serve]'")


@pytest.fixture(scope="session")
def server(built: Path) -> Iterator[Started]:
    """The server."""
    with serving(built / "bundle", "--limits.body-mb", "4") as started:
        yield started
