"""What can run here: the compiled library, the GPU, Triton; and for what cannot, the reason and the remedy.

Nothing is asked of a GPU before a tensor on one is met, so importing initialises no device.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
from importlib import metadata
from pathlib import Path

import torch

MIN_TRITON = (3, 6)  # what torch 2.10 brings
MIN_TRITON_CAPABILITY = (8, 0)  # before, no tensor cores for float32 and bfloat16

REBUILD_HINT = (
    "reinstall where torch and a C++ compiler can be found: `pip install --no-build-isolation vdropkern`"
)
_CUDA_REBUILD_HINT = "install the +cu130 wheel, or build with nvcc: docs/building.md"


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


library_error = _load_library()


def has_kernel(op: str, key: str) -> bool:
    """True if the compiled library registered `op` under a dispatch key (CPU, CUDA)."""
    name = f"vdropkern::{op}"
    return library_error is None and bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, key))


def why_not_library() -> str | None:
    """Why the compiled library is missing, with the remedy, or None."""
    return None if library_error is None else f"{library_error}; {REBUILD_HINT}"


@functools.cache
def cuda_build() -> tuple[str, tuple[str, ...]]:
    """(CUDA version the library was built with, its architectures as ``sm_90`` or ``compute_120``)."""
    if library_error is not None:
        return "", ()
    version, *architectures = str(torch.ops.vdropkern.cuda_build.default()).split() or [""]
    return version, tuple(architectures)


def serves(architectures: tuple[str, ...], capability: tuple[int, int]) -> bool:
    """True if code for `architectures` runs on a GPU of `capability`.

    Machine code (``sm_86``) runs on the same major at that minor or above, an architecture-specific one
    (``sm_90a``) on its own alone; intermediate code (``compute_120``) on everything not older.
    """
    for name in architectures:
        kind, _, digits = name.partition("_")
        specific = not digits[-1].isdigit()
        number = int(digits.rstrip("abcdef"))
        built = divmod(number, 10)
        if specific and built != capability:
            continue
        if kind == "compute" and built <= capability:
            return True
        if kind == "sm" and built[0] == capability[0] and built[1] <= capability[1]:
            return True
    return False


@functools.cache
def _driver_missing() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1" if os.name == "posix" else "nvcuda.dll")
    except OSError:
        return True
    return False


def why_no_gpu() -> str | None:
    """Why no NVIDIA GPU can be used from this process, with the remedy, or None."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA; install a CUDA build (pytorch.org)"
    if torch.cuda.is_available():
        return None
    if _driver_missing():
        return "no NVIDIA driver was found (libcuda.so.1); install one"
    return "the NVIDIA driver shows no GPU; see `nvidia-smi` and CUDA_VISIBLE_DEVICES"


@functools.cache
def capability(index: int | None) -> tuple[int, int]:
    """Compute capability of a GPU, None: the current one; initialises CUDA."""
    return torch.cuda.get_device_capability(index)


def why_not_cuda(op: str, index: int | None) -> str | None:
    """Why the CUDA C++ kernels of `op` cannot run on GPU `index`, with the remedy, or None."""
    if (reason := why_not_library()) is not None:
        return reason
    version, architectures = cuda_build()
    if not version:
        return f"the compiled library was built without CUDA; {_CUDA_REBUILD_HINT}"
    if not has_kernel(op, "CUDA"):
        return "no kernel written yet"
    if (reason := why_no_gpu()) is not None:
        return reason
    if not serves(architectures, capability(index)):
        return (
            f"the GPU is sm_{capability(index)[0]}{capability(index)[1]}, the library was built for "
            f"{', '.join(architectures)}; build it with CUDA_ARCHS naming yours: docs/building.md"
        )
    return None


@functools.cache
def triton_version() -> str | None:
    """Triton's version, without importing it; None where it is not installed."""
    if importlib.util.find_spec("triton") is None:
        return None
    names = metadata.packages_distributions().get("triton")  # triton, pytorch-triton or another
    return metadata.version(names[0]) if names else "0.0"


def interpreted() -> bool:
    """True where Triton interprets its kernels on the CPU: slow, for checking them without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not_triton(index: int | None) -> str | None:
    """Why Triton kernels cannot run on GPU `index` (or interpreted), with the remedy, or None."""
    version = triton_version()
    if version is None:
        return "triton is not installed; CUDA builds of torch bring it, or `pip install triton`"
    if tuple(int(n) for n in version.split(".")[:2]) < MIN_TRITON:
        needed = ".".join(map(str, MIN_TRITON))
        return f"triton {version} is too old, {needed} is needed; `pip install -U triton`"
    if interpreted():
        return None
    if (reason := why_no_gpu()) is not None:
        return reason
    if capability(index) < MIN_TRITON_CAPABILITY:
        return f"the GPU is sm_{capability(index)[0]}{capability(index)[1]}, the Triton kernels need sm_80"
    return None
