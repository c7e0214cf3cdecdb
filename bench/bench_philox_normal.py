"""philox_normal: standard normals from a seed, against torch's generator."""

from __future__ import annotations

from collections.abc import Callable

import torch

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Contender, Size

_SEED = 0x5EED


def _vdropkern(size: Size) -> Callable[[], object]:
    seed = torch.tensor(_SEED)
    return lambda: vF.philox_normal(seed, size.rows, size.cols)


def _in_place(size: Size) -> Callable[[], object]:
    buffer = torch.empty(size.rows, size.cols)
    return buffer.normal_


CONTENDERS = {
    "randn": Contender("torch.randn", lambda size: lambda: torch.randn(size.rows, size.cols), core=True),
    "vdropkern": Contender("vdropkern philox_normal", _vdropkern, core=True),
    "normal_": Contender("torch.Tensor.normal_ (no new memory)", _in_place),
}


def gate(size: Size) -> list[str]:
    """The same integers as the reference, and its normals in float64."""
    seed = torch.tensor(_SEED)
    rows = min(size.rows, 256)
    bits, normals = vF.philox_bits(seed, rows, size.cols), vF.philox_normal(seed, rows, size.cols)
    with vdk.use_backend("reference"):
        wrong = [] if torch.equal(bits, vF.philox_bits(seed, rows, size.cols)) else ["the random bits differ"]
        truth = vF.philox_normal(seed, rows, size.cols, torch.float64)
    return wrong + compare({"normals": normals}, {"normals": truth}, reduction=1)


def test_philox_normal(timed: Callable[[], None]) -> None:
    timed()
