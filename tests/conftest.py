"""What every test runs under: poisoned memory, a seed of its own, and the backends to run on."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import sys
import zlib
from collections.abc import Iterator

import pytest
import torch

from tests.threads import with_threads
from vdropkern import _backend

BACKENDS = ("reference", *(f"cpu-{isa}" for isa in _backend.CPU_ISAS))

_M_PERTURB = -6
_PERTURB_BYTE = 0x80  # malloc fills with the complement, 0x7f: 3.4e38 in float32, NaN in float16


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-kernels",
        action="store_true",
        help="fail, instead of skipping, where the compiled library is missing",
    )
    # the tests marked `gpu` on the CPU: they are then known to run before they meet a GPU
    parser.addoption("--gpu-stand-in", action="store_true", help=argparse.SUPPRESS)


def pytest_configure(config: pytest.Config) -> None:
    # without kernels the first op of the session warns once; tests/test_backend.py tests that warning
    config.addinivalue_line("filterwarnings", "ignore:vdropkern runs on its slow reference:RuntimeWarning")
    _poison_memory()


def _poison_memory() -> None:
    """Make memory that nobody wrote show: NaN in tensors, huge numbers in what C++ takes from malloc.

    The deterministic fill acts inside ``aten::empty``, which ``torch.empty``, ``empty_like``, ``new_empty``,
    ``empty_strided``, ``resize_`` and the compiled library's allocations all reach, so nothing has to be
    patched by name: floats become NaN, integers their maximum.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses the next line
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_PERTURB, _PERTURB_BYTE)


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Every test starts from a seed of its own, whatever ran before it."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore torch's thread count after a test that sets it."""
    with with_threads(torch.get_num_threads()):
        yield


def why_not(backend: str) -> str | None:
    """Why a backend of `BACKENDS` cannot run here, or None."""
    if backend == "reference":
        return None
    if (error := _backend.library_error()) is not None:
        return error
    isa = backend.removeprefix("cpu-")
    if isa not in _backend.cpu_isas("built"):
        return f"the compiled library holds no {isa} kernels"
    if isa not in _backend.cpu_isas("supported"):
        return f"this CPU cannot run {isa}"
    return None


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test once on each backend, and once for each instruction set the CPU kernels have here."""
    name: str = request.param
    if (reason := why_not(name)) is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_backend.use_backend(name.partition("-")[0]))
        if name != "reference":
            stack.enter_context(_backend.use_cpu_isa(name.removeprefix("cpu-")))
        yield name
