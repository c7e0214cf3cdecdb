"""max_pool2d: max pooling of NCHW images for inference, against torch's own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vdropkern.ops.max_pool2d import PoolGeometry, max_pool2d

from .specs import Contender, Pooling

Pool = Callable[[Tensor], Tensor]


def _x(spec: Pooling) -> Tensor:
    return torch.randn(spec.shape, generator=torch.Generator().manual_seed(3))


def _torch(spec: Pooling) -> Pool:
    return torch.nn.MaxPool2d(spec.kernel, spec.stride, spec.padding)


def _vdropkern(spec: Pooling) -> Pool:
    geometry = PoolGeometry(*(size for size in (spec.kernel, spec.stride, spec.padding) for _ in range(2)))
    return lambda x: max_pool2d(x, geometry)


def _compiled(spec: Pooling) -> Pool:
    compiled: Pool = torch.compile(_torch(spec))
    return compiled


def _make(pool: Callable[[Pooling], Pool]) -> Callable[[Pooling], Callable[[], None]]:
    def make(spec: Pooling) -> Callable[[], None]:
        run, x = pool(spec), _x(spec)

        def timed() -> None:
            with torch.inference_mode():
                run(x)

        return timed

    return make


CONTENDERS = {
    "torch": Contender("torch.nn.MaxPool2d", _make(_torch), core=True),
    "vdropkern": Contender("vdropkern max_pool2d", _make(_vdropkern), core=True),
    "compile": Contender("torch.compile of torch.nn.MaxPool2d", _make(_compiled)),
}


def gate(spec: Pooling) -> list[str]:
    """Exactly what torch gives."""
    x = _x(spec)
    return [] if torch.equal(_vdropkern(spec)(x), _torch(spec)(x)) else ["max_pool2d differs from torch's"]


def test_max_pool2d(timed: Callable[[], None]) -> None:
    timed()
