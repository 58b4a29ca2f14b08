"""The command ``torchstone``: quick to help, found from any folder, and never hidden by the user's own files."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import torchstone
from export.version import VERSION
from tests.conftest import ROOT, environ, within_cpu_s
from torchstone.main import COMMANDS


def command(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m torchstone`` as a person starts it, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "torchstone", *map(str, arguments)],
        cwd=cwd, env=environ(**environment), capture_output=True, text=True, check=False,
    )  # fmt: skip


def installed(folder: Path) -> str:
    """The script that an installer writes for the entry point."""
    script = folder / "bin" / "torchstone"
    script.parent.mkdir()
    script.write_text("import sys\nfrom torchstone.main import main\nsys.exit(main())\n")
    return str(script)


@pytest.fixture(scope="module")
def completion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command prints for bash."""
    script = tmp_path_factory.mktemp("completion") / "torchstone.sh"
    script.write_text(command("--tyro-print-completion", "bash").stdout)
    return script


def test_the_package_alone_imports_no_torch_and_knows_its_names() -> None:
    code = (
        "import sys, torchstone\n"
        "assert set(torchstone.__all__) <= set(dir(torchstone))\n"
        "print(sorted({'torch', 'numpy'} & sys.modules.keys()))\n"
        "print(torchstone.BenchSpec.__name__, sorted({'torch'} & sys.modules.keys()))\n"
        "print(torchstone.check.__module__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout.splitlines() == ["[]", "BenchSpec []", "torchstone.api True"]


def test_a_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'torchstone' has no attribute 'chekc'"):
        torchstone.chekc  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["clean", "-h"]])
def test_help_comes_quickly_and_without_torch(arguments: list[str]) -> None:
    code = f"import sys\nsys.argv[1:] = {arguments}\nfrom torchstone.main import main\nmain()\n"
    code += "print(sorted({'torch', 'numpy', 'tyro'} & sys.modules.keys()))"
    with within_cpu_s(0.5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_overview_names_every_command_recipe_and_exit_code() -> None:
    done = command("--help")
    assert done.returncode == 0
    for words in (*(f"  torchstone {name} " for name in COMMANDS), "  seed ", "130: interrupted", "`torchstone list`"):
        assert words in done.stdout


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "verify"])
def test_a_command_calls_itself_as_it_was_called(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: torchstone {name} ")


def test_a_bundle_is_verified_without_what_lies_in_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("print('this ran')")
    done = subprocess.run(
        [sys.executable, installed(tmp_path), "verify", "."],
        cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "refused: " in done.stdout
    assert "this ran" not in done.stdout + done.stderr


def test_a_command_that_there_is_not_is_named_with_the_nearest() -> None:
    done = command("chekc")
    assert (done.returncode, done.stderr) == (2, "error: there is no command 'chekc': did you mean 'check'?\n")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("typed", "completed"), [("ve", "verify"), ("clean --dr", "--dry-run"), ("ship --ro", "--rollback")]
)
def test_a_shell_completes_commands_and_their_flags(typed: str, completed: str, completion: Path) -> None:
    words = ["torchstone", *typed.split()]
    code = f"source {completion}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _tyro_torchstone; "
    done = subprocess.run(["bash", "-c", code + 'echo "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [completed]


def test_the_version() -> None:
    assert command("--version").stdout == command("run", "--version").stdout == f"torchstone {VERSION}\n"


def test_the_entry_point_is_a_function() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["torchstone"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("name", ["export.py", "bench/__init__.py"])
def test_a_file_that_would_hide_a_package_of_ours_is_named_and_never_run(name: str, tmp_path: Path) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise RuntimeError('this ran')")
    done = command("list", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {tmp_path / name} hides Torchstone's package {name.partition('/')[0].removesuffix('.py')!r}"
    )
    assert "this ran" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_script_finds_modules_of_the_current_folder_after_all_others(tmp_path: Path) -> None:
    """A script has its own folder first on the path: nothing of the user's may come before what is installed."""
    (tmp_path / "nets.py").write_text("def build():\n    print('the model is built')\n")
    for name in ("export", "yaml", "filelock"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('this ran')")
    np.save(tmp_path / "real.npy", np.zeros((3, 4), np.float32))
    done = subprocess.run(
        [sys.executable, installed(tmp_path), "check", "nets:build", "--inputs", "real.npy"],
        cwd=tmp_path, env=environ(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "the model is built\n"
    assert done.stderr == "error: nets:build must return a torch.nn.Module, got NoneType\n"
    assert done.returncode == 2
