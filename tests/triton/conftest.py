"""These tests need a process of their own, in which kernels are interpreted: see tests/test_triton.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]

if not collect_ignore_glob:
    from . import interpreter  # before any kernel

    @pytest.fixture
    def launches() -> list[interpreter.Launch]:
        """Launches of this test."""
        interpreter.launches.clear()
        return interpreter.launches


def pytest_configure(config: pytest.Config) -> None:
    # Triton 3.6 turns one-element arrays into the bounds of a range()
    config.addinivalue_line(
        "filterwarnings", "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
    )


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Append a line to the file that VDROPKERN_TRITON_REPORT names, for tables."""

    def add(**facts: Any) -> None:
        if path := os.environ.get("VDROPKERN_TRITON_REPORT"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"test": request.node.name, **facts}) + "\n")

    return add
