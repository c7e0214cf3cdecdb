"""spmm: inference with what pruning left, against the dense layers on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.methods import SparseVD

from .gate import compare
from .specs import Contender, Pruned


def _x(spec: Pruned) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(spec.batch, spec.dims[0], generator=generator).relu_()


def _trained(spec: Pruned) -> nn.Sequential:
    """A variational net whose log_alpha prunes `spec.sparsity` of each layer, at random places."""
    generator = torch.Generator().manual_seed(1)
    parts: list[nn.Module] = []
    for (inputs, outputs), sparsity in zip(pairwise(spec.dims), spec.sparsity, strict=True):
        layer = vnn.Linear(inputs, outputs, method=SparseVD())
        with torch.no_grad():
            layer.weight.uniform_(0.05, 1.0, generator=generator)
            layer.bias.uniform_(-0.1, 0.1, generator=generator)
            pruned = (
                torch.randperm(layer.weight.numel(), generator=generator) < sparsity * layer.weight.numel()
            )
            log_alpha = torch.where(pruned.reshape(layer.weight.shape), 8.0, -8.0)
            noise = layer.noise_parameter()
            assert noise is not None
            noise.copy_(log_alpha + torch.log(layer.weight**2))
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def _dense_module(spec: Pruned) -> nn.Sequential:
    return nn.Sequential(*(m.to_dense() if isinstance(m, vnn.Linear) else m for m in _trained(spec)))


def _timed(forward: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            forward(x)

    return run


def _torch_csr(spec: Pruned) -> Callable[[Tensor], Tensor]:
    """CSR @ x^T, which is faster than a CSR weight in F.linear."""
    layers = [m for m in _dense_module(spec) if isinstance(m, nn.Linear)]
    weights = [layer.weight.detach().to_sparse_csr() for layer in layers]
    biases = [layer.bias.detach()[:, None] for layer in layers]

    def forward(x: Tensor) -> Tensor:
        h = x.T
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = weight @ h + bias
            if index + 1 < len(weights):
                h = h.relu_()
        return h.T

    return forward


def _sparse_module(spec: Pruned) -> nn.Module:
    return vdk.sparsify(_trained(spec))


def _all_sparse(spec: Pruned) -> nn.Module:
    return vdk.sparsify(_trained(spec), max_density=1.0, min_weights=0)


CONTENDERS = {
    "dense": Contender("dense torch layers", lambda s: _timed(_dense_module(s), _x(s)), core=True),
    "vdropkern": Contender("vdropkern.sparsify", lambda s: _timed(_sparse_module(s), _x(s)), core=True),
    "vdropkern-sparse": Contender(
        "vdropkern.sparsify, every layer", lambda s: _timed(_all_sparse(s), _x(s)), core=True
    ),
    "torch-csr": Contender("torch sparse CSR", lambda s: _timed(_torch_csr(s), _x(s))),
}


def gate(spec: Pruned) -> list[str]:
    """The pruned net and torch's CSR against the dense net in float64, and the number of weights left."""
    x, dense = _x(spec), _dense_module(spec)
    with torch.inference_mode():
        found = {
            "vdropkern": _sparse_module(spec)(x),
            "vdropkern-sparse": _all_sparse(spec)(x),
            "torch-csr": _torch_csr(spec)(x),
        }
        truth = dense.double()(x.double())
    wrong = compare(found, dict.fromkeys(found, truth), max(spec.dims))
    for layer, sparsity in zip((m for m in dense if isinstance(m, nn.Linear)), spec.sparsity, strict=True):
        zeros = 1 - torch.count_nonzero(layer.weight).item() / layer.weight.numel()
        if abs(zeros - sparsity) > 1e-3:
            wrong.append(f"the case says {sparsity:.3f} of the weights are zero, {zeros:.3f} are")
    return wrong


def test_spmm(timed: Callable[[], None]) -> None:
    timed()
