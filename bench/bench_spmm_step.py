"""spmm: a training step of pruned layers whose pattern is fixed, against the dense layers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from vdropkern import sparse

from .gate import compare
from .specs import Contender, Pruned


def _dense(spec: Pruned) -> nn.Sequential:
    """Layers with that share of their weights at zero, at random places."""
    generator = torch.Generator().manual_seed(1)
    parts: list[nn.Module] = []
    for (inputs, outputs), sparsity in zip(pairwise(spec.dims), spec.sparsity, strict=True):
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            kept = torch.rand(layer.weight.shape, generator=generator) >= sparsity
            layer.weight.uniform_(-1, 1, generator=generator).mul_(kept)
            layer.bias.uniform_(-0.1, 0.1, generator=generator)
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def _masked(spec: Pruned) -> nn.Sequential:
    """As torch keeps pruned weights at zero: times a mask, at every call."""
    net = _dense(spec)
    for layer in net:
        if isinstance(layer, nn.Linear):
            prune.custom_from_mask(layer, "weight", layer.weight != 0)  # type: ignore[no-untyped-call]
    return net


class _TorchCsr(nn.Module):
    """CSR @ x^T, of which torch knows the gradient: a dense one."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().to_sparse_csr())
        self.bias = nn.Parameter(layer.bias.detach()[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight @ x.T + self.bias).T


def _torch_csr(spec: Pruned) -> nn.Sequential:
    return nn.Sequential(*(_TorchCsr(m) if isinstance(m, nn.Linear) else m for m in _dense(spec)))


def _sparse(spec: Pruned) -> nn.Sequential:
    return nn.Sequential(
        *(
            sparse.SparseLinear.from_dense(m.weight, m.bias) if isinstance(m, nn.Linear) else m
            for m in _dense(spec)
        )
    )


def _tensors(spec: Pruned) -> tuple[Tensor, Tensor]:
    """(x [B, I], whose gradient is wanted as within a net; the gradient of the output [B, O])."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(spec.batch, spec.dims[0], generator=generator).relu_().requires_grad_()
    return x, torch.randn(spec.batch, spec.dims[-1], generator=generator)


def _make(build: Callable[[Pruned], nn.Module], spec: Pruned) -> Callable[[], None]:
    net, (x, g) = build(spec), _tensors(spec)

    def step() -> None:
        x.grad = None
        net.zero_grad()
        net(x).backward(g)

    return step


def _contender(title: str, build: Callable[[Pruned], nn.Module], core: bool = False) -> Contender:
    return Contender(title, lambda spec: _make(build, spec), core=core)


CONTENDERS = {
    "dense": _contender("dense torch layers, zeros trained too", _dense, core=True),
    "vdropkern": _contender("vdropkern.sparse.SparseLinear", _sparse, core=True),
    "masked": _contender("torch.nn.utils.prune: dense layers and masks", _masked),
    "torch-csr": _contender("torch sparse CSR", _torch_csr),
}


def _results(net: nn.Sequential, x: Tensor, g: Tensor) -> dict[str, Tensor]:
    """y, dx, and the gradients of the weights that are not zero, layer by layer."""
    x = x.detach().requires_grad_()
    y = net(x)
    y.backward(g)
    found: dict[str, Any] = {"y": y.detach(), "dx": x.grad}
    layers: list[Any] = [m for m in net if not isinstance(m, nn.ReLU)]
    for i, layer in enumerate(layers):
        if isinstance(layer, sparse.SparseLinear):
            found[f"dw{i}"] = layer.values.grad
        else:
            weight = layer.weight.detach()
            of = layer.weight_orig if hasattr(layer, "weight_orig") else layer.weight
            found[f"dw{i}"] = of.grad[(weight.to_dense() if weight.layout != torch.strided else weight) != 0]
        found[f"db{i}"] = layer.bias.grad.flatten()
    return found


def gate(spec: Pruned) -> list[str]:
    """Every contender's step against the dense layers' in float64."""
    x, g = _tensors(spec)
    truth = _results(_dense(spec).double(), x.double(), g.double())
    wrong: list[str] = []
    for name, build in (("vdropkern", _sparse), ("masked", _masked), ("torch-csr", _torch_csr)):
        found = _results(build(spec), x, g)
        wrong += compare(
            {f"{name}: {k}": t for k, t in found.items()},
            {f"{name}: {k}": t for k, t in truth.items()},
            max(*spec.dims, spec.batch),
        )
    return wrong


def test_spmm_step(timed: Callable[[], None]) -> None:
    timed()
