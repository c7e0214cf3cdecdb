"""Which implementation runs an op, and why.

Every op has a pure-PyTorch ``reference`` and may have kernels: ``cpu`` (the compiled library
``_C.abi3.so``), later ``cuda`` and ``triton``. ``auto`` takes the fastest that can run; falling back to
the reference because the compiled library is missing warns once and says how to get it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

ENV_BACKEND = "VDROPKERN_BACKEND"
ENV_CPU_ISA = "VDROPKERN_CPU_ISA"
BACKENDS = ("auto", "reference", "cpu")
CPU_ISAS = ("portable", "avx2", "avx512")  # order = the codes the compiled library uses
KERNEL_OPS = ("philox_bits", "philox_normal", "linear_lrt", "kl")

REBUILD_HINT = (
    "reinstall where torch and a C++ compiler can be found: `pip install --no-build-isolation vdropkern`"
)


class BackendUnavailableError(RuntimeError):
    """A backend was forced that cannot run here. The message says why and what to do."""


def _load_library() -> str | None:
    """Load the compiled ops; return None on success, else the reason they are not here."""
    path = Path(__file__).with_name("_C.abi3.so")
    if not path.exists():
        return f"the compiled library {path.name} is not part of this installation"
    try:
        torch.ops.load_library(path)
    except (OSError, RuntimeError) as err:
        return f"{path.name} did not load with torch {torch.__version__}: {err}"
    return None


_library_error = _load_library()
_warned = False


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; accepted: {', '.join(BACKENDS)}")
    return name


_backend = _checked(os.environ.get(ENV_BACKEND, "auto"), f"environment variable {ENV_BACKEND}")


def library_error() -> str | None:
    """Why the compiled library is not loaded, or None when it is."""
    return _library_error


def get_backend() -> str:
    """The backend asked for: ``auto`` unless `use_backend` or ``VDROPKERN_BACKEND`` says otherwise."""
    return _backend


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op inside the block on one backend.

    Args:
        name: ``auto``, ``reference`` or ``cpu``.

    Raises:
        ValueError: `name` is no backend.
        BackendUnavailableError: the backend cannot run on this machine.
    """
    global _backend
    if _checked(name, "use_backend") == "cpu" and _library_error is not None:
        raise BackendUnavailableError(f"backend 'cpu' cannot run: {_library_error}; {REBUILD_HINT}")
    before, _backend = _backend, name
    try:
        yield
    finally:
        _backend = before


def use_reference(op: str, like: Tensor) -> bool:
    """True if `op` on a tensor like `like` is to run its reference directly.

    With False the dispatcher decides: the compiled kernel for a CPU tensor, else the reference.
    """
    global _warned
    if _backend == "reference":
        return True
    if _library_error is None:
        if _backend == "cpu" and like.device.type not in ("cpu", "meta"):
            raise BackendUnavailableError(
                f"{op}: backend 'cpu' was forced, but the input is on {like.device}; "
                "move it to the CPU or use backend 'auto'"
            )
        return False
    if _backend == "cpu":
        raise BackendUnavailableError(f"{op}: backend 'cpu' cannot run: {_library_error}; {REBUILD_HINT}")
    if not _warned and not torch.compiler.is_compiling():
        _warned = True
        warnings.warn(
            f"vdropkern runs on its slow reference: {_library_error}; {REBUILD_HINT}",
            RuntimeWarning,
            stacklevel=4,
        )
    return False


def explain(op: str, *args: Tensor) -> str:
    """Say which backend `op` takes for these inputs, and why not the others.

    Args:
        op: an op's name, as ``linear_lrt``.
        *args: tensors the op would get; only their device matters. None: a CPU tensor.

    Returns:
        one line a backend, the chosen one first.
    """
    if op not in KERNEL_OPS and op != "spmm":
        raise ValueError(f"explain: unknown op {op!r}; accepted: {', '.join((*KERNEL_OPS, 'spmm'))}")
    device = args[0].device.type if args else "cpu"
    why_not_cpu = _why_not_cpu(op, device)
    if why_not_cpu is None:
        reason = "forced" if _backend == "cpu" else "the fastest that can run"
        lines = [f"{op}: cpu ({cpu_isa()}): {reason}", "  not reference: kept for checking and fallback"]
    else:
        reason = "forced" if _backend == "reference" else "nothing faster can run"
        lines = [f"{op}: reference: {reason}", f"  not cpu: {why_not_cpu}"]
    lines += [f"  not {name}: this version has no {name} kernels" for name in ("cuda", "triton")]
    return "\n".join(lines)


def _why_not_cpu(op: str, device: str) -> str | None:
    if _backend == "reference":
        return "backend 'reference' was asked for"
    if op not in KERNEL_OPS:
        return "no kernel written yet"
    if _library_error is not None:
        return f"{_library_error}; {REBUILD_HINT}"
    if device != "cpu":
        return f"the input is on {device}"
    return None


def _isa_bits() -> int:
    return int(torch.ops.vdropkern.cpu_isa.default(-1))


def cpu_isa() -> str | None:
    """The instruction set the CPU kernels run with: portable, avx2 or avx512; None without kernels."""
    return None if _library_error is not None else CPU_ISAS[_isa_bits() & 0xF]


def cpu_isas(kind: str = "supported") -> tuple[str, ...]:
    """Instruction sets ``built`` into the library, or those of them ``supported`` by this CPU."""
    if kind not in ("built", "supported"):
        raise ValueError(f"cpu_isas: kind must be 'built' or 'supported', got {kind!r}")
    if _library_error is not None:
        return ()
    bits = _isa_bits() >> (4 if kind == "built" else 8)
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
