"""What a launch must know of its device, asked once a device. Imports no Triton and initialises nothing."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Device:
    """Limits that choose a kernel's tiles.

    Args:
        capability: compute capability, as (9, 0).
        processors: streaming multiprocessors.
        shared: bytes of shared memory one block may take.
    """

    capability: tuple[int, int]
    processors: int
    shared: int

    @property
    def architecture(self) -> str:
        return "sm_{}{}".format(*self.capability)


# stands for the GPU where kernels are interpreted on CPU tensors
INTERPRETED = Device(capability=(8, 0), processors=4, shared=163 << 10)


@functools.cache
def _cuda_device(index: int) -> Device:
    p = torch.cuda.get_device_properties(index)
    shared: int = p.shared_memory_per_block_optin  # type: ignore[attr-defined]  # missing from torch's stubs
    return Device((p.major, p.minor), p.multi_processor_count, shared)


def device_of(like: Tensor) -> Device:
    """The device that a kernel on `like` runs on."""
    return _cuda_device(like.get_device()) if like.is_cuda else INTERPRETED


def launch_on(like: Tensor) -> contextlib.AbstractContextManager[object]:
    """Make `like`'s device current, as Triton launches on the current one."""
    return torch.cuda.device_of(like) if like.is_cuda else contextlib.nullcontext()


def why_not_triton(*tensors: Tensor | None) -> str | None:
    """Why the Triton kernels cannot take these tensors, or None."""
    if any(t is not None and t.dtype == torch.float64 for t in tensors):
        return "the Triton kernels compute in float32; use backend 'reference' for float64"
    return None


def refuse_double(op: str, *tensors: Tensor | None) -> None:
    """Raise TypeError for tensors that the Triton kernels of `op` cannot take."""
    if (reason := why_not_triton(*tensors)) is not None:
        raise TypeError(f"{op}: {reason}")
