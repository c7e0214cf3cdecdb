"""CUDA kernels on an emulated GPU: the memory they may touch, and the schedules they are run under."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from vdropkern.ops.kl import PRIORS, parse_prior

from ..traffic_report import report

SCHEDULES = (0, 1, 2)  # seeds: which thread, warp and block comes first


def emulated() -> object:
    """The compiled module; skips the test where it is not built."""
    return pytest.importorskip("emulated", reason="the emulator's module is not built")


def prior_code(prior: str) -> tuple[int, float]:
    """A prior as the bindings take it: its number, and the standard deviation of a normal one."""
    name, sd = parse_prior(prior)
    return PRIORS.index(name), sd


class Memory:
    """Global memory of a launch: every access of a kernel must lie inside one of its tensors.

    Inputs are given as `Buffer`s that kernels may only read; `output` makes tensors full of NaN (integers:
    their maximum), so that an element nobody wrote shows.
    """

    def __init__(self, module: object) -> None:
        self._buffer = module.Buffer  # type: ignore[attr-defined]
        self._tensors: dict[str, Tensor] = {}
        self._buffers: dict[str, object] = {}

    def input(self, name: str, t: Tensor | None) -> object | None:
        return None if t is None else self._register(name, t.contiguous(), writable=False)

    def output(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0
    ) -> tuple[Tensor, object]:
        """A tensor to be written, `offset` elements away from a multiple of 16 bytes."""
        t = misaligned(torch.empty(shape, dtype=dtype), offset)
        t.fill_(torch.nan if dtype.is_floating_point else torch.iinfo(dtype).max)
        return t, self._register(name, t, writable=True)

    def traffic(self) -> dict[str, tuple[int, int]]:
        """Bytes loaded and stored, by tensor."""
        return {name: (b.loaded, b.stored) for name, b in self._buffers.items()}  # type: ignore[attr-defined]

    def _register(self, name: str, t: Tensor, writable: bool) -> object:
        self._tensors[name] = t  # alive as long as it is registered
        buffer = self._buffer(name, t.data_ptr(), t.numel() * t.element_size(), writable)
        self._buffers[name] = buffer
        return buffer

    def forget(self) -> None:
        self._buffers.clear()


@contextlib.contextmanager
def memory(module: object) -> Iterator[Memory]:
    """Register tensors for the launches inside the block."""
    made = Memory(module)
    module.clear_records()  # type: ignore[attr-defined]
    try:
        yield made
    finally:
        made.forget()
    for r in module.records():  # type: ignore[attr-defined]
        report("nvcc", r["kernel"], r["loaded"] + r["stored"], r["distinct"])


def misaligned(t: Tensor, offset: int) -> Tensor:
    """A dense copy of t that starts `offset` elements after a multiple of 16 bytes."""
    per16 = 16 // t.element_size()
    padded = t.new_empty(t.numel() + 2 * per16 + offset)
    first = -(padded.data_ptr() // t.element_size()) % per16 + offset
    return padded[first : first + t.numel()].view(t.shape).copy_(t)
