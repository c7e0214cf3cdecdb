"""weight_noise: noise and gradients against the formula in float64; moments of flipout, DropConnect."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.cases import LAYOUTS, lay_out
from tests.tolerance import assert_close
from vdropkern import functional
from vdropkern.ops.philox_normal.reference import philox_normal

SEED = 0x1234_5678_9ABC_DEF1
SHAPES = [
    (1, 1),
    (5, 37),
    (33, 64),
    (9, 65),
    (3, 1000),
    (64, 3),
    (6, 4, 3, 3),
    (8, 5, 3),
    (9,),
    (0, 4),
    (4, 0),
]
DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16+fp32": (torch.bfloat16, torch.float32),
}


def alphas(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of log_alpha: scalar, one an output, one an input channel, one a weight, one a tap."""
    kinds = [(), (shape[0], *(1 for _ in shape[1:])), shape]
    if len(shape) > 1:
        kinds += [(1, shape[1], *(1 for _ in shape[2:])), (1, *shape[1:])]
    if len(shape) > 2:
        kinds += [(shape[0], shape[1], *(1 for _ in shape[2:])), (1, 1, *shape[2:])]
    return list(dict.fromkeys(kinds))


SHARED = [
    (shape, a) for shape in ((5, 37), (33, 64), (6, 4, 3, 3), (8, 5, 3), (9,), (0, 4)) for a in alphas(shape)
]


def make(
    shape: tuple[int, ...], alpha: tuple[int, ...] | None, dtypes: str
) -> tuple[dict[str, Tensor], Tensor]:
    g = torch.Generator().manual_seed(8)
    dtype, noise_dtype = DTYPES[dtypes]

    def draw(size: tuple[int, ...], low: float, high: float, dtype: torch.dtype) -> Tensor:
        return (torch.rand(size, generator=g, dtype=torch.float64) * (high - low) + low).to(dtype)

    log = (
        {"log_sigma2": draw(shape, -20.0, 4.0, noise_dtype)}
        if alpha is None
        else {"log_alpha": draw(alpha, -20.0, 3.0, noise_dtype)}
    )
    return {"mu": draw(shape, -1.0, 1.0, dtype), **log}, draw(shape, -2.0, 2.0, dtype)


def truth(tensors: dict[str, Tensor], grad: Tensor) -> dict[str, tuple[Tensor, Tensor, int]]:
    """Values and gradients of the formula in float64 by autograd, with the size of their terms."""
    exact = {k: t.detach().double().requires_grad_() for k, t in tensors.items()}
    mu, rows = exact["mu"], exact["mu"].shape[0]
    cols = mu.shape[1:].numel()
    e = philox_normal(torch.tensor(SEED), rows, cols, torch.float64).reshape(mu.shape)
    name = "log_sigma2" if "log_sigma2" in exact else "log_alpha"
    scale = torch.exp(exact[name] / 2) * (mu if name == "log_alpha" else 1)
    value = mu + scale * e
    d = torch.autograd.grad(value, list(exact.values()), grad.double())
    with torch.no_grad():
        noise = (scale * e).abs()
        factor = (torch.exp(exact[name] / 2) * e).abs()
        d_log = (0.5 * grad.double().abs() * noise).sum_to_size(exact[name].shape)
        d_mu = grad.double().abs() * (1 + (factor if name == "log_alpha" else 0))
        shared = mu.numel() // max(exact[name].numel(), 1)
        return {
            "value": (value, mu.abs() + noise, 1),
            "mu": (d[0], d_mu, 1),
            name: (d[1], d_log, max(shared, 1)),
        }


def check(tensors: dict[str, Tensor], grad: Tensor) -> None:
    expected = truth(tensors, grad)
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    noisy = functional.weight_noise(**leaves, seed=SEED)
    assert noisy.dtype == tensors["mu"].dtype
    assert noisy.is_contiguous()
    d = torch.autograd.grad(noisy, list(leaves.values()), grad)
    for name, found in {"value": noisy, **dict(zip(leaves, d, strict=True))}.items():
        assert name == "value" or found.dtype == tensors[name].dtype
        value, magnitude, length = expected[name]
        assert_close(found, value.detach(), magnitude, length, name)


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients(shape: tuple[int, ...], dtypes: str, backend: str) -> None:
    check(*make(shape, None, dtypes))


@pytest.mark.parametrize("shape, alpha", SHARED, ids=str)
def test_shared_log_alpha(shape: tuple[int, ...], alpha: tuple[int, ...], backend: str) -> None:
    for dtypes in DTYPES:
        check(*make(shape, alpha, dtypes))


@pytest.mark.parametrize("layout", LAYOUTS[1:])
@pytest.mark.parametrize("alpha", [None, (9, 30), (1, 30), (9, 1)], ids=str)
def test_layouts(alpha: tuple[int, ...] | None, layout: str, backend: str) -> None:
    tensors, grad = make((9, 30), alpha, "fp32")
    check({k: lay_out(t, layout) for k, t in tensors.items()}, lay_out(grad, layout))


@pytest.mark.parametrize("alpha", [None, (70, 1), (1, 1100), ()], ids=str)
@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(alpha: tuple[int, ...] | None, backend: str) -> None:
    if backend == "reference":
        pytest.skip("torch's own sums depend on the number of threads")
    tensors, grad = make((70, 1100), alpha, "fp32")
    leaves = {k: t.requires_grad_() for k, t in tensors.items()}
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        noisy = functional.weight_noise(**leaves, seed=SEED)
        found.append((noisy, *torch.autograd.grad(noisy, list(leaves.values()), grad)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("alpha", [None, (3, 5), (1, 5), ()], ids=str)
def test_gradcheck(alpha: tuple[int, ...] | None, backend: str) -> None:
    tensors, _ = make((3, 5), alpha, "fp64")
    leaves = {k: t.clamp(max=0).requires_grad_() for k, t in tensors.items()}

    def run(*values: Tensor) -> Tensor:
        return functional.weight_noise(**dict(zip(leaves, values, strict=True)), seed=SEED)

    assert torch.autograd.gradcheck(run, tuple(leaves.values()))
    expected = torch.autograd.grad(run(*leaves.values()).sum(), list(leaves.values()))
    detached = {k: t.detach() for k, t in leaves.items()}
    found = torch.func.grad(lambda v: functional.weight_noise(**v, seed=SEED).sum())(detached)
    assert all(torch.equal(found[k], e) for k, e in zip(leaves, expected, strict=True))


def test_second_derivatives_are_refused(backend: str) -> None:
    tensors, _ = make((3, 5), (3, 5), "fp32")
    mu = tensors["mu"].requires_grad_()
    (g,) = torch.autograd.grad(functional.weight_noise(**tensors).sum(), mu, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
        torch.autograd.grad(g.sum(), mu)


@pytest.mark.parametrize("name", ["mu", "log_sigma2", "log_alpha"])
def test_nan_is_not_swallowed(name: str, backend: str) -> None:
    tensors, grad = make((5, 37), (5, 37) if name == "log_alpha" else None, "fp32")
    tensors[name][2, 3] = torch.nan
    leaves = {k: t.requires_grad_() for k, t in tensors.items()}
    noisy = functional.weight_noise(**leaves, seed=SEED)
    assert noisy[2, 3].isnan()
    assert noisy.isnan().sum() == 1
    d_log = torch.autograd.grad(noisy, list(leaves.values()), grad)[1]
    assert d_log[2, 3].isnan() == (name != "mu")


def test_noise_is_not_saved(backend: str) -> None:
    for alpha in (None, (64, 1)):
        tensors, _ = make((64, 64), alpha, "fp32")
        leaves = {k: t.requires_grad_() for k, t in tensors.items()}
        saved: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, lambda t: t):
            functional.weight_noise(**leaves)
        kept = {"log_sigma2"} if alpha is None else {"mu", "log_alpha"}
        known = {t.data_ptr(): k for k, t in leaves.items()}
        assert {known[t.data_ptr()] for t in saved if t.data_ptr() in known} == kept
        assert [tuple(t.shape) for t in saved if t.data_ptr() not in known] == [()]


@pytest.mark.parametrize("alpha", [None, (3, 5), (1, 5)], ids=str)
def test_opcheck(alpha: tuple[int, ...] | None) -> None:
    tensors, grad = make((3, 5), alpha, "fp32")
    logs = (tensors.get("log_sigma2"), tensors.get("log_alpha"), torch.tensor(SEED))
    torch.library.opcheck(torch.ops.vdropkern.weight_noise.default, (tensors["mu"], *logs))
    torch.library.opcheck(torch.ops.vdropkern.weight_noise_grad.default, (grad, tensors["mu"], *logs))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compile() -> None:
    torch._dynamo.reset()
    tensors, _ = make((6, 4, 3, 3), (1, 4, 1, 1), "fp32")
    leaves = [t.requires_grad_() for t in tensors.values()]

    def run(mu: Tensor, log_alpha: Tensor) -> Tensor:
        return functional.weight_noise(mu, log_alpha=log_alpha, seed=3)

    found, expected = torch.compile(run, fullgraph=True, backend="aot_eager")(*leaves), run(*leaves)
    assert torch.equal(found, expected)
    for a, b in zip(*(torch.autograd.grad(t.sum(), leaves) for t in (found, expected)), strict=True):
        assert torch.equal(a, b)


def test_drop_connect_is_bernoulli_of_rows(backend: str) -> None:
    """Wan et al. 2013: each weight is kept with probability 1 - p, here scaled so that the mean stays."""
    w = torch.randn(300, 20, 3, 3)
    noisy = functional.weight_noise(w, p=0.25, seed=2)
    assert torch.equal(noisy, functional.mul_noise(w.flatten(1), 0.25, seed=2).reshape(w.shape))
    gone = (noisy == 0).double().mean()
    assert abs(gone - 0.25) < 4 * math.sqrt(0.25 * 0.75 / w.numel())
    torch.testing.assert_close(noisy[noisy != 0], (w / 0.75)[noisy != 0])


@pytest.mark.parametrize("parameter", ["log_sigma2", "log_alpha"])
def test_flipout_moments(parameter: str) -> None:
    """Over seeds each example has mean x mu^T and variance x^2 sigma^2, and two examples are uncorrelated.

    Shared weights leave two examples x1, x2 with covariance sum x1 x2 sigma^2, here as large as the variance.
    """
    torch.manual_seed(0)
    x = torch.randn(1, 6).expand(3, 6).contiguous()
    mu = torch.randn(4, 6)
    log = {parameter: torch.randn(4, 6) - 1}
    sigma2 = log[parameter].exp() * (mu**2 if parameter == "log_alpha" else 1)
    n = 2500
    y = torch.stack([functional.flipout(x, mu, **log, seed=s) for s in range(n)]).double()
    shared = torch.stack([x @ functional.weight_noise(mu, **log, seed=s).T for s in range(n)]).double()
    mean, variance = (x @ mu.T).double(), (x**2 @ sigma2.T).double()
    for found in (y, shared):
        assert ((found.mean(0) - mean).abs() < 4.5 * (variance / n).sqrt()).all()
        torch.testing.assert_close(found.var(0), variance, rtol=0.15, atol=0)
    centred = (y - mean) / variance.sqrt()
    correlation = torch.einsum("nio,njo->ijo", centred, centred) / n
    off = ~torch.eye(3, dtype=torch.bool)
    assert correlation[off].abs().max() < 0.1
    same = (shared - mean) / variance.sqrt()
    assert (torch.einsum("nio,njo->ijo", same, same) / n)[off].min() > 0.9


def test_flipout_of_a_convolution() -> None:
    """Signs are per example and channel: within an example the weights are one draw at all positions."""
    x, mu = torch.randn(2, 3, 5, 5), torch.randn(4, 3, 3, 3)
    log_sigma2 = torch.full_like(mu, -1.0)
    bias = torch.randn(4)
    y = functional.flipout(x, mu, log_sigma2, bias, product=F.conv2d, channel_dim=1, seed=7)
    delta = functional.weight_noise(mu, log_sigma2, seed=7) - mu
    noise = y - F.conv2d(x, mu, bias)
    # every sign pattern of the input channels, to find the one drawn
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    for example in range(2):
        candidates = F.conv2d(x[example] * signs[:, :, None, None], delta)  # [8, 4, 3, 3]
        ratio = (noise[example] / candidates).flatten(2)
        one_sign = (ratio.abs() - 1).abs().amax((1, 2)) < 1e-3
        assert one_sign.sum() == 2  # a pattern and its negative
        assert (ratio[one_sign].std(-1) < 1e-3).all()


def test_flipout_gradients() -> None:
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mu = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    log = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *t: functional.flipout(*t, seed=3), (x, mu, log))


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "give exactly one of log_sigma2, log_alpha and p, got none"),
        ({"p": 0.5, "log_alpha": torch.tensor(0.0)}, "give exactly one of .*, got .'log_alpha', 'p'."),
        ({"log_sigma2": torch.ones(4, 3)}, r"log_sigma2 must have mu's shape \(3, 4, 2\), got \(4, 3\)"),
        ({"log_alpha": torch.ones(4, 2)}, "log_alpha must be a scalar or have mu's dimensions"),
        ({"log_alpha": torch.ones(3, 3, 2)}, "log_alpha must be a scalar or have mu's dimensions"),
        ({"mu": torch.ones(3, dtype=torch.int64), "p": 0.5}, "mu must be floating"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"weight_noise: {said}"):
        functional.weight_noise(**{"mu": torch.ones(3, 4, 2), **arguments})
