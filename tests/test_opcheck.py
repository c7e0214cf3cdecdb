"""The ops as torch sees them: schema, fake kernels and tracing, by torch.library.opcheck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from .cases import CASES, SEED, Case, lay_out

DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64),
    "bf16+fp32": (torch.bfloat16, torch.float32),
    "fp16": (torch.float16, torch.float16),
}
VARIANTS = [*((dtypes, "contiguous") for dtypes in DTYPES), ("fp32", "transposed"), ("fp32", "sliced")]
OPCHECK_CASES = (
    "linear_lrt-odd",
    "linear_lrt-leading",
    "linear_lrt-empty_batch",
    "linear_lrt-in0",
    "linear_lrt-log_alpha[37]",
    "linear_lrt_kl-leading",
    "linear_lrt_kl-log_alpha-ard",
    "linear_lrt_kl-clip-some",
)


def op_arguments(case: Case, tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    """Arguments of torch.ops.vdropkern.linear_lrt; log_alpha in two dimensions, as the op wants it."""
    la = tensors.get("log_alpha")
    if la is not None and la.ndim < 2:
        la = la.reshape(1, -1)
    prior = case.options.get("prior", "log-uniform") if case.op == "linear_lrt_kl" else "none"
    return (
        tensors["x"], tensors["mu"], tensors.get("log_sigma2"), la, tensors.get("bias"),
        torch.tensor(SEED), prior, 1e-8, case.options.get("clip_log_alpha", math.inf),
    )  # fmt: skip


@pytest.mark.parametrize("dtypes, layout", VARIANTS)
@pytest.mark.parametrize("name", OPCHECK_CASES)
def test_opcheck_linear_lrt(name: str, dtypes: str, layout: str) -> None:
    """The forward op and the op its backward calls: both are public to the compiler."""
    case = CASES[name]
    dtype, noise_dtype = DTYPES[dtypes]
    tensors = {k: lay_out(t, layout) for k, t in case.make(dtype, noise_dtype=noise_dtype).items()}
    arguments = op_arguments(case, tensors)
    x, mu, log_sigma2, log_alpha, _, seed, prior, _, clip = arguments
    torch.library.opcheck(torch.ops.vdropkern.linear_lrt.default, arguments)
    y, std, kl = torch.ops.vdropkern.linear_lrt(*arguments)
    upstream = (lay_out(torch.ones_like(y), layout), torch.ones_like(kl) if prior != "none" else None)
    needs = (True, True, True) if layout == "contiguous" else (False, True, False)
    torch.library.opcheck(
        torch.ops.vdropkern.linear_lrt_backward.default,
        (*upstream, x, mu, log_sigma2, log_alpha, std, seed, prior, clip, *needs),
    )


@pytest.mark.parametrize("dtypes, layout", VARIANTS)
@pytest.mark.parametrize("name", ["kl-odd-log-uniform", "kl-free-ard", "kl-empty", "kl-scalar"])
def test_opcheck_kl(name: str, dtypes: str, layout: str) -> None:
    case = CASES[name]
    dtype, noise_dtype = DTYPES[dtypes]
    tensors = {k: lay_out(t, layout) for k, t in case.make(dtype, noise_dtype=noise_dtype).items()}
    arguments = (*(tensors.get(k) for k in ("mu", "log_sigma2", "log_alpha")), case.options["prior"])
    torch.library.opcheck(torch.ops.vdropkern.kl.default, arguments)
    torch.library.opcheck(torch.ops.vdropkern.kl_grad.default, (torch.ones(()), *arguments))


@pytest.mark.parametrize("rows, cols", [(3, 5), (0, 4), (4, 0), (1, 1)])
def test_opcheck_philox(rows: int, cols: int) -> None:
    seed = torch.tensor(SEED)
    torch.library.opcheck(torch.ops.vdropkern.philox_bits.default, (seed, rows, cols))
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        torch.library.opcheck(torch.ops.vdropkern.philox_normal.default, (seed, rows, cols, dtype))
