"""sparsity and sparsify: what is counted, what a pruned copy computes, what it leaves alone."""

from __future__ import annotations

import copy
import json
import math
from collections import OrderedDict

import pytest
import torch
from torch.nn.utils import parametrizations, prune

import vdropkern as vdk
from tests.tolerance import assert_close
from vdropkern import _backend
from vdropkern import nn as vnn
from vdropkern.methods import ARD, Bernoulli, GaussianW, HierarchicalVD, Method, SparseVD, VariationalB
from vdropkern.sparse import SparseLinear, SparseSequential, SparsityReport, SparsityRow

ALL = {"max_density": 1.0, "min_weights": 0}


def prune_to(layer: vnn.Linear, density: float) -> vnn.Linear:
    """Let the method prune all but `density` of the weights, at random places."""
    n = layer.weight.numel()
    keep = torch.randperm(n) < round(density * n)
    with torch.no_grad():
        layer.weight.add_(layer.weight.sign(), alpha=0.05)
        parameter = layer.noise_parameter()
        high = 4.0 if parameter is layer._parameters.get("log_sigma2") else 9.0
        parameter.copy_(torch.where(keep, -15.0, high).view_as(parameter))
    return layer


def lenet(method: Method = SparseVD()) -> torch.nn.Sequential:  # noqa: B008  frozen
    sizes = OrderedDict(fc1=(784, 300, 0.02), fc2=(300, 200, 0.05), fc3=(200, 10, 0.4))
    layers: OrderedDict[str, torch.nn.Module] = OrderedDict()
    for name, (i, o, density) in sizes.items():
        layers[name] = prune_to(vnn.Linear(i, o, method=method), density)
        layers[f"{name}_relu"] = torch.nn.ReLU()
    return torch.nn.Sequential(layers)


# what a report counts


def test_sparsity_counts_weights_not_biases() -> None:
    report = vdk.sparsity(lenet())
    expected = {"fc1": (235_200, 4_704), "fc2": (60_000, 3_000), "fc3": (2_000, 800)}
    assert {row.name: (row.weights, row.nonzero) for row in report.rows} == expected
    assert (report.weights, report.nonzero) == (297_200, 8_504)
    assert report.compression == 297_200 / 8_504
    assert report.sparsity == pytest.approx(1 - 8_504 / 297_200)
    assert report.rows[0].sparsity == pytest.approx(0.98)
    assert [row.kind for row in report.rows] == ["sparse-vd"] * 3


def test_sparsity_counts_every_weight_of_the_model_once() -> None:
    shared = torch.nn.Linear(4, 4)
    model = torch.nn.ModuleDict({
        "conv": torch.nn.Conv2d(1, 2, 3),
        "norm": torch.nn.BatchNorm2d(2),
        "rnn": torch.nn.GRU(4, 3),
        "attention": torch.nn.MultiheadAttention(4, 2),
        "a": shared,
        "b": shared,
        "tied": torch.nn.Linear(4, 4),
        "alpha": vnn.Linear(4, 2, method=VariationalB()),
    })  # fmt: skip
    model["tied"].weight = shared.weight
    rows = {row.name: row.weights for row in vdk.sparsity(model).rows}
    assert rows == {
        "conv": 18,
        "rnn.weight_ih_l0": 36,
        "rnn.weight_hh_l0": 27,
        "attention.in_proj_weight": 48,
        "attention.out_proj": 16,
        "a": 16,
        "alpha": 8,
    }


def test_report_edges() -> None:
    nothing_left = SparsityReport((SparsityRow("fc", "Linear", 5, 0),))
    assert nothing_left.compression == math.inf and nothing_left.sparsity == 1
    assert vdk.sparsity(torch.nn.ReLU()).compression == 1 and vdk.sparsity(torch.nn.ReLU()).sparsity == 0
    assert SparsityRow("fc", "Linear", 0, 0).sparsity == 0


def test_report_prints_and_serialises() -> None:
    model = torch.nn.Sequential(prune_to(vnn.Linear(50, 40), 0.1), torch.nn.Linear(40, 2))
    assert str(vdk.sparsity(model)).splitlines() == [
        "layer  kind       weights  nonzero  sparsity",
        "0      sparse-vd    2,000      200    90.00%",
        "1      Linear          80       80     0.00%",
        "total               2,080      280    86.54%",
        "compression 7.4x",
    ]
    data = json.loads(json.dumps(vdk.sparsity(model).to_dict()))
    assert data["rows"][0] == {
        "name": "0",
        "kind": "sparse-vd",
        "weights": 2000,
        "nonzero": 200,
        "sparsity": 0.9,
    }
    assert data["compression"] == pytest.approx(2080 / 280)


def test_weights_that_hooks_and_parametrizations_compute() -> None:
    half = prune.l1_unstructured(torch.nn.Linear(8, 6), "weight", 0.5)
    both = prune.l1_unstructured(prune_to(vnn.Linear(6, 8), 0.5), "weight", 0.25)
    normed = parametrizations.weight_norm(prune_to(vnn.Linear(8, 5), 0.5))
    model = torch.nn.Sequential(half, both, normed)
    report = vdk.sparsity(model)
    assert [(row.name, row.kind) for row in report.rows] == [
        ("0", "Linear"),
        ("1", "sparse-vd"),
        ("2", "sparse-vd"),
    ]
    assert report.rows[0].weights == 48 and report.rows[0].nonzero == 24
    for row, layer in zip(report.rows[1:], (both, normed), strict=True):
        left = int(torch.count_nonzero(layer.pruned_weight()))
        assert (row.weights, row.nonzero) == (layer.weight.numel(), left) and 0 < left < row.weights


def test_a_variational_layer_that_prunes_nothing() -> None:
    for method in (Bernoulli(), GaussianW(), VariationalB()):
        assert vdk.sparsity(vnn.Linear(4, 3, method=method)).nonzero == 12


# what a pruned copy is


@pytest.mark.parametrize("method", [SparseVD(), ARD(), HierarchicalVD(parameterisation="log_alpha")], ids=str)
@pytest.mark.parametrize("limits", [{}, ALL, {"max_density": 0.0}], ids=["default", "sparse", "dense"])
def test_pruned_copy_computes_what_eval_does(method: Method, limits: dict[str, float], backend: str) -> None:
    model = lenet(method)
    before = copy.deepcopy(model.state_dict())
    pruned = vdk.sparsify(model, shrink=False, **limits)  # type: ignore[arg-type]
    assert model.training and not any(m.training for m in pruned.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(isinstance(m, vnn.Linear) for m in (model.fc1, model.fc2, model.fc3))
    model.eval()
    x = torch.randn(9, 784)
    # layer by layer, as errors of one would be the inputs of the next
    for name in ("fc1", "fc2", "fc3"):
        layer, ours = getattr(model, name), getattr(pruned, name)
        w, b = layer.pruned_weight().detach().double(), layer.bias.detach().double()
        magnitude = x.double().abs() @ w.T.abs() + b.abs()
        assert_close(ours(x), x.double() @ w.T + b, magnitude, w.shape[1] + 1, name)
        x = torch.relu(layer(x)).detach()
    original, copied = vdk.sparsity(model), vdk.sparsity(pruned)
    assert [(r.name, r.weights, r.nonzero) for r in original.rows] == [
        (r.name, r.weights, r.nonzero) for r in copied.rows
    ]


def kinds(model: torch.nn.Module) -> list[str]:
    return [
        type(m).__name__
        for m in model.modules()
        if not list(m.children()) and not isinstance(m, torch.nn.ReLU)
    ]


def test_limits_decide() -> None:
    model = lenet()
    assert kinds(vdk.sparsify(model, min_weights=32768, shrink=False)) == [
        "SparseLinear",
        "SparseLinear",
        "Linear",
    ]
    plan = vdk.plan_sparsification(model, min_weights=32768, max_density=0.03, shrink=False)
    assert [row.after for row in plan] == ["SparseLinear", "Linear", "Linear"]
    reasons = [row.reason for row in plan]
    assert reasons == [
        "2.00% of 235,200 weights left",
        "5.00% of 60,000 weights left, more than 3.00%",
        "2,000 weights are fewer than 32,768",
    ]
    for limits, word in (({"max_density": 1.5}, "max_density"), ({"min_weights": -1}, "min_weights")):
        with pytest.raises(ValueError, match=f"sparsify: {word} must"):
            vdk.sparsify(model, **limits, shrink=False)


needs_kernels = pytest.mark.skipif(not _backend.cpu_isas(), reason="without kernels nothing becomes sparse")


@needs_kernels
@pytest.mark.parametrize("isa", _backend.cpu_isas())
def test_the_table_decides(isa: str) -> None:
    layers = torch.nn.ModuleDict({
        "large": prune_to(vnn.Linear(1000, 1000), 0.02),
        "full": vnn.Linear(1000, 1000, method=Bernoulli()),
        "small": prune_to(vnn.Linear(20, 20), 0.1),
        "conv": torch.nn.Conv2d(64, 64, 3),
        "odd": torch.nn.Conv2d(64, 64, 2, padding="same"),
    })  # fmt: skip
    with torch.no_grad():
        for name in ("conv", "odd"):
            layers[name].weight.mul_(torch.rand_like(layers[name].weight) < 0.005)
    with _backend.use_cpu_isa(isa):
        plan = {row.name: row for row in vdk.plan_sparsification(layers, shrink=False)}
        model = vdk.sparsify(layers, shrink=False)
    assert {name: row.after for name, row in plan.items()} == {
        "large": "SparseLinear", "full": "Linear", "small": "Linear", "conv": "SparseConv2d", "odd": "Conv2d",
    }  # fmt: skip
    assert kinds(model) == [row.after for row in plan.values()]
    assert "too few for a sparse layer" in plan["small"].reason and "more than" in plan["full"].reason
    x = torch.randn(2, 64, 9, 9)
    torch.testing.assert_close(model["conv"](x), layers["conv"](x))


@needs_kernels
def test_small_layers_join_their_neighbours() -> None:
    model = lenet()
    pruned = vdk.sparsify(model, shrink=False)
    assert type(pruned) is SparseSequential and kinds(pruned) == ["SparseLinear"] * 3
    assert "shares a neighbour's call" in str(vdk.plan_sparsification(model, shrink=False))
    several = torch.nn.Sequential(*(prune_to(vnn.Linear(90, 90), 0.1) for _ in range(5)))
    assert kinds(vdk.sparsify(several, shrink=False)) == ["SparseLinear"] * 5
    apart = torch.nn.Sequential(model.fc1, torch.nn.Tanh(), several[0])
    assert kinds(vdk.sparsify(apart, shrink=False)) == ["SparseLinear", "Tanh", "Linear"]


@needs_kernels
def test_tuning_times_the_layers() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3),
        torch.nn.Conv2d(64, 64, 3),
        torch.nn.Flatten(),
        prune_to(vnn.Linear(1024, 900), 0.01),
    )
    with torch.no_grad():
        model[1].weight.mul_(torch.rand_like(model[1].weight) < 0.01)
    model[3].train()
    x = torch.randn(4, 3, 8, 8)
    plan = list(vdk.plan_sparsification(model, x, tune=True, shrink=False))
    assert [row.after for row in plan[1:]] == ["SparseConv2d", "SparseLinear"]
    assert all("sparse is" in row.reason and "times as fast" in row.reason for row in plan)
    assert model[3].training and not model[3]._forward_pre_hooks
    torch.testing.assert_close(vdk.sparsify(model, x, tune=True, shrink=False)(x), model.eval()(x))
    with pytest.raises(ValueError, match="needs a sample_input"):
        vdk.sparsify(model, tune=True, shrink=False)
    with pytest.raises(ValueError, match="leave out max_density"):
        vdk.sparsify(model, x, tune=True, max_density=0.5, shrink=False)


def test_plain_layers_with_zeros_become_sparse() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Linear(30, 20)).double()
    with torch.no_grad():
        model[0].weight.mul_(torch.rand(30, 40) < 0.05)
    model[0].bias.requires_grad_(False)
    pruned = vdk.sparsify(model, min_weights=0)
    assert isinstance(pruned[0], SparseLinear) and type(pruned[1]) is torch.nn.Linear
    assert pruned[0].values.dtype == torch.float64
    assert (pruned[0].values.requires_grad, pruned[0].bias.requires_grad) == (True, False)
    assert pruned[1].weight is not model[1].weight
    x = torch.randn(3, 40, dtype=torch.float64)
    torch.testing.assert_close(pruned(x), model(x))


def test_a_variational_layer_whose_weight_a_hook_computes_is_left_alone() -> None:
    masked = prune.random_unstructured(vnn.Linear(8, 6), "weight", 0.5)
    model, x = torch.nn.Sequential(masked, torch.nn.ReLU(), torch.nn.Linear(6, 3)).eval(), torch.randn(4, 8)
    pruned = vdk.sparsify(model, max_density=1, min_weights=0)
    torch.testing.assert_close(pruned(x), model(x))
    assert "torch.nn.utils.prune.remove" in vdk.plan_sparsification(model).rows[0].reason


class MyLinear(torch.nn.Linear):
    """Something else."""


def test_what_is_no_plain_layer_is_left_alone() -> None:
    def zeros(layer: torch.nn.Linear) -> torch.nn.Linear:
        torch.nn.init.zeros_(layer.weight)
        return layer

    masked = prune.random_unstructured(torch.nn.Linear(8, 8), "weight", 0.99)
    model = torch.nn.Sequential(
        MyLinear(8, 8),
        parametrizations.weight_norm(torch.nn.Linear(8, 8)),
        masked,
        SparseLinear.from_dense(torch.eye(8)),
        zeros(torch.nn.Linear(8, 8)),
    )
    pruned = vdk.sparsify(model, min_weights=0)
    assert [type(m).__name__ for m in pruned] == [
        "MyLinear",
        "ParametrizedLinear",
        "Linear",
        "SparseLinear",
        "SparseLinear",
    ]
    x = torch.randn(2, 8)
    torch.testing.assert_close(pruned(x), model(x))
    assert "prune.remove" in str(vdk.plan_sparsification(model))
    prune.remove(masked, "weight")
    assert isinstance(vdk.sparsify(model, min_weights=0)[2], SparseLinear)


def test_shared_layers_and_hooks_survive() -> None:
    shared = prune_to(vnn.Linear(8, 8), 0.1)
    model = torch.nn.Sequential(OrderedDict(a=shared, b=torch.nn.Dropout(), c=shared))
    calls: list[int] = []
    shared.register_forward_hook(lambda *_: calls.append(1))
    pruned = vdk.sparsify(model, **ALL)  # type: ignore[arg-type]
    assert pruned.a is pruned.c and isinstance(pruned.a, SparseLinear)
    x = torch.randn(2, 8)
    torch.testing.assert_close(pruned(x), model.eval()(x))
    assert len(calls) == 4


def test_a_layer_as_the_model() -> None:
    pruned = vdk.sparsify(prune_to(vnn.Linear(8, 8), 0.5), **ALL)  # type: ignore[arg-type]
    assert isinstance(pruned, SparseLinear) and pruned.nnz == 32


def test_noisy_layers_without_pruning_become_plain() -> None:
    model = torch.nn.Sequential(vnn.Linear(8, 4, method=Bernoulli()), vnn.Linear(4, 2, method=GaussianW()))
    pruned = vdk.sparsify(model)
    assert [type(m) for m in pruned] == [torch.nn.Linear, torch.nn.Linear]
    x = torch.randn(2, 8)
    assert torch.equal(pruned(x), model.eval()(x))


def test_exports_and_compiles() -> None:
    torch._dynamo.reset()
    model = vdk.sparsify(lenet())
    x = torch.randn(3, 784)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    with torch.no_grad():
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), model(x))
