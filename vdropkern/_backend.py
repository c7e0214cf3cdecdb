"""Which implementation runs an op, and why.

Every op has a pure-PyTorch ``reference`` and may have kernels: ``cpu`` and ``cuda`` (C++, in the compiled
library ``_C.abi3.so``) and ``triton``. ``auto`` takes the fastest that can run; falling back to the reference
because the compiled library is missing warns once and says how to get it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import _devices
from ._precision import Precision, resolve

ENV_BACKEND = "VDROPKERN_BACKEND"
ENV_CPU_ISA = "VDROPKERN_CPU_ISA"
BACKENDS = ("auto", "reference", "cpu", "cuda", "triton")
CPU_ISAS = ("portable", "avx2", "avx512")  # order = the codes the compiled library uses
KERNEL_OPS = (
    "philox_bits",
    "philox_normal",
    "linear_lrt",
    "kl",
    "mul_noise",
    "mul_noise_learned",
    "multi_sample_head",
    "conv2d_lrt",
    "gate",
    "weight_noise",
    "weight_mask",
    "spmm",
    "sign_ste",
    "binary_weight",
    "xnor_pack",
    "xnor_conv2d",
    "xnor_conv2d_bits",
    "sign_mlp_losses",
    "noise_moments",
    "sparse_conv2d",
    "sparse_conv2d_ordered",
    "max_pool2d",
    "sparse_net",
)

# On a GPU whose tensor cores take their operands from shared memory (wgmma and later), Triton's products use
# them and the C++ kernels, on mma.sync, do not. What is bound by memory gains nothing from that.
_TRITON_FIRST = {"linear_lrt": (9, 0), "conv2d_lrt": (9, 0), "multi_sample_head": (9, 0)}
_FLOAT_ONLY = (
    "linear_lrt",
    "conv2d_lrt",
    "multi_sample_head",
    "xnor_pack",
    "spmm",
    "sparse_conv2d_ordered",
)  # in CUDA C++; in Triton everything is

# The C++ kernels' names for `_precision.Precision`; a variance cheaper than tf32 is for half types only.
_PRECISIONS = {("ieee", "ieee"): 0, ("tf32x3", "tf32x3"): 1, ("tf32x3", "tf32"): 2, ("tf32", "tf32"): 3}


class BackendUnavailableError(RuntimeError):
    """A backend was forced that cannot run here. The message says why and what to do."""


class Op(NamedTuple):
    """The implementations of one op, all of one signature."""

    name: str  # of the public op: that of a backward op is its forward's
    reference: Callable[..., Any]
    native: Callable[..., Any]  # the dispatcher: the device's compiled kernel, else the reference
    triton: Callable[..., Any] | None


_triton_ops: set[str] = set()  # of which a Triton implementation was registered
_warned = False
_told: Precision | None = None
_backend = "auto"
_native_on_cpu = False  # what `choose` asks first, since small layers feel every microsecond


def has_triton(op: str) -> None:
    """Note that `op` has an implementation in Triton."""
    _triton_ops.add(op)


def _set_backend(name: str) -> None:
    global _backend, _native_on_cpu
    _backend, _native_on_cpu = name, name in ("auto", "cpu") and _devices.library_error is None


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; accepted: {', '.join(BACKENDS)}")
    return name


# one that this CPU lacks is not taken, but a name that is none would be passed over in silence
if (_wanted := os.environ.get(ENV_CPU_ISA, "")) not in ("", *CPU_ISAS):
    raise ValueError(
        f"environment variable {ENV_CPU_ISA}: unknown instruction set {_wanted!r}; "
        f"accepted: {', '.join(CPU_ISAS)}"
    )
_set_backend(_checked(os.environ.get(ENV_BACKEND) or "auto", f"environment variable {ENV_BACKEND}"))


def native_on_cpu() -> bool:
    """Whether CPU tensors get the compiled kernels."""
    return _native_on_cpu


def native_on_gpu(op: str, like: Tensor) -> bool:
    """Whether the CUDA C++ kernels of `op` run on tensors like this one.

    Raises:
        BackendUnavailableError: a backend was forced that cannot run the op on them.
    """
    if not like.is_cuda or not _devices.has_kernel(op, "CUDA"):
        return False
    device, double = like.device, like.dtype == torch.float64
    return _implementation(op, "cuda", device.index, double, _backend) == "native"


def library_error() -> str | None:
    """Why the compiled library is not loaded, or None when it is."""
    return _devices.library_error


def get_backend() -> str:
    """The backend asked for: ``auto`` unless `use_backend` or ``VDROPKERN_BACKEND`` says otherwise."""
    return _backend


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend.

    Args:
        name: ``auto``, ``reference``, ``cpu``, ``cuda`` or ``triton``. The last four make an op that has no
            such kernel, or gets tensors elsewhere, raise.

    Raises:
        ValueError: `name` is no backend.
        BackendUnavailableError: the backend cannot run on this machine.
    """
    reason = None
    if _checked(name, "use_backend") == "cpu":
        reason = _devices.why_not_library()
    elif name == "cuda":
        reason = _devices.why_not_cuda("philox_bits", None)
    elif name == "triton":
        reason = _devices.why_not_triton(None)
    if reason is not None:
        raise BackendUnavailableError(f"backend {name!r} cannot run: {reason}")
    before = _backend
    _set_backend(name)
    try:
        yield
    finally:
        _set_backend(before)


def choose(op: Op, like: Tensor, others: Sequence[Any] = ()) -> Callable[..., Any]:
    """The implementation of `op` for a tensor like this one, with `others` among its arguments.

    Raises:
        BackendUnavailableError: a backend was forced that cannot run the op on these tensors.
    """
    if _native_on_cpu and like.is_cpu:
        return op.native
    if _backend == "reference":
        return op.reference
    if like.is_meta:  # shapes alone: the dispatcher calls the fake kernel
        return op.native
    device = like.device
    double = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in others)
    double = double or like.dtype == torch.float64
    kind = _implementation(op.name, device.type, device.index, double, _backend)
    if kind == "triton":
        assert op.triton is not None
        return op.triton
    if not _warned and _backend == "auto" and not torch.compiler.is_compiling():
        _warn_of_fallback(op.name, device.type, device.index)
    return op.reference if kind == "reference" else op.native


def _warn_of_fallback(op: str, device: str, index: int | None) -> None:
    """Say once that the reference runs where a kernel could, had something not been missing."""
    global _warned
    reason = None
    if op in KERNEL_OPS and _resolve(op, device, index, False, "auto") == "reference":
        reason = _devices.why_not_cuda(op, index) if device == "cuda" else _devices.why_not_library()
    if reason is not None:
        _warned = True
        warnings.warn(f"vdropkern runs on its slow reference: {reason}", RuntimeWarning, stacklevel=5)


def _implementation(op: str, device: str, index: int | None, double: bool, backend: str) -> str:
    if device == "cuda":
        _tell_precision()
    return _answer(op, device, index, double, backend)


# What torch.compiler.assume_constant_result does, which would import Dynamo: traced code asks once, for the
# arguments it has, and keeps the answer.
_implementation._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _answer(op: str, device: str, index: int | None, double: bool, backend: str) -> str:
    """Which member of `Op` to call: ``reference``, ``native`` or ``triton``."""
    name = _resolve(op, device, index, double, backend)
    # The dispatcher runs the reference as well, as one node of a graph; not where it has a kernel registered.
    if name == "reference" and _devices.has_kernel(op, device.upper()):
        return "reference"
    return "triton" if name == "triton" else "native"


def _tell_precision() -> None:
    """Pass on to the compiled library in what arithmetic float32 products are to run."""
    global _told
    asked = resolve(torch.float32)
    if asked != _told and _devices.has_kernel("linear_lrt", "CUDA"):
        mean, variance = asked.mean, "tf32" if asked.variance == "bf16" else asked.variance
        nearest = _PRECISIONS.get((mean, variance), _PRECISIONS[mean, mean])
        torch.ops.vdropkern.float32_precision.default(nearest)
        _told = asked


def _resolve(op: str, device: str, index: int | None, double: bool, backend: str) -> str:
    """The backend that runs `op`; raises where one is forced that cannot."""
    if op not in KERNEL_OPS or backend == "reference":
        return "reference"
    if backend != "auto":
        if (reason := _why_not(backend, op, device, index, double)) is not None:
            raise BackendUnavailableError(f"{op}: backend {backend!r} cannot run: {reason}")
        return backend
    return next(n for n in _candidates(op, device, index) if _why_not(n, op, device, index, double) is None)


def _candidates(op: str, device: str, index: int | None) -> tuple[str, ...]:
    """The backends, the fastest that may run first."""
    if device != "cuda":  # on the CPU Triton is interpreted, and never taken unasked
        return ("cpu", "reference")
    first = _TRITON_FIRST.get(op)
    if first is not None and _devices.why_no_gpu() is None and _devices.capability(index) >= first:
        return ("triton", "cuda", "reference")
    return ("cuda", "triton", "reference")


def _why_not(name: str, op: str, device: str, index: int | None, double: bool) -> str | None:
    """Why a backend cannot run `op` on tensors on `device`, with the remedy, or None."""
    if name == "reference":
        return None
    if op not in KERNEL_OPS:
        return "no kernel written yet"
    if name == "cpu":
        if (reason := _devices.why_not_library()) is not None:
            return reason
        if not _devices.has_kernel(op, "CPU"):
            return "no kernel written yet"
        elsewhere = f"the input is on {_place(device, index)}; move it to the CPU or use backend 'auto'"
        return None if device == "cpu" else elsewhere
    if name == "triton" and op not in _triton_ops:
        return "no kernel written yet"
    reason = _devices.why_not_cuda(op, index) if name == "cuda" else _devices.why_not_triton(index)
    if reason is not None:
        return reason
    if device != "cuda" and not (name == "triton" and _devices.interpreted()):
        return f"the input is on {_place(device, index)}; move it to a GPU or use backend 'auto'"
    if double and (name == "triton" or op in _FLOAT_ONLY):
        return f"the {name} kernels compute in float32; use backend 'reference' for float64, or 'auto'"
    return None


def _place(device: str, index: int | None) -> str:
    return device if index is None else f"{device}:{index}"


def explain(op: str, *args: Tensor) -> str:
    """Say which backend `op` takes for these inputs, and why not the others.

    Args:
        op: an op's name, as ``linear_lrt``.
        *args: tensors the op would get; only device and dtype matter. Without any: a CPU tensor.

    Returns:
        one line a backend, the chosen one first; ``none`` where one is forced that cannot run.
    """
    if op not in KERNEL_OPS:
        raise ValueError(f"explain: unknown op {op!r}; accepted: {', '.join(KERNEL_OPS)}")
    for arg in args:
        if not isinstance(arg, Tensor):
            raise TypeError(f"explain: after the op tensors are accepted, got {type(arg).__name__}")
    place = args[0].device if args else torch.device("cpu")
    return explain_on(op, place.type, place.index, any(t.dtype == torch.float64 for t in args))


def explain_on(op: str, device: str, index: int | None = None, double: bool = False) -> str:
    """`explain` for a device by name, which need not be here."""
    why_not = {name: _why_not(name, op, device, index, double) for name in BACKENDS[1:]}
    forced = _backend != "auto"
    able = [name for name in _candidates(op, device, index) if why_not[name] is None]
    chosen = able[0] if not forced else _backend if why_not[_backend] is None else "none"
    reason = "the fastest that can run" if chosen != "reference" else "nothing faster can run"
    if forced:
        raises = f"backend {_backend!r} was forced and cannot run it; a call raises BackendUnavailableError"
        reason = "forced" if chosen == _backend else raises
    shown = f"{chosen} ({cpu_isa()})" if chosen == "cpu" else chosen
    lines = [f"{op}: {shown}: {reason}"]
    for name in sorted(why_not, key=lambda name: (*_candidates(op, device, index), *BACKENDS).index(name)):
        if name != chosen:
            idle = "kept for checking and fallback" if name == "reference" else f"{chosen} is preferred"
            asked = f"backend {_backend!r} was asked for" if forced and name != _backend else None
            lines.append(f"  not {name}: {asked or why_not[name] or idle}")
    return "\n".join(lines)


def _isa_bits() -> int:
    return int(torch.ops.vdropkern.cpu_isa.default(-1))


def cpu_isa() -> str | None:
    """The instruction set the CPU kernels run with: portable, avx2 or avx512; None without kernels."""
    return None if _devices.library_error is not None else CPU_ISAS[_isa_bits() & 0xF]


def cpu_byte_lookup() -> bool:
    """Whether the CPU kernels run with AVX-512 and may use its byte look-ups (VBMI)."""
    return _devices.library_error is None and bool(_isa_bits() >> 12 & 1)


def cpu_lanes() -> int:
    """Floats of a vector of the CPU kernels; 0 without kernels."""
    isa = cpu_isa()
    return 0 if isa is None else {"portable": 4, "avx2": 8, "avx512": 16}[isa]


def cpu_isas(kind: str = "supported") -> tuple[str, ...]:
    """Instruction sets ``built`` into the library, or those of them ``supported`` by this CPU."""
    if kind not in ("built", "supported"):
        raise ValueError(f"cpu_isas: kind must be 'built' or 'supported', got {kind!r}")
    if _devices.library_error is not None:
        return ()
    bits = _isa_bits() >> (4 if kind == "built" else 8) & 0xF
    return tuple(name for i, name in enumerate(CPU_ISAS) if bits >> i & 1)


@contextlib.contextmanager
def use_cpu_isa(name: str) -> Iterator[None]:
    """Run the CPU kernels inside the block with one instruction set (for tests and benchmarks).

    Raises:
        BackendUnavailableError: the library is missing, or this CPU cannot run `name`.
    """
    if name not in cpu_isas():
        raise BackendUnavailableError(
            f"use_cpu_isa: {name!r} cannot run here; runnable: {', '.join(cpu_isas()) or 'none'}"
        )
    before = _isa_bits() & 0xF
    torch.ops.vdropkern.cpu_isa.default(CPU_ISAS.index(name))
    try:
        yield
    finally:
        torch.ops.vdropkern.cpu_isa.default(before)
