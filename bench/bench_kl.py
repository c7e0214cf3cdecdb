"""kl: the KL of SparseVD's weights with both gradients, against the formula users write."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from . import peers
from .bench_linear_lrt import eager_kl
from .gate import compare
from .specs import Contender, Size


def _parameters(size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    bound = 1 / math.sqrt(size.cols)
    mu = torch.empty(size.rows, size.cols).uniform_(-bound, bound, generator=generator)
    log_sigma2 = torch.empty(size.rows, size.cols).normal_(-8.0, 1.0, generator=generator)
    return mu.requires_grad_(), log_sigma2.requires_grad_()


def _through_autograd(kl: Callable[[Tensor, Tensor], Tensor], size: Size) -> Callable[[], None]:
    mu, log_sigma2 = _parameters(size)

    def run() -> None:
        kl(mu, log_sigma2).backward()
        mu.grad = log_sigma2.grad = None

    return run


def _vdropkern(size: Size) -> Callable[[], object]:
    mu, log_sigma2 = (p.detach() for p in _parameters(size))
    return lambda: vF.kl_value_and_grad(mu, log_sigma2)


def _cplxmodule(size: Size) -> Callable[[], None]:
    module, penalty = peers.cplxmodule_penalty(size.rows, size.cols)

    def run() -> None:
        penalty().backward()
        module.weight.grad = module.log_sigma2.grad = None

    return run


CONTENDERS = {
    "eager": Contender("eager formula", lambda size: _through_autograd(eager_kl, size), core=True),
    "vdropkern": Contender("vdropkern kl_value_and_grad", _vdropkern, core=True),
    "vdropkern-autograd": Contender(
        "vdropkern kl, then backward", lambda size: _through_autograd(vF.kl, size), core=True
    ),
    "compile": Contender(
        "torch.compile(eager)", lambda size: _through_autograd(torch.compile(eager_kl, dynamic=False), size)
    ),
    "cplxmodule": Contender("cplxmodule LinearVD.penalty", _cplxmodule, package="cplxmodule"),
}


def gate(size: Size) -> list[str]:
    """Value and gradients, in one pass and through autograd, against the reference in float64."""
    mu, log_sigma2 = _parameters(size)
    with vdk.use_backend("reference"):
        value, dmu, dlog = vF.kl_value_and_grad(mu.detach().double(), log_sigma2.detach().double())
    assert dmu is not None
    expected = {"KL": value, "gradient of mu": dmu, "gradient of log_sigma2": dlog}
    one_pass = vF.kl_value_and_grad(mu.detach(), log_sigma2.detach())
    through = vF.kl(mu, log_sigma2)
    through.backward()
    wrong = []
    for name, found in (("one pass", one_pass), ("autograd", (through.detach(), mu.grad, log_sigma2.grad))):
        tensors = {key: t for key, t in zip(expected, found, strict=True) if t is not None}
        wrong += [f"{name}: {line}" for line in compare(tensors, expected, size.rows * size.cols)]
    return wrong


def test_kl(timed: Callable[[], None]) -> None:
    timed()
