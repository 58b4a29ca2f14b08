"""The workflows of docs/ci.md: YAML, and commands that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import tyro
import yaml

from tests.conftest import ROOT
from torchstone.commands import compare, tag
from torchstone.main import COMMANDS

BLOCKS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), flags=re.DOTALL)


def scripts(value: Any) -> Iterator[str]:
    """What a shell runs, a line each."""
    if isinstance(value, dict):
        for name, inner in value.items():
            lines = inner if name == "script" else [inner] if name == "run" else []
            yield from (line for text in lines for line in text.splitlines())
            yield from scripts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from scripts(inner)


@pytest.mark.parametrize("block", BLOCKS, ids=["GitHub", "GitLab"])
def test_every_command_of_a_workflow_is_one_and_takes_its_flags(block: str) -> None:
    lines = [shlex.split(line.partition(" || ")[0].partition(" >> ")[0]) for line in scripts(yaml.safe_load(block))]
    ours = [line[1:] for line in lines if line[0] == "torchstone"]
    assert [name for name, *_ in ours] == ["run", "runs", "run", "compare"]
    assert {name for name, *_ in ours} <= COMMANDS.keys()
    named = tyro.cli(tag.Options, args=ours[1][2:])
    compared = tyro.cli(compare.Options, args=ours[3][1:], config=(tyro.conf.FlagCreatePairsOff,))
    assert named.name == "base"
    assert (compared.before, compared.after, str(compared.junit)) == ("wine@base", "wine", "compare.xml")
