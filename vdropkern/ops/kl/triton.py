"""`kl` and `kl_grad` in Triton: one pass over the parameters, sums in two stages of fixed order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton_sums import sum_parts
from .triton_terms import kl_terms, prior_constant

BLOCK = 1024  # weights a step
STEPS = 4  # steps a program, one after another, summed lane by lane


@triton.jit
def kl_kernel(
    mu, log_parameter, grad, dmu, dlog, partial, n,
    PRIOR: tl.constexpr, IS_ALPHA: tl.constexpr, GRAD: tl.constexpr,
    BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    first = tl.program_id(0).to(tl.int64) * (BLOCK * STEPS)
    total = tl.zeros((BLOCK,), tl.float32)
    if GRAD:
        scale = tl.load(grad).to(tl.float32)
    for step in range(STEPS):
        i = first + step * BLOCK + tl.arange(0, BLOCK)
        inside = i < n
        log_i = tl.load(log_parameter + i, inside, 0.0).to(tl.float32)
        mu_i = log_i
        if not IS_ALPHA:
            mu_i = tl.load(mu + i, inside, 1.0).to(tl.float32)
        value, slope, slope_mu = kl_terms(mu_i, log_i, IS_ALPHA, PRIOR)
        total += tl.where(inside, value, 0.0)
        if GRAD:
            tl.store(dlog + i, (slope * scale).to(dlog.dtype.element_ty), inside)
            if not IS_ALPHA:
                tl.store(dmu + i, (slope_mu * scale).to(dmu.dtype.element_ty), inside)
    tl.store(partial + tl.program_id(0), tl.sum(total, 0))


def _run(
    mu: Tensor | None, log_parameter: Tensor, is_alpha: bool, prior: str, grad: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    refuse_double("kl", mu, log_parameter)
    log_c = log_parameter.contiguous()
    mu_c = log_c if mu is None else mu.contiguous()
    dmu = mu_c.new_empty(mu_c.shape if grad is not None and not is_alpha else 0)
    dlog = log_c.new_empty(log_c.shape if grad is not None else 0)
    n = log_c.numel()
    value = torch.empty((), dtype=torch.float32, device=log_c.device)
    if n == 0:
        return value.zero_(), dmu, dlog
    programs = triton.cdiv(n, BLOCK * STEPS)
    partial = value.new_empty(programs)
    with launch_on(log_c):
        kl_kernel[(programs,)](
            mu_c, log_c, value if grad is None else grad, dmu, dlog, partial, n,
            PRIOR=prior_constant(prior), IS_ALPHA=is_alpha, GRAD=grad is not None, BLOCK=BLOCK, STEPS=STEPS,
            num_warps=8,
        )  # fmt: skip
        sum_parts(partial[:, None], value)
    return value, dmu, dlog


def kl(mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str) -> Tensor:
    """Sum of KL over all weights, float32."""
    if log_alpha is not None:
        return _run(None, log_alpha, True, prior, None)[0]
    assert mu is not None and log_sigma2 is not None
    return _run(mu, log_sigma2, False, prior, None)[0]


def kl_grad(
    grad: Tensor, mu: Tensor | None, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(KL, grad dKL/dmu, grad dKL/dlog_sigma2) or (KL, empty, grad dKL/dlog_alpha)."""
    if log_alpha is not None:
        return _run(None, log_alpha, True, prior, grad)
    assert mu is not None and log_sigma2 is not None
    return _run(mu, log_sigma2, False, prior, grad)
