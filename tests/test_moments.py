"""Moments through a ReLU and through nets: against integration and against sampling."""

from __future__ import annotations

import math

import pytest
import torch

import vdropkern as vdk
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import (
    Bernoulli,
    GaussianS,
    GaussianW,
    Method,
    MultiSampleDropout,
    NoDropout,
    SparseVD,
    VariationalA,
    VariationalB,
)


def test_relu_moments_are_the_integrals() -> None:
    mean = torch.tensor([-30.0, -4.0, -1.0, -1e-3, 0.0, 1e-3, 0.7, 3.0, 50.0], dtype=torch.float64)
    for std in (0.03, 1.0, 7.0):
        got = F.relu_moments(mean, torch.full_like(mean, std**2))
        z = torch.linspace(-14, 14, 200_001, dtype=torch.float64)
        density = torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
        y = (mean[:, None] + std * z).relu()
        first = (y * density).sum(1)
        second = ((y - first[:, None]) ** 2 * density).sum(1)
        torch.testing.assert_close(got[0], first, rtol=1e-7, atol=1e-8 * std)
        torch.testing.assert_close(got[1], second, rtol=1e-7, atol=1e-8 * std**2)


def test_relu_moments_at_the_edges() -> None:
    mean = torch.tensor([-2.0, 0.0, 3.0, -1e30, 1e30, 0.0], requires_grad=True)
    var = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, 1e-38], requires_grad=True)
    first, second = F.relu_moments(mean, var)
    torch.testing.assert_close(first[:5], mean[:5].relu(), rtol=0, atol=1e-30)
    torch.testing.assert_close(second[:4], torch.zeros(4), rtol=0, atol=1e-30)
    assert (second >= 0).all()
    (first.sum() + second.sum()).backward()
    assert mean.grad.isfinite().all() and var.grad.isfinite().all()
    with pytest.raises(ValueError, match="relu_moments: mean and var must share"):
        F.relu_moments(torch.zeros(3), torch.zeros(2))


def test_relu_moments_gradients() -> None:
    mean = torch.tensor([-2.0, -0.3, 0.0, 0.4, 2.5], dtype=torch.float64, requires_grad=True)
    var = torch.tensor([0.5, 1.0, 0.3, 2.0, 0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(F.relu_moments, (mean, var))


@pytest.mark.parametrize(
    "method",
    [
        NoDropout(),
        Bernoulli(0.3),
        MultiSampleDropout(3, 0.3),
        GaussianS(0.3),
        GaussianW(0.3),
        GaussianW(0.3, noise="output"),
        VariationalA(p=0.3),
        VariationalB("input", p=0.3),
        VariationalB(p=0.3, noise="output"),
        SparseVD(-4.0),
        SparseVD(noise="input"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_one_layer_has_the_moments_of_its_draws(method: Method, kind: str) -> None:
    torch.manual_seed(0)
    if kind == "linear":
        layer, x = vnn.Linear(6, 4, method=method), torch.randn(1, 6)
    else:
        layer = vnn.Conv2d(4, 4, 3, padding=1, groups=2, method=method)
        x = torch.randn(1, 4, 3, 4)
    layer, x = layer.double(), x.double()
    with torch.no_grad():
        draws = layer(x.expand(20_000, *x.shape[1:]))
        mean, var = vdk.propagate_moments(layer, x)
    # six standard errors; the noise is at most a sum of few products, of kurtosis below 9
    assert ((draws.mean(0) - mean[0]).abs() <= 6 * (var[0] / len(draws)).sqrt() + 1e-6).all()
    assert ((draws.var(0) - var[0]).abs() <= 6 * var[0] * math.sqrt(8 / len(draws)) + 1e-7).all()


def test_a_module_in_two_places_counts_twice() -> None:
    def net(*relus: torch.nn.Module) -> torch.nn.Sequential:
        torch.manual_seed(0)
        layers = [vnn.Linear(6, 6, method=SparseVD()) for _ in range(2)]
        return torch.nn.Sequential(layers[0], relus[0], layers[1], relus[-1])

    x = torch.randn(5, 6)
    apart = vdk.propagate_moments(net(torch.nn.ReLU(), torch.nn.ReLU()), x)
    shared = vdk.propagate_moments(net(torch.nn.ReLU()), x)
    torch.testing.assert_close(shared, apart, rtol=0, atol=0)


def test_a_net_is_close_to_its_draws() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        vnn.Conv2d(3, 16, 3, method=GaussianW(0.2)),
        torch.nn.BatchNorm2d(16).eval(),
        torch.nn.ReLU(),
        torch.nn.AvgPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Sequential(
            torch.nn.Dropout(0.1), vnn.Linear(64, 32, method=GaussianW(0.2)), torch.nn.ReLU()
        ),
        torch.nn.Linear(32, 5),
    )
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        draws = net(x.expand(20_000, 3, 6, 6))
        mean, var = vdk.propagate_moments(net, x)
    # units are taken as independent and normal: close, not exact
    assert ((draws.mean(0) - mean[0]).abs() < 0.1 * draws.std(0)).all()
    torch.testing.assert_close(var[0], draws.var(0), rtol=0.3, atol=0)
    loss = vdk.propagate_moments(net, x)
    (loss[0].sum() + loss[1].sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    "module, words",
    [
        (torch.nn.Tanh(), "model is a Tanh; accepted: torch.nn.Sequential"),
        (torch.nn.Sequential(torch.nn.MaxPool2d(2)), "model.0 is a MaxPool2d"),
        (torch.nn.AvgPool2d(2, padding=1), "without padding"),
    ],
)
def test_what_has_no_rule_is_named(module: torch.nn.Module, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        vdk.propagate_moments(module, torch.randn(1, 2, 4, 4))
