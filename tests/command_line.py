"""Running the command line in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

import vdropkern
from vdropkern.cli.app import app

WITHOUT = "import sys; sys.modules.update(dict.fromkeys({names!r})); sys.argv[1:] = {args!r}; {then}"
MAIN = "from vdropkern.cli import main; main()"


def run(*args: str) -> tuple[int, str]:
    """Exit code and everything printed, blanks and line breaks made single spaces."""
    result = CliRunner().invoke(app, list(args))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, " ".join(result.output.split())


def train_refuses(args: tuple[str, ...], message: str, folder: Path) -> None:
    """`vdropkern train` in the empty `folder` exits with 2 and a message, and writes nothing."""
    code, text = run("train", *args)
    assert code == 2, text
    assert message in text
    assert os.listdir(folder) == []


def python(names: tuple[str, ...], args: list[str], then: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which some packages cannot be imported."""
    code = WITHOUT.format(names=names, args=args, then=then)
    # it finds the package under test wherever it runs
    env = {**os.environ, "PYTHONPATH": str(Path(vdropkern.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=env
    )
