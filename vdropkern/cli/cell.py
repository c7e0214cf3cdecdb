"""``python -m vdropkern.cli.cell FOLDER ARGUMENTS``: one command of a sweep, as a child process of it.

The parent holds the other end of this process's stdin. When that closes, the parent is gone, killed maybe,
and the command is asked to stop, as by a batch system, so that it saves its state. When the command is done,
a stamp in FOLDER says so.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from .._files import write_whole
from ..recipes.sweep import STAMP_NAME


def peak_memory() -> int | None:
    """Bytes this process has held at most, None where the system does not tell."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _stop_when_orphaned() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(folder: Path, arguments: list[str]) -> None:
    """Run ``vdropkern ARGUMENTS`` and exit with its code."""
    threading.Thread(target=_stop_when_orphaned, daemon=True).start()
    from . import main as command

    started = time.monotonic()
    try:
        command(arguments)
    except SystemExit as end:
        if end.code:
            raise
    stamp = {"arguments": arguments, "seconds": time.monotonic() - started, "peak_memory": peak_memory()}
    write_whole(folder / STAMP_NAME, (json.dumps(stamp, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
