"""The tests of what only a GPU can show, with the C++ kernels and with Triton's; skipped without a GPU.

They need torch and pytest alone, so that they run on a bare machine (docs/gpu.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vdropkern import _backend, _devices

FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def stand_in(pytestconfig: pytest.Config) -> bool:
    """True where the CPU stands in for the GPU: the tests then say nothing but that they run."""
    return bool(pytestconfig.getoption("--gpu-stand-in"))


@pytest.fixture(scope="session")
def device(stand_in: bool) -> torch.device:
    if stand_in:
        return torch.device("cpu")
    if (reason := _devices.why_no_gpu()) is not None:
        pytest.skip(reason)
    return torch.device("cuda", torch.cuda.current_device())


@pytest.fixture(params=["cuda", "triton"])
def kernels(request: pytest.FixtureRequest, device: torch.device, stand_in: bool) -> Iterator[str]:
    """Run the test once with each backend that has kernels for the GPU."""
    if stand_in:
        if request.param != "cuda":
            pytest.skip("once is enough without a GPU")
        yield "auto"
        return
    try:
        with _backend.use_backend(request.param):
            yield request.param
    except _backend.BackendUnavailableError as err:
        pytest.skip(str(err))


@pytest.fixture
def only_on_gpu(device: torch.device) -> None:
    """For what has no like on a CPU."""
    if device.type != "cuda":
        pytest.skip("there is no such thing on a CPU")
