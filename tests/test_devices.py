"""What is said to be able to run on a GPU: asked of machines that are made up, so that none is needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import vdropkern as vdk
from vdropkern import _backend, _devices
from vdropkern.ops.kl import _kl_op
from vdropkern.ops.linear_lrt import _op as _lrt_op
from vdropkern.ops.sign_ste import _op as _sign_op
from vdropkern.ops.spmm import _op as _spmm_op

ARCHITECTURES = ("sm_80", "sm_86", "sm_90", "sm_120", "compute_120")


class OnGpu:
    """As much of a CUDA tensor as the choice looks at."""

    is_cpu = is_meta = is_cuda = False

    def __init__(self, index: int = 0, dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = torch.device("cuda", index), dtype


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A GPU of sm_90, a library with CUDA kernels, Triton 3.8; tests take away what they like."""
    monkeypatch.setattr(_devices, "library_error", None)
    monkeypatch.setattr(_devices, "cuda_build", lambda: ("13.0", ARCHITECTURES))
    monkeypatch.setattr(
        _devices, "has_kernel", lambda op, key: op not in ("sign_ste",) and key in ("CPU", "CUDA")
    )
    monkeypatch.setattr(_devices, "why_no_gpu", lambda: None)
    monkeypatch.setattr(_devices, "capability", lambda index: (9, 0))
    monkeypatch.setattr(_devices, "triton_version", lambda: "3.8.0")
    monkeypatch.setattr(_backend, "_tell_precision", lambda: None)
    _backend._answer.cache_clear()
    yield monkeypatch
    _backend._answer.cache_clear()


def chosen(op: str, device: str = "cuda", double: bool = False) -> str:
    return _backend.explain_on(op, device, 0, double).splitlines()[0].split(": ")[1]


def test_each_op_takes_what_suits_the_gpu(machine: pytest.MonkeyPatch) -> None:
    assert (chosen("kl"), chosen("linear_lrt"), chosen("sign_ste")) == ("cuda", "triton", "reference")
    assert chosen("conv2d_lrt") == "triton"
    assert _backend.choose(_kl_op, OnGpu()) is _kl_op.native  # type: ignore[arg-type]
    assert _backend.choose(_lrt_op, OnGpu()) is _lrt_op.triton  # type: ignore[arg-type]
    assert _backend.choose(_sign_op, OnGpu()) is _sign_op.native  # type: ignore[arg-type]
    assert _backend.choose(_spmm_op, OnGpu()) is _spmm_op.native  # type: ignore[arg-type]
    machine.setattr(_devices, "capability", lambda index: (8, 6))
    assert (chosen("linear_lrt"), chosen("conv2d_lrt"), chosen("conv2d_lrt", double=True)) == (
        "cuda",
        "cuda",
        "reference",
    )
    assert "  not triton: cuda is preferred" in _backend.explain_on("linear_lrt", "cuda", 0)


def test_float64_goes_where_it_can(machine: pytest.MonkeyPatch) -> None:
    assert (chosen("kl", double=True), chosen("linear_lrt", double=True)) == ("cuda", "reference")
    assert (chosen("xnor_pack"), chosen("xnor_pack", double=True)) == ("cuda", "reference")
    assert (chosen("spmm"), chosen("spmm", double=True)) == ("cuda", "reference")
    double = OnGpu(dtype=torch.float64)
    weights = (torch.zeros(1, dtype=torch.float64),)
    assert _backend.choose(_spmm_op, OnGpu(), weights) is _spmm_op.reference  # type: ignore[arg-type]
    assert _backend.choose(_lrt_op, double) is _lrt_op.reference  # type: ignore[arg-type]
    with (
        vdk.use_backend("triton"),
        pytest.raises(_backend.BackendUnavailableError, match=r"kl: backend 'triton' cannot run: .*float32"),
    ):
        _backend._answer("kl", "cuda", 0, True, "triton")


@pytest.mark.parametrize(
    "name, value, backend, said",
    [
        ("cuda_build", lambda: ("", ()), "cuda", ".*built without CUDA; install the .cu130 wheel"),
        (
            "capability",
            lambda index: (7, 5),
            "cuda",
            "the GPU is sm_75, the library was built for sm_80, .*CUDA_ARCHS",
        ),
        ("capability", lambda index: (7, 5), "triton", "the GPU is sm_75, the Triton kernels need sm_80"),
        ("why_no_gpu", lambda: "no NVIDIA driver was found", "cuda", "no NVIDIA driver"),
        ("why_no_gpu", lambda: "no NVIDIA driver was found", "triton", "no NVIDIA driver"),
        ("triton_version", lambda: None, "triton", "triton is not installed; .*pip install triton"),
        (
            "triton_version",
            lambda: "3.5.1",
            "triton",
            "triton 3.5.1 is too old, 3.6 is needed; `pip install -U",
        ),
        ("library_error", "it is not there", "cuda", "it is not there; reinstall where"),
    ],
)
def test_what_is_missing_is_said_with_the_remedy(
    machine: pytest.MonkeyPatch, name: str, value: object, backend: str, said: str
) -> None:
    with vdk.use_backend(backend):  # all is well
        pass
    machine.setattr(_devices, name, value)
    with pytest.raises(_backend.BackendUnavailableError, match=f"backend '{backend}' cannot run: {said}"):
        vdk.use_backend(backend).__enter__()
    assert f"  not {backend}: " in _backend.explain_on("kl", "cuda", 0)


def test_forced_backends_refuse_tensors_elsewhere() -> None:
    for backend in ("cuda", "triton"):
        reason = _backend._why_not(backend, "kl", "cpu", None, False)
        assert reason is not None


@pytest.mark.parametrize(
    "architectures, capability, runs",
    [
        (("sm_80",), (8, 0), True),
        (("sm_80",), (8, 9), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("sm_90a",), (9, 0), True),
        (("sm_100a",), (10, 3), False),
        (("sm_100",), (10, 3), True),
        (("compute_80",), (12, 1), True),
        (("compute_120",), (9, 0), False),
        ((), (8, 0), False),
        (ARCHITECTURES, (13, 0), True),
    ],
)
def test_which_gpus_code_runs_on(
    architectures: tuple[str, ...], capability: tuple[int, int], runs: bool
) -> None:
    assert _devices.serves(architectures, capability) is runs


def test_whether_cuda_kernels_run(machine: pytest.MonkeyPatch) -> None:
    on_gpu = OnGpu()
    on_gpu.is_cuda = True
    for op, runs in (("spmm", True), ("sign_ste", False)):
        assert _backend.native_on_gpu(op, on_gpu) is runs  # type: ignore[arg-type]
    assert not _backend.native_on_gpu("spmm", torch.zeros(1))
    with vdk.use_backend("reference"):
        assert not _backend.native_on_gpu("spmm", on_gpu)  # type: ignore[arg-type]
