"""The command line. `info` needs only torch; the rest needs the extra ``cli`` (typer and rich)."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

EXTRA = "cli"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``vdropkern ARGUMENTS`` and exit: 0 done, 1 failed, 2 wrong use or data, 130 interrupted.

    Args:
        arguments: None: those of the process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        _plain_main(given, missing)
    else:
        from .app import app

        try:
            app(args=given, prog_name="vdropkern")
        except OSError as err:
            if err.filename is None or err.strerror is None:
                raise
            print(f"vdropkern: {err.filename}: {err.strerror}", file=sys.stderr)
            sys.exit(1)


def _plain_main(given: list[str], missing: list[str]) -> None:
    """Without typer and rich: `info` as ever, anything else says what to install."""
    if given == ["info"]:
        from .. import _info
        from .info import render

        print(render(_info.gather()))
        return
    command = f"vdropkern {given[0]}" if given and not given[0].startswith("-") else "the command line"
    print(
        f'{command} needs {" and ".join(missing)}: pip install "vdropkern[{EXTRA}]"\n'
        "(`python -m vdropkern` works without)",
        file=sys.stderr,
    )
    sys.exit(2)
