"""Random nets with zeros in their weights: whose results shrinking must not change."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn

from tests.tolerance import tolerance


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Branches(nn.Module):
    """The results of two, side by side."""

    def __init__(self, left: nn.Module, right: nn.Module) -> None:
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], 1)


class Pooled(nn.Module):
    """The mean over all places."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def kill(net: nn.Module, draw: random.Random, scale: float = 1.0) -> nn.Module:
    """Zero weights, rows and columns at random places; the rest is small enough that errors do not grow."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                shape, ones = module.weight.shape, (1,) * (module.weight.ndim - 2)
                keep = rand(*shape) < draw.choice([0.0, 0.1, 0.5, 1.0])
                keep &= rand(shape[0], 1, *ones) > draw.choice([0.0, 0.3, 0.8])
                keep &= rand(1, shape[1], *ones) > draw.choice([0.0, 0.3, 0.8])
                weight = (2 * rand(*shape) - 1) / math.prod(shape[1:]) * scale * 2
                module.weight.copy_(torch.where(keep, weight, 0.0))
                if module.bias is not None:
                    module.bias.copy_(2 * rand(*module.bias.shape) - 1)
                    module.bias[rand(*module.bias.shape) < 0.3] = 0
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(rand(*module.running_mean.shape))
                module.running_var.copy_(1 + rand(*module.running_var.shape))
                if module.weight is not None:
                    module.weight.copy_(2 * rand(*module.weight.shape) - 1)
                    module.weight[rand(*module.weight.shape) < 0.2] = 0
                    module.bias.copy_(2 * rand(*module.bias.shape) - 1)
    return net


def activation(draw: random.Random, channels: int) -> nn.Module:
    return draw.choice([
        nn.ReLU(), nn.ReLU(inplace=True), nn.Tanh(), nn.Sigmoid(), nn.LeakyReLU(0.1), nn.Softplus(),
        nn.GELU(), nn.PReLU(channels), nn.Identity(), nn.Dropout(0.3), nn.Hardtanh(),
    ])  # fmt: skip


def conv(draw: random.Random, inputs: int, outputs: int, keep_size: bool = True) -> nn.Module:
    kernel = draw.choice([1, 3])
    groups = draw.choice([g for g in (1, 1, 2, inputs) if inputs % g == 0 and outputs % g == 0])
    padding = kernel // 2 if keep_size else draw.choice([0, kernel // 2])
    mode = draw.choice(["zeros", "zeros", "circular", "replicate"])
    return nn.Conv2d(
        inputs, outputs, kernel, stride=1 if keep_size else draw.choice([1, 2]), padding=padding,
        groups=groups, bias=draw.random() < 0.7, padding_mode=mode,
    )  # fmt: skip


def conv_block(draw: random.Random, inputs: int, outputs: int, keep_size: bool = True) -> nn.Sequential:
    parts = [conv(draw, inputs, outputs, keep_size)]
    if draw.random() < 0.5:
        parts.append(nn.BatchNorm2d(outputs, affine=draw.random() < 0.8))
    parts.append(activation(draw, outputs))
    return nn.Sequential(*parts)


def conv_net(draw: random.Random) -> nn.Sequential:
    """Takes [N, 3, 12, 12]."""
    parts: list[nn.Module] = []
    channels = 3
    for depth in range(draw.randint(1, 3)):
        kind, outputs = draw.choice(["plain", "residual", "branches"]), draw.choice([4, 6])
        if kind == "residual":
            body = nn.Sequential(conv_block(draw, channels, 6), conv(draw, 6, channels))
            parts += [Residual(body), activation(draw, channels)]
            continue
        if kind == "branches":
            parts.append(Branches(conv_block(draw, channels, outputs), conv_block(draw, channels, 4)))
            outputs += 4
        else:
            parts.append(conv_block(draw, channels, outputs, keep_size=depth > 0))
        channels = outputs
        pools = [nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, ceil_mode=True), nn.Identity()]
        pools.append(nn.AvgPool2d(3, 1, padding=1))
        parts.append(draw.choice(pools))
    if draw.random() < 0.5:
        parts.append(Pooled())
        features = channels
    else:
        parts += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        features = 4 * channels
    return nn.Sequential(*parts, *mlp(draw, features))


def mlp(draw: random.Random, features: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for _ in range(draw.randint(1, 3)):
        outputs = draw.choice([5, 9])
        parts.append(nn.Linear(features, outputs, bias=draw.random() < 0.7))
        if draw.random() < 0.4:
            parts.append(nn.BatchNorm1d(outputs))
        parts.append(activation(draw, outputs))
        if draw.random() < 0.3:
            parts.append(Residual(nn.Linear(outputs, outputs)))
        features = outputs
    return nn.Sequential(*parts, nn.Linear(features, 3))


def random_net(seed: int, kind: str) -> tuple[nn.Sequential, Tensor]:
    """A net of float64 in eval mode, and a batch for it."""
    draw = random.Random(seed)
    net = conv_net(draw) if kind == "conv" else mlp(draw, 7)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, *((3, 12, 12) if kind == "conv" else (7,)), dtype=torch.float64, generator=generator)
    return kill(net.double().eval(), draw), x  # type: ignore[return-value]


def assert_same(actual: Tensor, net: nn.Module, x: Tensor, what: str) -> None:
    """Fail unless the result is the net's, within the rounding of all of its layers.

    What the layers of `kill` are given is not larger than a few, and no layer enlarges an error more than
    twice, so the errors of all add up to a few times what one may have.
    """
    actual, expected = actual.detach(), net(x).detach()
    layers = [m.weight[0].numel() for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
    allowed = tolerance(actual.dtype, sum(layers)) * 2.0 ** len(layers) * max(1.0, float(x.abs().max()))
    assert actual.shape == expected.shape, what
    assert float((actual.double() - expected.double()).abs().max()) <= allowed, what
