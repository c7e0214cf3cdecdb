"""nn.Linear: what it computes in training and eval, its bounds, and the ways of torch it has to go with."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import vdropkern as vdk
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern import nn as vnn
from vdropkern.methods import (
    ARD,
    MC,
    Bernoulli,
    EvalMode,
    GaussianS,
    GaussianW,
    HierarchicalVD,
    Method,
    NoDropout,
    SparseVD,
    VariationalA,
    VariationalB,
)

FREE_ALPHA = HierarchicalVD(parameterisation="log_alpha")
ALL = [
    NoDropout(),
    Bernoulli(),
    GaussianS(),
    GaussianW(),
    VariationalA(),
    VariationalB(),
    SparseVD(),
    ARD(),
    HierarchicalVD(),
    FREE_ALPHA,
    *(VariationalB(granularity) for granularity in ("layer", "input", "output")),
]
LEARNED = [m for m in ALL if m.scale is not None and m.scale.bounds is not None]
NOISY = [m for m in ALL if m.enters == "pre-activation"]


def each(methods: list[Method]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("method", methods, ids=str)


def layer(method: Method, inp: int = 7, out: int = 5, **kwargs: object) -> vnn.Linear:
    """A layer whose noise parameter is spread over its range, so that some weights are to be pruned."""
    made = vnn.Linear(inp, out, method=method, **kwargs)  # type: ignore[arg-type]
    noise = made.noise_parameter()
    if noise is not None:
        with torch.no_grad():
            noise.copy_(
                torch.linspace(
                    -6, 4 if noise is made._parameters.get("log_sigma2") else 0, noise.numel()
                ).view_as(noise)
            )
            made.weight[0, 0] = 0.0
    return made


def net(method: Method) -> torch.nn.Sequential:
    return torch.nn.Sequential(layer(method, 6, 8), torch.nn.ReLU(), layer(method, 8, 3))


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
def test_state_dict_round_trip(method: Method) -> None:
    a, b = (
        net(method),
        torch.nn.Sequential(
            vnn.Linear(6, 8, method=method), torch.nn.ReLU(), vnn.Linear(8, 3, method=method)
        ),
    )
    names = {"weight", "bias"} | ({method.scale.name} if method in LEARNED else set())
    assert set(a[0].state_dict()) == names
    buffer = io.BytesIO()
    torch.save(a.state_dict(), buffer)
    buffer.seek(0)
    b.load_state_dict(torch.load(buffer))
    x = torch.randn(4, 6)
    assert torch.equal(a.eval()(x), b.eval()(x))
    c = copy.deepcopy(b)
    c.load_state_dict(a.state_dict(), assign=True)
    assert torch.equal(c(x), a(x))


@each(ALL)
@pytest.mark.parametrize(
    "clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
)
def test_copies(method: Method, clone: Callable[[torch.nn.Module], torch.nn.Module]) -> None:
    model = net(method)
    with vdk.collect_kl(model):
        twin = clone(model)  # does not take part
        assert twin[0]._collectors == ()
        assert model[0]._collectors != ()
    x = torch.randn(4, 6)
    torch.manual_seed(0)
    y = model(x)
    torch.manual_seed(0)
    assert torch.equal(y, twin(x))
    assert twin[0].method == method


@each(ALL)
def test_export_holds_only_aten(method: Method) -> None:
    model = net(method).eval()
    x = torch.randn(4, 6)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets and all(not target.startswith("vdropkern") for target in targets)
    assert torch.equal(program.module()(x), model(x))
    larger = torch.randn(9, 6)
    torch.testing.assert_close(program.module()(larger), model(larger))


# torch's own compiler does so
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@each(ALL)
def test_compiles_without_graph_break(method: Method) -> None:
    torch._dynamo.reset()
    model, x = net(method), torch.randn(4, 6)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    grads = []
    for run in (model, compiled):
        torch.manual_seed(1)
        model.zero_grad()
        (run(x).square().sum() + vdk.kl_divergence(model)).backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x))


@each([SparseVD(), FREE_ALPHA, GaussianW()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(method: Method, dtype: torch.dtype) -> None:
    model, x = net(method), torch.randn(4, 6)
    with torch.autocast("cpu", dtype):
        y = model(x)
        kl = vdk.kl_divergence(model)
    assert y.dtype == dtype and kl.dtype == torch.float32
    (y.float().square().sum() + kl).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name
    model.eval()
    with torch.autocast("cpu", dtype):
        assert model(x).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_module_of_another_dtype(dtype: torch.dtype) -> None:
    model, x = net(SparseVD()).to(dtype), torch.randn(4, 6, dtype=dtype)
    (model(x).square().sum() + vdk.kl_divergence(model)).backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in model.parameters())
    assert model.eval()(x).dtype == dtype


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "non-reentrant"])
@pytest.mark.parametrize("collect", [False, True], ids=["kl_divergence", "collect_kl"])
def test_checkpointing_gives_equal_gradients(reentrant: bool, collect: bool) -> None:
    model, x = net(SparseVD()), torch.randn(4, 6, requires_grad=True)

    def grads(forward: Callable[[Tensor], Tensor]) -> list[Tensor]:
        model.zero_grad()
        torch.manual_seed(2)
        if collect:
            with vdk.collect_kl(model) as collected:
                y = forward(x)
            kl = collected.total()
        else:
            y, kl = forward(x), vdk.kl_divergence(model)
        (y.square().sum() + kl).backward()
        return [p.grad.clone() for p in model.parameters()]

    plain = grads(model)
    saved = grads(lambda x: checkpoint(model, x, use_reentrant=reentrant))
    for a, b in zip(plain, saved, strict=True):
        torch.testing.assert_close(a, b)


@each(ALL)
def test_replica_with_plain_tensors(method: Method) -> None:
    # what torch.nn.DataParallel does on each device: no Parameters, only tensors set under their names
    made, x = layer(method), torch.randn(4, 7)
    replica = made._replicate_for_data_parallel()
    for name, p in made.named_parameters():
        setattr(replica, name, p.clone())
    assert not list(replica.parameters())
    with vdk.collect_kl(made) as collected:
        torch.manual_seed(0)
        y = replica(x)
        assert collected.reported == 0
    torch.manual_seed(0)
    assert torch.equal(y, made(x))
    torch.testing.assert_close(replica.kl(), made.kl())
    assert torch.equal(replica.eval()(x), made.eval()(x))


def test_functional_call_and_grad_transform() -> None:
    made, x = layer(SparseVD()), torch.randn(4, 7)
    params = {k: v.detach().clone() for k, v in made.named_parameters()}

    def loss(params: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(made, params, (x,)).square().sum()

    torch.manual_seed(0)
    transformed = torch.func.grad(loss)(params)
    torch.manual_seed(0)
    made(x).square().sum().backward()
    for name, p in made.named_parameters():
        torch.testing.assert_close(transformed[name], p.grad)


@each(NOISY)
def test_vmap_draws_anew_for_each_slice(method: Method) -> None:
    made, x = layer(method), torch.randn(4, 7)
    with pytest.raises(RuntimeError, match="randomness"):
        torch.vmap(made)(x.expand(3, 4, 7))
    first, second, _ = torch.vmap(made, randomness="different")(x.expand(3, 4, 7))
    assert not torch.equal(first, second)
    first, second, _ = torch.vmap(made, randomness="same")(x.expand(3, 4, 7))
    assert torch.equal(first, second)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_distributed_data_parallel() -> None:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model, x = net(SparseVD()), torch.randn(4, 6)
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        grads = []
        for run in (model, parallel):
            model.zero_grad()
            torch.manual_seed(0)
            with vdk.collect_kl(run) as collected:
                y = run(x)
            (y.square().sum() + collected.total()).backward()
            grads.append([p.grad.clone() for p in model.parameters()])
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)
    finally:
        torch.distributed.destroy_process_group()


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
