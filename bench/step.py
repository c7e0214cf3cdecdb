"""A training step as users write it, the same for every contender, and what makes a measured one valid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .specs import Net

KL_SCALE = 1 / 60_000  # loss = data term + KL / N for MNIST's N

Forward = Callable[[Tensor], tuple[Tensor, Tensor | None]]
Weights = list[tuple[Tensor, Tensor, Tensor]]


def weights(net: Net) -> Weights:
    """(mu [O, I], log_sigma2 [O, I], bias [O]) per layer, the same for every contender."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for inputs, outputs in zip(net.dims, net.dims[1:], strict=False):
        bound = 1 / math.sqrt(inputs)
        mu = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
        log_sigma2 = torch.empty(outputs, inputs).normal_(-8.0, 1.0, generator=generator)
        made.append((mu, log_sigma2, torch.empty(outputs).uniform_(-bound, bound, generator=generator)))
    return made


def inputs(net: Net) -> tuple[Tensor, Tensor]:
    """(x [B, I], half of it zero as after a ReLU; g [B, O], the fixed gradient of the output)."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(net.batch, net.dims[0], generator=generator).relu_()
    g = torch.randn(net.batch, net.dims[-1], generator=generator) / net.batch
    return x.requires_grad_(net.input_grad), g


def mlp(net: Net, layer: Callable[[Tensor, Tensor, Tensor], nn.Module]) -> nn.Sequential:
    """A `Sequential` of `layer(mu, log_sigma2, bias)` with ReLU between."""
    parts: list[nn.Module] = []
    for mu, log_sigma2, bias in weights(net):
        parts += [layer(mu, log_sigma2, bias), nn.ReLU()]
    return nn.Sequential(*parts[:-1])


def fill(module: nn.Module, **values: Tensor) -> nn.Module:
    """Copy `values` into the parameters of those names."""
    with torch.no_grad():
        for name, value in values.items():
            parameter = module.get_parameter(name)
            parameter.copy_(value.reshape(parameter.shape))
    return module


class Step:
    """Forward, KL and backward; gradients are dropped afterwards as ``zero_grad()`` does.

    loss = sum(y * g) + KL / N with a fixed g. With `keep_grads` they are zeroed in place instead, as
    ``zero_grad(set_to_none=False)`` does, so that autograd adds into buffers that stay.
    """

    def __init__(
        self,
        module: nn.Module,
        x: Tensor,
        g: Tensor,
        forward: Forward,
        *,
        noisy: bool = True,
        compiled: bool = False,
        keep_grads: bool = False,
    ) -> None:
        self.module, self.x, self.g, self.forward = module, x, g, forward
        self.noisy, self.keep_grads = noisy, keep_grads
        self.parameters = list(module.parameters())
        self.loss: Callable[[], Any] = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    def _loss(self) -> Tensor:
        y, kl = self.forward(self.x)
        data = (y * self.g).sum()
        return data if kl is None else data + kl.sum() * KL_SCALE

    def clear(self) -> None:
        """Drop the gradients, or zero them where they are kept."""
        for parameter in self.parameters:
            if self.keep_grads and parameter.grad is not None:
                parameter.grad.zero_()
            else:
                parameter.grad = None
        self.x.grad = None

    def __call__(self) -> None:
        self.loss().backward()
        self.clear()

    def check(self) -> list[str]:
        """What is wrong with this step: no noise, a gradient that is missing, zero or not finite."""
        self.clear()
        first, second = self.loss(), self.loss()
        wrong = []
        if (first.item() != second.item()) != self.noisy:
            wrong.append("two forward passes agree" if self.noisy else "two forward passes differ")
        second.backward()
        named = [*self.module.named_parameters(), *([("x", self.x)] if self.x.requires_grad else [])]
        for name, tensor in named:
            if tensor.grad is None:
                wrong.append(f"{name} has no gradient")
            elif not (torch.isfinite(tensor.grad).all() and tensor.grad.any()):
                wrong.append(f"the gradient of {name} is zero or not finite")
        self.clear()
        return wrong
