"""Runs tests/triton in a process of its own, in which Triton kernels are interpreted."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton kernels: pip install 'triton>=3.6,<3.9'"
)
def test_triton_kernels_by_interpretation() -> None:
    """Whether a kernel is interpreted is decided once a process, when Triton is imported."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/triton"],
        cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
