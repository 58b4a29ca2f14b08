"""The record of roads whose work parity refused, so that the next run takes none of them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from export.record import Record, key_of
from pipeline.run import Run
from pipeline.stages.children import reused


@dataclass(frozen=True, kw_only=True)
class RefusedRoads(Record):
    """``roads/<name>.json``: what came of an artifact that parity refused."""

    SCHEMA: ClassVar[str] = "torchstone.roads/1"

    key: str
    """The digest of the build's with every road open, and of what was asked of parity."""
    left_out: dict[str, str]
    """By road: what parity said of its work. The artifact is built by one of the others."""
    closed: str | None
    """The standard of parity by which none of the others passes either; None where one does."""


def known(run: Run, path: Path, build_key: str) -> RefusedRoads:
    """The record of a build and of what the run asks of parity; one of nothing where there is none."""
    key = key_of(build=build_key, parity=run.found.recipe.parity)
    return reused(run, RefusedRoads, path, key) or RefusedRoads(key=key, left_out={}, closed=None)


def key_without(key: str, left_out: Mapping[str, str]) -> str:
    """The key of a build that leaves roads out."""
    return key_of(build=key, left_out=sorted(left_out)) if left_out else key
