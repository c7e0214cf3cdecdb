"""gate: one random factor a channel, forward and backward, against the formula in eager torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Contender, Gates

_SEED = 0x5EED


def _inputs(spec: Gates, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """x, the gradient of y, the gates' parameters."""
    generator = torch.Generator().manual_seed(4)
    x, g = (torch.randn(spec.shape, generator=generator) for _ in range(2))
    if spec.channels_last:
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    parameters = {"location": torch.linspace(-2, 0.5, spec.shape[1])}
    if spec.kind in ("normal", "log-normal"):
        parameters["log_sigma2"] = torch.linspace(-6, 0, spec.shape[1])
    leaves = {name: p.to(dtype).requires_grad_() for name, p in parameters.items()}
    return x.to(dtype).requires_grad_(), g.to(dtype), leaves


def _eager_gates(spec: Gates, location: Tensor, log_sigma2: Tensor | None = None) -> Tensor:
    """theta [rows, C] as users write it."""
    size = (spec.shape[0] if spec.per_sample else 1, spec.shape[1])
    if spec.kind == "normal":
        assert log_sigma2 is not None
        return location + torch.exp(0.5 * log_sigma2) * torch.randn(size)
    u = torch.rand(size).clamp(1e-5, 1 - 1e-5)
    if spec.kind == "log-normal":
        assert log_sigma2 is not None
        sigma = torch.exp(0.5 * log_sigma2)
        low, high = (torch.special.ndtr((end - location) / sigma) for end in (-20.0, 0.0))
        return torch.exp((location + sigma * torch.special.ndtri(low + u * (high - low))).clamp(-20, 0))
    odds = torch.log(u) - torch.log(1 - u)
    if spec.kind == "hard-concrete":
        return (torch.sigmoid((odds + location) * 1.5) * 1.2 - 0.1).clamp(0, 1)
    return torch.sigmoid(-(odds + location) * 10) * (1 + torch.exp(location))


def _eager(x: Tensor, spec: Gates, **parameters: Tensor) -> Tensor:
    theta = _eager_gates(spec, **parameters)
    return x * theta.reshape(*theta.shape, *(1,) * (x.ndim - 2))


def _vdropkern(x: Tensor, spec: Gates, **parameters: Tensor) -> Tensor:
    return vF.gate(x, **parameters, kind=spec.kind, per_sample=spec.per_sample)


def _both_ways(gate: Callable[..., Tensor], spec: Gates) -> Callable[[], None]:
    x, g, parameters = _inputs(spec)

    def run() -> None:
        gate(x, spec, **parameters).backward(g)
        for t in (x, *parameters.values()):
            t.grad = None

    return run


CONTENDERS = {
    "eager": Contender("eager formula", lambda spec: _both_ways(_eager, spec), core=True),
    "vdropkern": Contender("vdropkern gate", lambda spec: _both_ways(_vdropkern, spec), core=True),
    "compile": Contender(
        "torch.compile(eager)", lambda spec: _both_ways(torch.compile(_eager, dynamic=False), spec)
    ),
}


def gate(spec: Gates) -> list[str]:
    """The kernel against the reference in float64."""
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        x, g, parameters = _inputs(spec, dtype)
        with vdk.use_backend(backend):
            y = vF.gate(x, **parameters, kind=spec.kind, per_sample=spec.per_sample, seed=_SEED)
            y.backward(g)
        gradients = {f"gradient of {name}": t.grad for name, t in {"x": x, **parameters}.items()}
        found = {"y": y.detach()} | {name: t for name, t in gradients.items() if t is not None}
        results.append(found)
    return compare(*results, x.numel() // spec.shape[1])


def test_gate(timed: Callable[[], None]) -> None:
    timed()
