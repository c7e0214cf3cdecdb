"""Methods whose noise or mask is on the weights: what each does beyond tests/test_methods.py's matrix."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import (
    MC,
    BayesByBackprop,
    DropConnect,
    MagnitudePruning,
    Method,
    SparseVD,
    TargetedDropout,
)
from vdropkern.nn import Variational


def linear(method: Method, inp: int = 40, out: int = 10) -> vnn.Linear:
    torch.manual_seed(2)
    return vnn.Linear(inp, out, method=method)


def dropped(layer: vnn.Linear, draws: int = 1) -> Tensor:
    """Share of draws in which each weight took no part, from the gradient: x of ones, so 0 means dropped."""
    gone = torch.zeros_like(layer.weight)
    for _ in range(draws):
        (g,) = torch.autograd.grad(layer(torch.ones(1, layer.in_features)).sum(), layer.weight)
        gone += g == 0
    return gone / draws


def test_targeted_dropout_drops_candidates_alone() -> None:
    layer = linear(TargetedDropout(0.3, 0.5))
    share = dropped(layer, 400)
    candidates = layer.weight.abs() < layer.weight.abs().sort(1).values[:, 12:13]
    assert not share[~candidates].any()
    assert ((share[candidates] - 0.5).abs() < 5 * math.sqrt(0.25 / 400)).all()


def test_targeted_unit_dropout() -> None:
    column = dropped(linear(TargetedDropout(0.4, 0.5, targets="unit")), 50)
    assert torch.equal(column.amax(1), column.amin(1)), "outputs go as a whole"
    assert (column[:, 0] > 0).sum() == 4
    element = dropped(linear(TargetedDropout(0.4, 0.5, targets="unit", granularity="element")), 50)
    assert torch.equal(element.any(1), column.any(1))
    assert (element.amax(1) > element.amin(1)).sum() == 4


def test_what_evaluation_prunes() -> None:
    for eval_prune, share in ((None, 0.0), ("gamma", 0.3), (0.75, 0.75), (1.0, 1.0), (0.0, 0.0)):
        layer = linear(TargetedDropout(0.3, 0.5, eval_prune=eval_prune)).eval()
        assert (~layer.keep_mask()).double().mean() == pytest.approx(share)
        assert torch.equal(layer.pruned_weight(), layer.weight * layer.keep_mask())
    units = linear(TargetedDropout(eval_prune=0.3, targets="unit")).keep_mask()
    assert (~units.any(1)).sum() == (~units.all(1)).sum() == 3


def test_ramps_of_targeted_dropout() -> None:
    """gamma: 0 to 0.95 gamma over half of the steps, then to gamma; alpha: linear over all of them."""
    layer = linear(TargetedDropout(0.8, 1.0, ramp_steps=40, eval_prune="gamma"))
    for step in range(50):
        t = min(step / 40, 1)
        gamma = 0.8 * (0.95 * min(2 * t, 1) + 0.05 * max(2 * t - 1, 0))
        candidates = int(gamma * 40 + 1e-9)
        assert (~layer.keep_mask()).sum() == 10 * candidates
        share = dropped(layer).mean()
        deviation = math.sqrt(10 * candidates * t * (1 - t)) / 400
        assert abs(share - candidates / 40 * t) <= 5 * deviation + 1e-6, step
        vdk.project_(layer)
    layer.reset_noise()
    assert layer.keep_mask().all()


def test_ramp_of_magnitude_pruning() -> None:
    """Zhu & Gupta 2017: fraction (1 - (1 - t / T)^3)."""
    layer = linear(MagnitudePruning(0.75, ramp_steps=10))
    shares = []
    for _ in range(12):
        shares.append(int((~layer.keep_mask()).sum()) // 10)
        assert torch.equal(dropped(layer) == 1, ~layer.keep_mask())
        vdk.project_(layer)
    assert shares == [int(0.75 * (1 - (1 - min(t / 10, 1)) ** 3) * 40 + 1e-9) for t in range(12)]


def test_ramp_survives_a_checkpoint() -> None:
    layer = linear(MagnitudePruning(ramp_steps=10))
    for _ in range(4):
        vdk.project_(layer)
    fresh = linear(MagnitudePruning(ramp_steps=10))
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(fresh.keep_mask(), layer.keep_mask())
    assert not torch.equal(linear(MagnitudePruning(ramp_steps=10)).keep_mask(), layer.keep_mask())


@pytest.mark.parametrize("targets", ["weight", "unit"])
def test_magnitude_pruning_trains_as_it_evaluates(targets: str) -> None:
    layer, x = linear(MagnitudePruning(0.6, targets=targets)), torch.randn(3, 40)
    assert torch.equal(layer(x), layer.eval()(x))


def test_gradients_of_magnitude_pruning() -> None:
    x = torch.randn(3, 40)
    grads = {}
    for gradient in ("masked", "straight-through"):
        layer = linear(MagnitudePruning(0.6, gradient=gradient))
        (grads[gradient],) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    keep = layer.keep_mask()
    assert torch.equal(grads["masked"], grads["straight-through"] * keep)
    assert grads["straight-through"][~keep].any()


def test_pruned_weights_come_back_with_straight_through_alone() -> None:
    x = torch.randn(64, 4)
    for gradient, comes_back in (("masked", False), ("straight-through", True)):
        layer = vnn.Linear(4, 1, bias=False, method=MagnitudePruning(0.75, gradient=gradient))
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([[0.5, 0.01, 0.02, 0.03]]))
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
        kept = []
        for _ in range(100):
            optimizer.zero_grad()
            (layer(x) - 0.3 * x[:, :1] - x[:, 1:2]).square().mean().backward()
            optimizer.step()
            kept.append(bool(layer.keep_mask()[0, 1]))
        assert any(kept) == comes_back


DRAWN = [
    BayesByBackprop(init_log_sigma2=-1.0, noise="weights"),
    BayesByBackprop(init_log_sigma2=-1.0, noise="flipout"),
    SparseVD(init_log_sigma2=-1.0, noise="weights"),
    DropConnect(0.3),
    DropConnect(0.3, draws="example"),
]


@pytest.mark.parametrize("method", DRAWN, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_moments_of_noise_on_weights(method: Method, kind: str) -> None:
    """Mean and variance of every output are those of local reparameterisation."""
    torch.manual_seed(1)
    if kind == "linear":
        layer, x = vnn.Linear(5, 3, method=method), torch.randn(2, 5)
    else:
        layer, x = vnn.Conv2d(2, 3, 2, method=method), torch.randn(2, 2, 3, 3)
    n = 4000
    with torch.no_grad():
        if getattr(method, "draws", "batch") == "example":  # many in a call
            draws = layer(x.repeat(n, *(1,) * (x.ndim - 1))).unflatten(0, (n, -1)).double()
        else:
            draws = torch.stack([layer(x) for _ in range(n)]).double()
        mean = layer._dense(x, layer.weight, layer.bias).double()
        alpha = 0.3 / 0.7
        sigma2 = alpha * layer.weight**2 if isinstance(method, DropConnect) else layer.log_sigma2.exp()
        variance = layer._dense(x**2, sigma2, None).double()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    torch.testing.assert_close(draws.var(0), variance, rtol=0.2, atol=0)


def test_drop_connects_gaussian_inference() -> None:
    """Wan et al. 2013, section 3.2: pre-activations of the mask's mean and variance, drawn one by one."""
    x = torch.randn(2, 40)
    layer = linear(DropConnect(0.4, inference="gaussian"))
    torch.manual_seed(0)
    training = layer(x)
    layer.eval()
    with torch.no_grad(), vdk.use_eval_mode(layer, "sample"):
        torch.manual_seed(0)
        assert not torch.allclose(layer(x), training)
        draws = torch.stack([layer(x) for _ in range(3000)]).double()
        variance = (x**2 @ (0.4 / 0.6 * layer.weight**2).T).double()
        mean = torch.nn.functional.linear(x, layer.weight, layer.bias).double()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 3000).sqrt()).all()
    torch.testing.assert_close(draws.var(0), variance, rtol=0.2, atol=0)
    centred = (draws - mean) / variance.sqrt()
    assert (centred[:, 0, 0] * centred[:, 1, 0]).mean().abs() < 0.1, "drawn for each example"
    with torch.no_grad(), vdk.use_eval_mode(layer, MC(400)):
        assert ((layer(x) - mean).abs() < 5 * (variance / 400).sqrt()).all()


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d"])
def test_drop_connects_masks_of_each_example(kind: str) -> None:
    """Equal examples differ in their outputs, each being that of weights of 0 or mu / (1 - p)."""
    method = DropConnect(0.5, draws="example")
    made: dict[str, tuple[Callable[[], Variational], tuple[int, ...]]] = {
        "linear": (lambda: vnn.Linear(1, 5, method=method), (1,)),
        "conv1d": (lambda: vnn.Conv1d(1, 5, 1, padding=1, padding_mode="circular", method=method), (1, 3)),
        "conv2d": (lambda: vnn.Conv2d(1, 5, 1, method=method), (1, 2, 2)),
    }
    layer, shape = made[kind][0](), made[kind][1]
    x = torch.ones(8, *shape)
    y, full = layer(x), layer._dense(x, 2 * layer.weight, layer.bias)
    kept, bias = torch.isclose(y, full), layer._dense(torch.zeros_like(x), layer.weight, layer.bias)
    torch.testing.assert_close(torch.where(kept, full, bias), y)
    assert 0 < kept.sum() < kept.numel()
    assert (kept[1:] != kept[0]).any(), "one mask for all"
    assert layer(x[0]).shape == y.shape[1:]
    assert layer(x[:0]).shape == (0, *y.shape[1:])


def test_kl_of_bayes_by_backprop() -> None:
    layer = linear(BayesByBackprop(0.3, init_log_sigma2=-2.0))
    q = torch.distributions.Normal(layer.weight.double(), (layer.log_sigma2.double() / 2).exp())
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), torch.tensor(0.3).double())
    expected = torch.distributions.kl_divergence(q, prior).sum()
    torch.testing.assert_close(layer.kl().double(), expected, rtol=1e-5, atol=0)
    with vdk.collect_kl(torch.nn.Sequential(layer)) as collected:
        layer(torch.randn(3, 40))
    torch.testing.assert_close(collected.total(), layer.kl(), rtol=1e-5, atol=0)


def test_bayes_by_backprop_prunes_by_signal_to_noise() -> None:
    layer = linear(BayesByBackprop(threshold=1.0, init_log_sigma2=-5.0))
    ratio = layer.weight.detach().abs() / math.exp(-2.5)
    assert torch.equal(layer.keep_mask(), ratio > math.exp(-0.5))
    assert linear(BayesByBackprop()).keep_mask().all()


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: TargetedDropout(1.5), ["TargetedDropout", "gamma", "1.5"]),
        (lambda: TargetedDropout(alpha=-1), ["alpha", "-1"]),
        (lambda: TargetedDropout(targets="column"), ["targets", "'weight'", "'unit'", "'column'"]),
        (lambda: TargetedDropout(granularity="row"), ["granularity", "'column'", "'element'", "'row'"]),
        (lambda: TargetedDropout(eval_prune="alpha"), ["eval_prune", "'alpha'"]),
        (lambda: TargetedDropout(ramp_steps=-1), ["ramp_steps", ">= 0", "-1"]),
        (lambda: TargetedDropout(ramp_steps=True), ["ramp_steps", "True"]),
        (lambda: MagnitudePruning(2.0), ["MagnitudePruning", "fraction", "2.0"]),
        (lambda: MagnitudePruning(gradient="none"), ["gradient", "'masked'", "'none'"]),
        (lambda: DropConnect(1.0), ["DropConnect", "p must", "1.0"]),
        (lambda: DropConnect(inference="mean"), ["inference", "'weights'", "'gaussian'", "'mean'"]),
        (lambda: DropConnect(draws="weight"), ["draws", "'batch'", "'example'", "'weight'"]),
        (lambda: BayesByBackprop(0.0), ["BayesByBackprop", "prior_sd", "0.0"]),
        (lambda: BayesByBackprop(init_log_sigma2=9), ["init_log_sigma2", "9"]),
        (lambda: BayesByBackprop(threshold=99), ["threshold", "99"]),
        (lambda: BayesByBackprop(noise="input"), ["noise", "'lrt'", "'flipout'", "'input'"]),
    ],
)
def test_bad_arguments_are_named(make: Callable[[], Method], words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the words are checked one by one
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)
