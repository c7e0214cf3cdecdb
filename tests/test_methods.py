"""Every method x {Linear, Conv1d, Conv2d}: what any of them may forget.

`METHODS` are tested without a line of their own; `VARIANTS` adds arguments that change what is computed.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import (
    ARD,
    MC,
    METHODS,
    SBP,
    BayesByBackprop,
    DropConnect,
    HierarchicalVD,
    L0HardConcrete,
    MagnitudePruning,
    Method,
    Smallify,
    SparseVD,
    TargetedDropout,
    VariationalA,
    VariationalB,
)
from vdropkern.nn import Variational

VARIANTS: list[Method] = [
    # ARD draws its noise as SparseVD does
    *(replace(cls(), noise=noise) for cls in METHODS.values() if cls is not ARD for noise in cls.noises[1:]),
    VariationalA("layer", p=0.3),
    *(VariationalB(granularity, p=0.3) for granularity in ("layer", "input", "output")),
    SparseVD(parameterisation="log_alpha"),
    SparseVD(train_clip=True, prior="log-uniform-exact"),
    HierarchicalVD(parameterisation="log_alpha", init_log_alpha=0.0),
    BayesByBackprop(0.1, init_log_sigma2=-3.0, threshold=2.0),
    DropConnect(draws="example"),
    TargetedDropout(eval_prune="gamma", ramp_steps=2),
    TargetedDropout(0.9, 0.6, targets="unit", eval_prune=0.5),
    TargetedDropout(targets="unit", granularity="element"),
    MagnitudePruning(0.4, targets="unit"),
    MagnitudePruning(ramp_steps=4),
    SBP("input", per_sample=True),
    L0HardConcrete("input", per_sample=True),
    Smallify("input"),
]
ALL = [*(cls() for cls in METHODS.values()), *VARIANTS]

# grouped on purpose: inputs and weights then number differently
LAYERS: dict[str, tuple[Callable[..., Variational], Callable[..., torch.nn.Module], tuple[int, ...]]] = {
    "linear": (lambda m: vnn.Linear(4, 6, method=m), lambda: torch.nn.Linear(4, 6), (5, 4)),
    "conv1d": (
        lambda m: vnn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2, method=m),
        lambda: torch.nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
        (2, 4, 5),
    ),
    "conv2d": (
        lambda m: vnn.Conv2d(4, 6, (3, 2), padding=1, dilation=(1, 2), groups=2, method=m),
        lambda: torch.nn.Conv2d(4, 6, (3, 2), padding=1, dilation=(1, 2), groups=2),
        (2, 4, 4, 3),
    ),
}
EACH = pytest.mark.parametrize("method", ALL, ids=str)
KINDS = pytest.mark.parametrize("kind", LAYERS)


def made(method: Method, kind: str) -> Variational:
    """A layer away from its first values, where symmetries hide mistakes."""
    torch.manual_seed(0)
    layer = LAYERS[kind][0](method)
    with torch.no_grad():
        layer.weight.add_(layer.weight.sign(), alpha=0.1)
        for parameter in layer.noise_parameters():
            parameter.add_(0.3 * torch.rand_like(parameter) - 0.4)
    layer.project_()
    return layer


def x_for(kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(LAYERS[kind][2], generator=torch.Generator().manual_seed(1)).to(dtype)


def sampled(layer: torch.nn.Module, x: Tensor, seed: int = 3) -> Tensor:
    torch.manual_seed(seed)
    y: Tensor = layer(x)
    return y


def loss_of(layer: Variational, y: Tensor) -> Tensor:
    """Depends on every output in its own way."""
    return (
        (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum() + layer.kl() + layer.penalty()
    )


@KINDS
@EACH
def test_training(method: Method, kind: str) -> None:
    layer, x = made(method, kind), x_for(kind).requires_grad_()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    y = sampled(layer, x)
    plain = layer._dense(x, layer.weight, layer.bias)
    assert y.shape == plain.shape and y.dtype == x.dtype and y.isfinite().all()
    assert torch.equal(y, sampled(layer, x)), "noise must come from torch's generator"
    if method.noisy:
        assert not torch.equal(y, sampled(layer, x, seed=4)), "a noisy method repeats itself"
    for name, value in layer.state_dict().items():
        assert torch.equal(value, state[name]), f"the forward pass changed {name}"
    loss_of(layer, y).backward()
    for name, tensor in (("x", x), *layer.named_parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name
        assert tensor.grad.any(), f"no gradient reaches {name}"


@KINDS
@EACH
def test_evaluation(method: Method, kind: str) -> None:
    layer, x = made(method, kind).eval(), x_for(kind)
    y = layer(x)
    assert torch.equal(y, layer(x))
    torch.testing.assert_close(y, layer._dense(x, layer.pruned_weight(), layer.bias))
    keep = layer.keep_mask()
    assert keep.shape == layer.weight.shape and keep.dtype == torch.bool
    assert not layer.pruned_weight()[~keep].any()
    dense = layer.to_dense()
    assert type(dense) is type(LAYERS[kind][1]()) and not dense.training
    torch.testing.assert_close(dense(x), y)
    for mode in ("sample", MC(2)):
        with vdk.use_eval_mode(layer, mode):
            noisy = sampled(layer, x)
        assert noisy.shape == y.shape and noisy.isfinite().all()
        if mode == "sample":
            assert torch.equal(noisy, sampled(layer.train(), x))
            layer.eval()
    assert torch.equal(layer(x), y)


@KINDS
@EACH
def test_kl_and_penalty(method: Method, kind: str) -> None:
    layer, x = made(method, kind), x_for(kind)
    model = torch.nn.Sequential(layer)
    kl, penalty = vdk.kl_divergence(model), vdk.penalty(model)
    for value in (kl, penalty):
        assert value.shape == () and value.isfinite() and value.dtype == torch.float32
    assert method.kl_prior is None or kl != 0
    with vdk.collect_kl(model) as collected:
        y = sampled(model, x)
    torch.testing.assert_close(collected.total(), kl)
    grads = []
    for total in (collected.total(), kl):
        layer.zero_grad()
        (y.sum() + total + penalty).backward(retain_graph=True)
        grads.append([p.grad for p in layer.parameters()])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs)


@KINDS
@EACH
def test_gradients_are_those_of_differences(method: Method, kind: str) -> None:
    layer, x = made(method, kind).double(), x_for(kind, torch.float64).requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def forward(x: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        for name, value in zip(names, values, strict=True):
            layer._parameters.pop(name, None)
            layer.__dict__[name] = value
        torch.manual_seed(5)
        return layer(x), layer.kl() + layer.penalty()  # one sum: gradcheck miscounts constants

    values = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(forward, (x, *values), fast_mode=True)


@KINDS
@EACH
def test_parameters_are_known_to_optimisers(method: Method, kind: str) -> None:
    layer = made(method, kind)
    own = {id(p) for name, p in layer.named_parameters() if name not in ("weight", "bias")}
    assert {id(p) for p in layer.noise_parameters()} == own
    for group in vdk.parameter_groups(layer, lr=0.1, weight_decay=0.5):
        assert (group["weight_decay"] == 0) == (group["name"] == "noise")
    before = copy.deepcopy(layer.state_dict())
    vdk.project_(layer)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters()), "inside its bounds"
    with torch.no_grad():
        for p in layer.noise_parameters():
            p.fill_(1e4)
    vdk.project_(layer)
    assert sampled(layer, x_for(kind)).isfinite().all() and layer.kl().isfinite()
    resets = []
    for _ in range(2):
        torch.manual_seed(0)
        layer.reset_noise()
        resets.append({name: value.clone() for name, value in layer.state_dict().items()})
        with torch.no_grad():
            for p in layer.noise_parameters():
                p.add_(1.0)
        vdk.project_(layer)
    assert all(torch.equal(value, resets[0][name]) for name, value in resets[1].items())


@KINDS
@EACH
def test_conversion(method: Method, kind: str) -> None:
    dense, x = torch.nn.Sequential(LAYERS[kind][1]()), x_for(kind)
    assert [row.after for row in vdk.plan_conversion(dense, method)] == [str(method)]
    state = copy.deepcopy(dense.state_dict())
    converted = vdk.convert(dense, method)
    assert type(converted[0]) is type(LAYERS[kind][0](method)) and converted[0].method == method
    assert torch.equal(converted[0].weight, dense[0].weight) and sampled(converted, x).isfinite().all()
    weight = dense[0].weight
    assert vdk.convert(dense, method, inplace=True)[0].weight is weight
    with torch.no_grad():
        weight.zero_()
    vdk.load_dense_state_dict(dense, state)
    assert torch.equal(dense[0].weight, converted[0].weight)


@KINDS
@EACH
def test_sparsification(method: Method, kind: str) -> None:
    model, x = torch.nn.Sequential(made(method, kind)).eval(), x_for(kind)
    pruned = vdk.sparsify(model, max_density=1.0, min_weights=0)
    assert not any(isinstance(module, Variational) for module in pruned.modules())
    torch.testing.assert_close(pruned(x), model(x))
    for report in (vdk.sparsity(model), vdk.sparsity(pruned)):
        assert report.weights == model[0].weight.numel()
        assert report.nonzero == int(model[0].pruned_weight().count_nonzero())


@KINDS
@EACH
def test_saved_and_loaded(method: Method, kind: str, tmp_path: Path) -> None:
    model, x = torch.nn.Sequential(made(method, kind)), x_for(kind)
    for _ in range(3):
        vdk.project_(model)  # buffers move too
    y, buffer = sampled(model, x), io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = torch.nn.Sequential(LAYERS[kind][0](method))
    fresh.load_state_dict(torch.load(buffer))
    vdk.save(model, tmp_path / "model.safetensors")
    for twin in (fresh, vdk.load(tmp_path / "model.safetensors")):
        assert torch.equal(sampled(twin, x), y)
        assert torch.equal(twin.eval()(x), model.eval()(x))
        model.train()


@KINDS
@EACH
def test_copies(method: Method, kind: str) -> None:
    layer, x = made(method, kind), x_for(kind)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin.method == method and twin.weight is not layer.weight
        assert torch.equal(sampled(twin, x), sampled(layer, x))
        assert torch.equal(twin.eval()(x), layer.eval()(x))
        layer.train()


@KINDS
@EACH
def test_ensemble_under_vmap(method: Method, kind: str) -> None:
    layers, x = [made(method, kind) for _ in range(3)], x_for(kind)
    with torch.no_grad():
        for layer, factor in zip(layers, (1.0, 0.5, 1.5), strict=True):
            layer.weight.mul_(factor)
    parameters, buffers = torch.func.stack_module_state(layers)

    def call(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(layers[0], (parameters, buffers), (x,))
        return y

    torch.manual_seed(3)
    found = torch.vmap(call, randomness="same")(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([sampled(layer, x) for layer in layers]))
    for layer in layers:
        layer.eval()
    expected = torch.stack([layer(x) for layer in layers])
    torch.testing.assert_close(torch.vmap(call, randomness="same")(parameters, buffers), expected)


@KINDS
@EACH
def test_gradients_by_example_under_vmap(method: Method, kind: str) -> None:
    layer, x = made(method, kind), x_for(kind)
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        y: Tensor = torch.func.functional_call(layer, (parameters, buffers), (one[None],))
        return y.square().sum()

    torch.manual_seed(3)
    found = torch.vmap(torch.func.grad(loss), (None, 0), randomness="same")(parameters, x)
    for i, one in enumerate(x):
        torch.manual_seed(3)
        y = layer(one[None])
        expected = torch.autograd.grad(y.square().sum(), list(parameters.values()), materialize_grads=True)
        for name, gradient in zip(parameters, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)


# torch's own compiler instantiates autograd functions
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
@pytest.mark.parametrize("method", [cls() for cls in METHODS.values()], ids=str)
def test_compiles_and_exports(method: Method, kind: str) -> None:
    torch._dynamo.reset()
    layer, x = made(method, kind), x_for(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(sampled(compiled, x), sampled(layer, x))
    layer.eval()
    program = torch.export.export(layer, (x,))
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert targets and not any(target.startswith("vdropkern") for target in targets)
    torch.testing.assert_close(program.module()(x), layer(x))


@KINDS
@EACH
def test_half_precision(method: Method, kind: str) -> None:
    layer, x = made(method, kind), x_for(kind).relu()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y, kl, penalty = layer(x), layer.kl(), layer.penalty()
        assert kl.dtype == penalty.dtype == torch.float32
        layer.zero_grad()
        (y.float().square().sum() + kl + penalty).backward()
        for name, p in layer.named_parameters():
            assert p.grad is not None and p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name
