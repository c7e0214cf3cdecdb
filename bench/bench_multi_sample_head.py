"""multi_sample_head: M dropout masks in one training step, against one; the head alone and on a trunk."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import functional as vF
from vdropkern import nn as vnn

from .gate import compare
from .specs import Contender, Head

_P = 0.5
_MANY = 8
_IMAGE = 32


class _Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)])
        same = inputs == outputs and stride == 1
        self.short = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](self.first(x)).relu()
        return (self.norms[1](self.second(h)) + self.short(x)).relu()


def _resnet(features: int) -> nn.Sequential:
    """The small residual net of the seed's experiment, for 32x32 images: 128 features."""
    blocks: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    width = 32
    for outputs, stride in ((32, 1), (64, 2), (64, 2), (features, 2)):
        blocks += [_Block(width, outputs, stride), _Block(outputs, outputs, 1)]
        width = outputs
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Training:
    """One training step, without the optimiser."""

    def __init__(self, spec: Head, loss: Callable[[nn.Linear, Tensor, Tensor], Tensor]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.target = torch.randint(spec.classes, (spec.batch,), generator=generator)
        with torch.random.fork_rng():
            torch.manual_seed(2)
            self.head = vnn.MultiSampleHead(spec.features, spec.classes, p=_P)
            self.trunk = _resnet(spec.features) if spec.trunk else nn.Identity()
        shape = (spec.batch, 3, _IMAGE, _IMAGE) if spec.trunk else (spec.batch, spec.features)
        self.x = torch.randn(shape, generator=generator).relu_().requires_grad_(not spec.trunk)
        self.parameters = [*self.head.parameters(), *self.trunk.parameters()]
        self.loss = loss

    def __call__(self) -> None:
        self.loss(self.head, self.trunk(self.x), self.target).backward()
        self.x.grad = None
        for parameter in self.parameters:
            parameter.grad = None


def _fused(samples: int) -> Callable[[nn.Linear, Tensor, Tensor], Tensor]:
    return lambda head, h, target: vF.multi_sample_head(h, head.weight, head.bias, target, samples, _P)


def _explicit(samples: int) -> Callable[[nn.Linear, Tensor, Tensor], Tensor]:
    """As users write it."""

    def loss(head: nn.Linear, h: Tensor, target: Tensor) -> Tensor:
        passes = (F.linear(F.dropout(h, _P), head.weight, head.bias) for _ in range(samples))
        return torch.stack([F.cross_entropy(logits, target) for logits in passes]).mean()

    return loss


CONTENDERS = {
    "one": Contender("vdropkern, M = 1", lambda s: _Training(s, _fused(1)), core=True),
    "vdropkern": Contender("vdropkern, M = 8", lambda s: _Training(s, _fused(_MANY)), core=True),
    "torch-one": Contender("torch, M = 1", lambda s: _Training(s, _explicit(1)), core=True),
    "torch": Contender("torch, M = 8 passes", lambda s: _Training(s, _explicit(_MANY)), core=True),
}


def gate(spec: Head) -> list[str]:
    """Loss and gradients of 8 samples against the reference in float64."""
    generator = torch.Generator().manual_seed(3)
    h = torch.randn(spec.batch, spec.features, generator=generator)
    weight = torch.randn(spec.classes, spec.features, generator=generator) / spec.features**0.5
    target = torch.randint(spec.classes, (spec.batch,), generator=generator)
    results = []
    for backend, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        leaves = [t.detach().to(dtype).requires_grad_() for t in (h, weight, torch.zeros(spec.classes))]
        with vdk.use_backend(backend):
            loss = vF.multi_sample_head(*leaves, target, _MANY, _P, seed=7)
            loss.backward()
        gradients = {f"gradient {i}": t.grad for i, t in enumerate(leaves) if t.grad is not None}
        results.append({"loss": loss.detach()} | gradients)
    return compare(*results, spec.features + spec.classes + _MANY * spec.batch)


def test_multi_sample_head(timed: Callable[[], None]) -> None:
    timed()
