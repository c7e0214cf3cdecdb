"""Structured methods on a problem whose answer is known: the inputs that say nothing go, the others stay."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import (
    SBP,
    ConcreteDropout,
    GroupNormalJeffreys,
    HierarchicalGate,
    L0HardConcrete,
    Method,
    Smallify,
)

INPUTS, USED, OUTPUTS, N, NOISE = 16, 4, 3, 128, 0.5


def problem() -> tuple[Tensor, Tensor]:
    """Linear regression on 4 of 16 inputs."""
    torch.manual_seed(0)
    x, w = torch.randn(N, INPUTS), torch.zeros(INPUTS, OUTPUTS)
    w[:USED] = torch.randn(USED, OUTPUTS) + torch.randn(USED, OUTPUTS).sign()
    return x, x @ w + NOISE * torch.randn(N, OUTPUTS)


def trained(method: Method, noise_lr: float, steps: int) -> vnn.Linear:
    x, y = problem()
    layer = vnn.Linear(INPUTS, OUTPUTS, method=method)
    optimizer = torch.optim.Adam(vdk.parameter_groups(layer, lr=0.02, noise_lr=noise_lr))
    vdk.attach_projection(optimizer, layer)
    warm_up = vdk.kl.LinearWarmup(0, 60)
    for step in range(steps):
        optimizer.zero_grad()
        nll = (layer(x) - y).square().sum(1).mean() / (2 * NOISE**2)
        loss = nll + warm_up(step) * vdk.kl_divergence(layer) / N + vdk.penalty(layer)
        loss.backward()
        optimizer.step()
    return layer.eval()


@pytest.mark.parametrize(
    "method, noise_lr",
    [
        (SBP("input", init_log_sigma2=-3.0), 0.2),
        (SBP("input", init_log_sigma2=-3.0, per_sample=True), 0.2),
        (GroupNormalJeffreys(init_log_sigma2=-6.0, threshold=0.0), 0.2),
        (HierarchicalGate(init_log_sigma2=-6.0), 0.2),
        (L0HardConcrete("input", strength=0.3), 0.1),
        (Smallify("input", strength=0.3), 0.01),
    ],
    ids=str,
)
def test_inputs_that_say_nothing_are_pruned(method: Method, noise_lr: float) -> None:
    layer, (x, y) = trained(method, noise_lr, 350), problem()
    kept = layer.keep_mask()
    assert torch.equal(kept, kept[:1].expand_as(kept)), "units go whole"
    assert kept[0, :USED].all(), "an input that is needed was pruned"
    assert (~kept[0, USED:]).sum() >= 8, f"kept {kept[0].int().tolist()}"
    pruned = vdk.sparsify(torch.nn.Sequential(layer), max_density=1.0, min_weights=0)
    assert (pruned(x) - y).square().mean() < 1.3 * NOISE**2
    assert vdk.sparsity(pruned).nonzero == int(kept.sum())


def test_concrete_dropout_learns_a_small_rate_where_inputs_are_needed() -> None:
    layer = trained(ConcreteDropout(p=0.5), 0.05, 200)
    assert torch.sigmoid(layer.gate_location).item() < 0.05


def test_concrete_dropout_learns_a_large_rate_where_nothing_is_learned() -> None:
    """Without data the entropy alone is left, whose maximum is p = 1/2."""
    layer = vnn.Linear(INPUTS, OUTPUTS, method=ConcreteDropout(p=0.05))
    optimizer = torch.optim.Adam(layer.noise_parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        layer.kl().backward()
        optimizer.step()
    assert abs(torch.sigmoid(layer.gate_location).item() - 0.5) < 0.05


@pytest.mark.parametrize("average", [None, get_ema_multi_avg_fn(0.5)], ids=["mean", "ema"])
def test_averages_of_nets_take_in_switches(average: Callable[..., None] | None) -> None:
    layer = vnn.Linear(3, 2, method=Smallify())
    averaged = AveragedModel(layer, use_buffers=True, multi_avg_fn=average)
    for step in range(8):
        with torch.no_grad():
            layer.gate_location.copy_(torch.tensor([1.0, (-1.0) ** step]))
        layer.project_()
        averaged.update_parameters(layer)
    assert layer.keep_mask()[:, 0].tolist() == [True, False]
    assert torch.equal(averaged.module.keep_mask(), layer.keep_mask())
