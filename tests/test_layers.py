"""nn.Linear: what it computes in training and eval, its bounds, and what it is made with."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch

import vdropkern as vdk
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import (
    ARD,
    MC,
    SBP,
    BayesByBackprop,
    Bernoulli,
    DropConnect,
    EvalMode,
    GaussianW,
    GroupNormalJeffreys,
    HierarchicalGate,
    L0HardConcrete,
    Method,
    Smallify,
    SparseVD,
    VariationalB,
)

from .layer_cases import ALL, FREE_ALPHA, LEARNED, NOISY, each, layer, net


@each(NOISY)
def test_training_is_the_functional_op(method: Method, backend: str) -> None:
    made, x = layer(method), torch.randn(4, 7)
    torch.manual_seed(3)
    y = made(x)
    torch.manual_seed(3)
    noise = {"log_sigma2": None, "log_alpha": None}
    if method.scale.bounds is None:
        noise["log_alpha"] = torch.tensor(method.scale.init)
    else:
        noise[method.scale.name] = made.noise_parameter()
    log_sigma2 = noise["log_sigma2"]
    expected = F.linear_lrt(x, made.weight, log_sigma2, made.bias, log_alpha=noise["log_alpha"])
    assert torch.equal(y, expected)


def test_bernoulli_drops_inputs() -> None:
    made, x = layer(Bernoulli(0.4), 50, 3), torch.randn(6, 50)
    torch.manual_seed(1)
    y = made(x)
    torch.manual_seed(1)
    assert torch.equal(y, torch.nn.functional.linear(F.mul_noise(x, 0.4), made.weight, made.bias))
    assert torch.equal(made.eval()(x), torch.nn.functional.linear(x, made.weight, made.bias))


@each(ALL)
def test_gradients_reach_every_parameter(method: Method, backend: str) -> None:
    made, x = layer(method), torch.randn(4, 7, requires_grad=True)
    loss = made(x).square().sum() + made.kl()
    loss.backward()
    for name, tensor in (("x", x), *made.named_parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name
        assert tensor.grad.any(), f"the gradient of {name} is all zero"


@each(NOISY)
def test_training_draws_the_stated_moments(method: Method) -> None:
    made = layer(method).double()
    x = torch.randn(1, 7, dtype=torch.float64)
    with torch.no_grad():
        y = made(x.expand(40_000, 7))
        log_sigma2, log_alpha = made._noise()
        sigma2 = log_sigma2.exp() if log_alpha is None else log_alpha.exp() * made.weight**2
        mean = torch.nn.functional.linear(x, made.weight, made.bias)[0]
        var = (x**2 @ sigma2.T)[0] + 1e-8
    # six standard errors: of the mean std / sqrt(n), of the variance of normals var sqrt(2 / n)
    assert ((y.mean(0) - mean).abs() < 6 * (var / len(y)).sqrt()).all()
    assert ((y.var(0) - var).abs() < 6 * var * math.sqrt(2 / len(y))).all()


@each(ALL)
def test_eval_is_the_pruned_mean(method: Method) -> None:
    made, x = layer(method).eval(), torch.randn(4, 7)
    y = made(x)
    assert torch.equal(y, made(x))
    assert torch.equal(y, torch.nn.functional.linear(x, made.pruned_weight(), made.bias))
    keep = made.keep_mask()
    assert keep.shape == made.weight.shape and keep.dtype == torch.bool
    assert torch.equal(made.pruned_weight()[keep], made.weight[keep])
    assert not made.pruned_weight()[~keep].any()
    if method.prune_at is None:
        assert keep.all()
    else:
        assert torch.equal(keep, made.log_alpha < method.prune_at)
    if method.prune_at is not None and method.scale.name == "log_sigma2":
        assert 0 < keep.sum() < keep.numel()


def test_weight_at_the_threshold_is_pruned() -> None:
    made = vnn.Linear(2, 1, method=FREE_ALPHA)
    with torch.no_grad():
        made.log_alpha.copy_(torch.tensor([[3.0, 2.999]]))
    assert made.keep_mask().tolist() == [[False, True]]


def test_pruned_weights_make_no_noise_in_eval() -> None:
    made = vnn.Linear(3, 2, method=SparseVD())
    with torch.no_grad():
        made.log_sigma2.fill_(4.0)  # all of them are noise
    x = torch.randn(5, 3)
    assert torch.equal(made.eval()(x), made.bias.expand(5, 2))


def test_nan_weight_shows_in_eval() -> None:
    made = vnn.Linear(2, 2, bias=False, method=GaussianW()).eval()
    with torch.no_grad():
        made.weight[0, 0] = math.nan
    assert made(torch.ones(1, 2)).isnan().tolist() == [[True, False]]


@each([SparseVD(), ARD(), FREE_ALPHA, SparseVD(noise="input"), BayesByBackprop(threshold=2.0)])
def test_nan_is_not_pruned(method: Method) -> None:
    # else a net that diverged would pass for one that was pruned empty
    made = vnn.Linear(2, 2, bias=False, method=method).eval()
    with torch.no_grad():
        made.weight.fill_(math.nan)
        made.noise_parameter().fill_(math.nan)
    assert made.keep_mask().all() and made(torch.ones(1, 2)).isnan().all()


@each([HierarchicalGate(), SBP(), L0HardConcrete(), Smallify(), GroupNormalJeffreys()])
def test_nan_gate_is_not_pruned(method: Method) -> None:
    made = vnn.Linear(2, 2, bias=False, method=method)
    with torch.no_grad():
        made.gate_location.fill_(math.nan)
    made.project_()
    x = torch.ones(1, 2)
    assert made.keep_mask().all() and made(x).isnan().all() and made.eval()(x).isnan().all()


@each([SparseVD(), SparseVD(noise="flipout"), SparseVD(noise="weights"), DropConnect(draws="example")])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0)], ids=str)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_layers_without_units(method: Method, shape: tuple[int, int]) -> None:
    made = vnn.Linear(*shape, method=method)
    for x in (torch.ones(2, shape[0]), torch.ones(0, shape[0]), torch.ones(shape[0])):
        assert made(x).shape == (*x.shape[:-1], shape[1])


@each([GaussianW(), SparseVD(), VariationalB("output"), Bernoulli()])
@pytest.mark.parametrize("mode", ["sample", MC(9)], ids=str)
def test_noisy_eval_modes(method: Method, mode: EvalMode) -> None:
    made = layer(dataclasses.replace(method, eval_mode=mode), 40, 3).double().eval()
    x = torch.randn(1, 40, dtype=torch.float64)
    with torch.no_grad():
        y = made(x.expand(20_000, 40))
        noisy = copy.deepcopy(made).train()(x.expand(20_000, 40))
        mean = torch.nn.functional.linear(x, made.weight, made.bias)[0]
    draws = mode.samples if isinstance(mode, MC) else 1
    expected = noisy.var(0) / draws
    assert ((y.mean(0) - mean).abs() < 6 * (expected / len(y)).sqrt()).all()
    # both variances are estimates of n samples of near-normal kurtosis
    assert ((y.var(0) - expected).abs() < 6 * expected * math.sqrt(4 / len(y))).all()


def test_mc_of_one_is_a_sample() -> None:
    one, sample = (layer(SparseVD(eval_mode=mode)).eval() for mode in (MC(1), "sample"))
    sample.load_state_dict(one.state_dict())
    x = torch.randn(3, 7)
    torch.manual_seed(0)
    y = one(x)
    torch.manual_seed(0)
    assert torch.equal(y, sample(x))


def test_use_eval_mode_is_undone() -> None:
    model = net(SparseVD()).eval()
    x = torch.randn(4, 6)
    y = model(x)
    with pytest.raises(ValueError, match="x must be"), vdk.use_eval_mode(model, "sample"):
        model(torch.randn(4, 5))  # of a wrong shape
    with vdk.use_eval_mode(model, "sample"):
        assert not torch.equal(model(x), y)
    assert torch.equal(model(x), y)
    with pytest.raises(ValueError, match="use_eval_mode: eval_mode must be"), vdk.use_eval_mode(model, "mc"):
        pass


def test_mc_predict_averages_networks() -> None:
    model = torch.nn.Sequential(net(SparseVD()), torch.nn.Dropout(0.5))
    x = torch.randn(4, 6)
    torch.manual_seed(5)
    p = vdk.mc_predict(model, x, samples=3, transform=lambda y: y.softmax(-1))
    assert model.training and model[1].training
    torch.manual_seed(5)
    model[1].eval()
    with torch.no_grad():
        expected = sum(model(x).softmax(-1) for _ in range(3)) / 3
    assert torch.equal(p, expected)
    torch.testing.assert_close(p.sum(-1), torch.ones(4))
    with pytest.raises(ValueError, match="samples must be >= 1, got 0"):
        vdk.mc_predict(model, x, samples=0)
    with pytest.raises(
        TypeError, match=r"mc_predict: the model must give one tensor, got a tuple; .*transform"
    ):
        vdk.mc_predict(torch.nn.LSTM(2, 2), torch.ones(1, 1, 2), samples=1)


@each(LEARNED)
def test_projection_brings_the_noise_into_its_bounds(method: Method) -> None:
    model = net(method)
    low, high = method.scale.bounds
    noise = model[0].noise_parameter()
    with torch.no_grad():
        noise.copy_(torch.linspace(low - 9, high + 9, noise.numel()).view_as(noise))
    before = noise.detach().clone()
    assert vdk.project_(model) is model
    assert torch.equal(noise, before.clamp(low, high))


def test_gates_of_l0_keep_the_authors_bounds() -> None:
    made = vnn.Linear(4, 3, method=L0HardConcrete())
    with torch.no_grad():
        made.gate_location.copy_(torch.tensor([-9.0, 4.6, 9.0]))
    made.project_()
    torch.testing.assert_close(made.gate_location.data, torch.tensor([math.log(0.01), 4.6, math.log(100)]))


def test_value_on_the_bound_still_moves_inward() -> None:
    # alpha = 1 is where VariationalB starts: with a clamp in the graph it would never get away from there
    made = vnn.Linear(4, 3, method=VariationalB())
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    vdk.attach_projection(optimizer, made)
    assert (made.log_alpha == 0).all()
    (-made.kl()).backward()  # pushes every log_alpha down
    assert (made.log_alpha.grad > 0).all()
    optimizer.step()
    assert (made.log_alpha < 0).all()
    optimizer.zero_grad()
    for _ in range(20):  # and back up: stops at the bound
        made.kl().backward()
        optimizer.step()
    assert (made.log_alpha == 0).all()


def test_projection_hook_can_be_removed() -> None:
    made = vnn.Linear(2, 2)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    handle = vdk.attach_projection(optimizer, made)
    handle.remove()
    made.log_sigma2.grad = torch.full_like(made.log_sigma2, -100.0)
    optimizer.step()
    assert (made.log_sigma2 == 90).all()


def test_parameter_groups_set_the_noise_apart() -> None:
    model = torch.nn.Sequential(net(SparseVD()), torch.nn.LayerNorm(3), layer(GaussianW(), 3, 2))
    model[0][0].bias.requires_grad_(False)
    weights, noise = vdk.parameter_groups(model, lr=0.1, noise_lr=0.5, weight_decay=0.01)
    assert {id(p) for p in noise["params"]} == {id(model[0][i].log_sigma2) for i in (0, 2)}
    assert len(weights["params"]) == 3 + 2 + 2
    assert (weights["lr"], noise["lr"]) == (0.1, 0.5)
    assert (weights["weight_decay"], noise["weight_decay"]) == (0.01, 0.0)
    torch.optim.AdamW(vdk.parameter_groups(model, lr=0.1))
    assert [g["name"] for g in vdk.parameter_groups(torch.nn.Linear(2, 2), lr=0.1)] == ["weights"]
    for bad in ({"lr": 0.0}, {"lr": 1.0, "noise_lr": -1.0}, {"lr": 1.0, "weight_decay": -1.0}):
        with pytest.raises(ValueError, match=f"{list(bad)[-1]} must be"):
            vdk.parameter_groups(model, **bad)


@pytest.mark.parametrize("where", ["x", "weight", "both"])
@each([SparseVD(), SparseVD(prior="log-uniform-exact"), ARD(), FREE_ALPHA, VariationalB(), GaussianW()])
def test_zeros_give_finite_gradients(method: Method, where: str, backend: str) -> None:
    made, x = layer(method), torch.randn(4, 7).relu()
    with torch.no_grad():
        if where != "weight":
            x.zero_()
        if where != "x":
            made.weight.zero_()
    x.requires_grad_()
    (made(x).square().sum() + made.kl()).backward()
    for name, tensor in (("x", x), *made.named_parameters()):
        assert tensor.grad.isfinite().all(), name


def test_a_large_bias_does_not_enter_the_variance() -> None:
    # the bias inside the variance makes it negative, and its root NaN
    made, x = layer(SparseVD()), torch.randn(4, 7)
    with torch.no_grad():
        made.bias.fill_(-1e3)
    y = made(x)
    y.sum().backward()
    assert y.isfinite().all() and (y < -900).all()
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_extreme_log_sigma2_stays_alive() -> None:
    # sigma^2 is exp(log_sigma2), not exp of a clipped log_alpha: large weights keep a gradient to their noise
    made = vnn.Linear(3, 2, method=SparseVD(init_log_sigma2=-20))
    with torch.no_grad():
        made.weight.fill_(5.0)
    made(torch.ones(2, 3)).square().sum().backward()
    assert made.log_sigma2.grad.isfinite().all() and (made.log_sigma2.grad != 0).all()


@pytest.mark.parametrize("shape", [(7,), (0, 7), (2, 3, 7)])
def test_shapes(shape: tuple[int, ...]) -> None:
    made = layer(SparseVD())
    for training in (True, False):
        assert made.train(training)(torch.randn(shape)).shape == (*shape[:-1], 5)


def test_log_alpha() -> None:
    made = layer(SparseVD())
    assert torch.equal(made.log_alpha, made.log_sigma2 - torch.log(made.weight**2 + 1e-8))
    assert made.log_alpha.requires_grad
    assert layer(FREE_ALPHA).log_alpha is not None and isinstance(
        layer(FREE_ALPHA).log_alpha, torch.nn.Parameter
    )
    assert layer(GaussianW(0.25)).log_alpha.tolist() == [[pytest.approx(math.log(1 / 3))]]
    assert layer(SparseVD()).bfloat16().log_alpha.dtype == torch.float32
    with pytest.raises(AttributeError, match="log_alpha"):
        _ = layer(Bernoulli()).log_alpha


def test_kl_counts_a_shared_alpha_once_a_weight() -> None:
    for granularity in ("layer", "input", "output", "weight"):
        made = vnn.Linear(7, 5, method=VariationalB(granularity, p=0.2)).double()
        one = F.kl(log_alpha=torch.tensor(math.log(0.25), dtype=torch.float64), prior="log-uniform-kingma")
        torch.testing.assert_close(made.kl(), 35 * one)
    assert layer(GaussianW()).kl() == 0 and layer(Bernoulli()).kl() == 0


def test_repr_and_bad_method() -> None:
    assert repr(vnn.Linear(3, 2, method=SparseVD(threshold=2.0))) == (
        "Linear(in_features=3, out_features=2, bias=True, method=SparseVD(threshold=2.0))"
    )
    for bad in (SparseVD, "sparse-vd", None):
        with pytest.raises(TypeError, match=r"vdropkern\.methods"):
            vnn.Linear(3, 2, method=bad)  # type: ignore[arg-type]


def test_factory_arguments_and_reset() -> None:
    made = vnn.Linear(3, 2, bias=False, device="meta", dtype=torch.float64)
    assert made.log_sigma2.is_meta and made.log_sigma2.dtype == torch.float64 and made.bias is None
    made = made.to_empty(device="cpu")
    made.reset_parameters()
    assert (made.log_sigma2 == -10).all() and made.weight.abs().max() <= 1 / math.sqrt(3)
    torch.manual_seed(0)
    ours = vnn.Linear(6, 4)
    torch.manual_seed(0)
    plain = torch.nn.Linear(6, 4)
    assert torch.equal(ours.weight, plain.weight) and torch.equal(ours.bias, plain.bias)


@each(ALL)
def test_to_dense_is_the_eval_layer(method: Method) -> None:
    made, x = layer(method).eval(), torch.randn(4, 7)
    made.weight.requires_grad_(False)
    dense = made.to_dense()
    assert type(dense) is torch.nn.Linear and not dense.training
    assert torch.equal(dense(x), made(x))
    assert not dense.weight.requires_grad and dense.bias.requires_grad
    assert dense.weight.data_ptr() != made.weight.data_ptr()


def test_dtype_of_the_variance_is_float32_at_least() -> None:
    # in half precision exp(-20) x^2 and 1e-8 are zero, and the gradient of the root infinite
    made = vnn.Linear(7, 5, method=SparseVD(init_log_sigma2=-20)).half()
    x = torch.zeros(2, 7, dtype=torch.half, requires_grad=True)
    made(x).sum().backward()
    assert x.grad.isfinite().all() and made.log_sigma2.grad.isfinite().all()


def test_eval_matches_float64(backend: str) -> None:
    made, x = layer(SparseVD(), 33, 17).eval(), torch.randn(9, 33)
    w = made.pruned_weight().detach().double()
    expected = x.double() @ w.T + made.bias.detach().double()
    magnitude = x.double().abs() @ w.abs().T + made.bias.detach().double().abs()
    assert_close(made(x), expected, magnitude, 34)
