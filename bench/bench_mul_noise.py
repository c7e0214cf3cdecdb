"""mul_noise: multiplicative noise, forward and backward, against torch.nn.Dropout."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import functional as vF

from .gate import compare
from .specs import Activations, Contender

_P = 0.5
_SEED = 0x5EED


def _inputs(spec: Activations, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """x, the gradient of y, and a log_alpha a unit or channel."""
    generator = torch.Generator().manual_seed(2)
    x, g = (torch.randn(spec.shape, generator=generator) for _ in range(2))
    if spec.channels_last:
        x, g = (t.contiguous(memory_format=torch.channels_last) for t in (x, g))
    per_unit = spec.shape[-1:] if len(spec.shape) == 2 else (spec.shape[1], 1, 1)
    log_alpha = torch.linspace(-4, 0, per_unit[0]).reshape(per_unit)
    return x.to(dtype).requires_grad_(), g.to(dtype), log_alpha.to(dtype).requires_grad_()


def _both_ways(noise: Callable[[Tensor, Tensor], Tensor], spec: Activations) -> Callable[[], None]:
    x, g, log_alpha = _inputs(spec)

    def run() -> None:
        noise(x, log_alpha).backward(g)
        x.grad = log_alpha.grad = None

    return run


def _dropout(spec: Activations) -> Callable[[], None]:
    module = torch.nn.Dropout(_P)
    return _both_ways(lambda x, _: module(x), spec)


def _eager_learned(x: Tensor, log_alpha: Tensor) -> Tensor:
    return x * (1 + torch.exp(0.5 * log_alpha) * torch.randn_like(x))


CONTENDERS = {
    "dropout": Contender("torch.nn.Dropout", _dropout, core=True),
    "vdropkern": Contender(
        "vdropkern, Bernoulli", lambda s: _both_ways(lambda x, _: vF.mul_noise(x, _P), s), core=True
    ),
    "vdropkern-gaussian": Contender(
        "vdropkern, Gaussian",
        lambda s: _both_ways(lambda x, _: vF.mul_noise(x, 1.0, noise="gaussian"), s),
        core=True,
    ),
    "vdropkern-learned": Contender(
        "vdropkern, Gaussian of learned log_alpha",
        lambda s: _both_ways(lambda x, la: vF.mul_noise(x, log_alpha=la), s),
        core=True,
    ),
    "eager-gaussian": Contender(
        "eager formula, Gaussian", lambda s: _both_ways(lambda x, _: x * (1 + torch.randn_like(x)), s)
    ),
    "eager-learned": Contender("eager formula, learned log_alpha", lambda s: _both_ways(_eager_learned, s)),
}


def gate(spec: Activations) -> list[str]:
    """Every kind of noise and its gradients against the reference in float64."""
    wrong = []
    for name, options in (
        ("Bernoulli", {"strength": _P}),
        ("Gaussian", {"strength": 1.0, "noise": "gaussian"}),
    ):
        x, g, _ = _inputs(spec)
        y = vF.mul_noise(x, seed=_SEED, **options)  # type: ignore[arg-type]
        y.backward(g)
        assert x.grad is not None
        with vdk.use_backend("reference"):
            xi = vF.mul_noise(torch.ones_like(x, dtype=torch.float64), seed=_SEED, **options)  # type: ignore[arg-type]
        found = {"y": y.detach(), "gradient of x": x.grad}
        expected = {"y": x.detach() * xi, "gradient of x": g * xi}
        wrong += [f"{name}: {line}" for line in compare(found, expected, 1)]
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        x, g, log_alpha = _inputs(spec, dtype)
        with vdk.use_backend(backend):
            y = vF.mul_noise(x, log_alpha=log_alpha, seed=_SEED)
            y.backward(g)
        assert x.grad is not None and log_alpha.grad is not None
        results.append({"y": y.detach(), "gradient of x": x.grad, "gradient of log_alpha": log_alpha.grad})
    return wrong + [f"learned: {line}" for line in compare(*results, x.numel() // log_alpha.numel())]


def test_mul_noise(timed: Callable[[], None]) -> None:
    timed()
