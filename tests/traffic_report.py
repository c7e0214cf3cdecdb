"""What kernels asked of memory in the tests, appended to a file for the tables of `python -m gpu verify`."""

from __future__ import annotations

import json
import os
from pathlib import Path


def report(compiler: str, kernel: str, moved: int, least: int) -> None:
    """Note a launch, where VDROPKERN_TRAFFIC_REPORT names a file.

    Args:
        compiler: ``nvcc`` or ``triton``, which makes the kernel for a GPU.
        moved: bytes loaded and stored.
        least: the same with every byte of memory counted once a launch.
    """
    if path := os.environ.get("VDROPKERN_TRAFFIC_REPORT"):
        row = {"compiler": compiler, "kernel": kernel, "moved": moved, "least": least}
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
