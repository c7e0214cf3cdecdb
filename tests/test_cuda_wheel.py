"""A wheel with CUDA kernels, as `make wheel CUDA=13.0` builds it: it works where there is no CUDA."""

from __future__ import annotations

import json
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from .test_packaging import ROOT, SMOKE, make_venv, run

WHEELS = sorted(ROOT.glob("dist/*+cu*.whl"))

SAY = """
    import torch, vdropkern
    from vdropkern import _backend, _devices
    assert _backend.library_error() is None, _backend.library_error()
    ops = ("philox_bits", "philox_normal", "kl", "kl_grad", "linear_lrt", "linear_lrt_backward")
    others = ("spmm", "spmm_backward", "weight_noise", "weight_noise_grad", "gate", "gate_backward")
    more = ("weight_mask", "weight_mask_grad", "multi_sample_head", "multi_sample_head_backward")
    convs = ("conv2d_lrt", "conv2d_lrt_backward", "xnor_conv2d", "xnor_conv2d_bits")
    for op in (*ops, *others, *more, *convs, "xnor_pack"):
        for key in ("CPU", "CUDA"):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(f"vdropkern::{op}", key), (op, key)
    assert not torch.cuda.is_initialized()
    print(*_devices.cuda_build()[1])
    print(vdropkern.explain("kl"))
"""
WHICH = """
    import vdropkern
    from vdropkern import _devices
    print(vdropkern.__file__)
    print(len(_devices.cuda_build()[1]))
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    if not WHEELS:
        pytest.skip("dist/ holds no wheel with CUDA kernels: make wheel CUDA=13.0")
    return WHEELS[-1]


def _dedent(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)


def check(python: Path | str, folder: Path) -> None:
    """Loads, computes on the CPU, knows its architectures, says why CUDA is not taken."""
    architectures, first, *others = run([python, "-c", _dedent(SAY)], folder).splitlines()
    assert architectures.startswith("sm_80") and architectures.split()[-1].startswith("compute_")
    assert first.startswith("kl: cpu (")
    (cuda,) = (line for line in others if line.strip().startswith("not cuda"))
    assert "kernel" not in cuda, cuda  # the kernels are there: it is something else that is missing
    result = json.loads(run([python, "-c", _dedent(SMOKE)], folder, VDROPKERN_BACKEND="auto"))
    assert result["error"] is None and result["warnings"] == []


def test_in_a_clean_environment(wheel: Path, tmp_path: Path) -> None:
    pytest.importorskip("pip", minversion="22.3", reason="needed to install the wheel")
    outer = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")}
    python = make_venv(tmp_path / "venv", *outer)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run([*pip, "install", "--no-index", "--no-deps", wheel], tmp_path)
    check(python, tmp_path)


@pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
def test_here_with_cuda_in_torch(tmp_path: Path) -> None:
    """In an environment that has the wheel installed, with a torch that has CUDA."""
    where, kernels = run([sys.executable, "-c", _dedent(WHICH)], tmp_path).splitlines()
    if Path(where).is_relative_to(ROOT) and kernels == "0":  # a wheel without them must fail, not this
        pytest.skip("this checkout is compiled without CUDA kernels: pip install the wheel")
    check(sys.executable, tmp_path)
