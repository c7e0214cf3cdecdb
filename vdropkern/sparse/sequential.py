"""Sequentials of sparse layers, which run neighbours as one call."""

from __future__ import annotations

import torch
from torch import Tensor, is_grad_enabled
from torch.nn.modules.module import _has_any_global_hook

from .._surgery import replace_
from ._calls import may_pack_without_grad, tracing_state
from .conv import SparseConv2d
from .linear import SparseLinear
from .plan import Plan

__all__ = ["SparseSequential", "fuse"]


class SparseSequential(torch.nn.Sequential):
    """A torch.nn.Sequential that runs neighbouring modules as one op where a kernel does the work of several.

    `SparseLinear` and ReLU modules in a row are op ``spmm_chain``; `SparseConv2d`, ReLU and max pooling in a
    row, with such linear layers behind a Flatten, op ``sparse_net``. Max pooling of images in NCHW, with a
    ReLU before or behind it, is op ``max_pool2d``, many times faster than torch's own.
    Only in eval mode, on the CPU, and where none of them has hooks; otherwise, and for everything else in it,
    it is a Sequential. With gradients on, a kernel runs until they are asked for, and then the modules do.
    Same children, same state dict, same results within rounding.
    Made by `vdropkern.sparsify` of each torch.nn.Sequential that holds sparse layers.
    """

    _plan: Plan | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Sequential.forward
        if self.training or not isinstance(input, Tensor) or _has_any_global_hook():
            return super().forward(input)
        if not may_pack_without_grad(input):
            return super().forward(input)
        modules, plan = [*self._modules.values()], self._plan
        if plan is None or not plan.holds(modules):
            plan = self._plan = Plan(modules)
        if is_grad_enabled() and tracing_state() is None:
            for step in plan.steps:
                input = step.with_gradients(input)  # noqa: A001
        else:
            for step in plan.steps:
                input = step(input)  # noqa: A001
        return input

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_plan"}


def fuse(model: torch.nn.Module) -> torch.nn.Module:
    """Turn each torch.nn.Sequential of the model with sparse layers into a `SparseSequential`, in place.

    Returns the model, which is another object where it is such a Sequential itself.
    """
    made: dict[torch.nn.Module, torch.nn.Module] = {}
    for module in model.modules():
        sparse = any(type(child) in (SparseLinear, SparseConv2d) for child in module._modules.values())
        if type(module) is torch.nn.Sequential and sparse:
            fused = SparseSequential()
            fused.__dict__.update(module.__dict__)
            made[module] = fused
    replace_(model, made)
    return made.get(model, model)
