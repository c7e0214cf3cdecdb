"""These tests need a process of their own, in which kernels are interpreted: see tests/test_triton.py."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ..traffic_report import report

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

if not collect_ignore_glob:
    from . import interpreter  # before any kernel

    @pytest.fixture(autouse=True)
    def launches() -> Iterator[list[interpreter.Launch]]:
        """Launches of this test; what they asked of memory is reported where the test leaves them."""
        interpreter.launches.clear()
        yield interpreter.launches
        for launch in interpreter.launches:
            report("triton", launch.kernel, launch.loaded + launch.stored, launch.unique + launch.stored)


def pytest_configure(config: pytest.Config) -> None:
    # Triton 3.6 turns one-element arrays into the bounds of a range()
    config.addinivalue_line(
        "filterwarnings", "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
    )
