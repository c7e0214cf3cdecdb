"""Losses as functions of parameters by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..ops.sign_mlp import outputs_of

# whose activations are the signs of the net's kernels
SIGNS = tuple(name for name, levels in F.ESTIMATORS.items() if not levels and name != "stochastic")
Params = Mapping[str, Tensor]
Loss = Callable[[Params], Tensor]


def module_loss(module: torch.nn.Module, criterion: Callable[[Any], Tensor], *inputs: Any) -> Loss:
    """The loss of a module as a function of its parameters: criterion(module(*inputs)).

    Works under torch.func, and so for candidates in batches. Buffers are the module's own.
    """

    def loss(params: Params) -> Tensor:
        return criterion(torch.func.functional_call(module, dict(params), inputs))

    return loss


def flatten(params: Params) -> Tensor:
    """All parameters one after the other, [d]."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(flat: Tensor, like: Params) -> dict[str, Tensor]:
    """The inverse of `flatten`; flat may have leading dimensions."""
    made, at = {}, 0
    for name, p in like.items():
        made[name] = flat[..., at : at + p.numel()].reshape((*flat.shape[:-1], *p.shape))
        at += p.numel()
    return made


class SignMlpLoss:
    """Mean squared error of `depth` linear layers of equal width, each with a sign, and one of one output.

    Args:
        x: [B, n], float32 or float64.
        y: [B], the targets.
        depth: layers with a sign.
        estimator: of the signs' derivative; see `vdropkern.functional.sign_ste`. Those of levels in [0, 1]
            and ``stochastic`` are of other nets.
    """

    def __init__(self, x: Tensor, y: Tensor, depth: int = 3, estimator: str = "hard-tanh") -> None:
        if x.ndim != 2 or y.shape != x.shape[:1] or 0 in x.shape:
            raise ValueError(
                f"SignMlpLoss: x must be [B, n] and y [B], got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        if depth < 1:
            raise ValueError(f"SignMlpLoss: depth must be >= 1, got {depth}")
        if estimator not in SIGNS:
            raise ValueError(f"SignMlpLoss: estimator must be one of {', '.join(SIGNS)}, got {estimator!r}")
        self.x, self.y, self.depth, self.estimator = x, y, depth, estimator

    @property
    def width(self) -> int:
        return self.x.shape[1]

    def init(self, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Parameters as torch.nn.Linear draws them, U(-1/sqrt n, 1/sqrt n): fc1.weight, ..., head.bias."""
        n = self.width
        made: OrderedDict[str, Tensor] = OrderedDict()
        for i in range(self.depth + 1):
            name, outputs = (f"fc{i + 1}", n) if i < self.depth else ("head", 1)
            for kind, shape in (("weight", (outputs, n)), ("bias", (outputs,))):
                u = torch.rand(shape, generator=generator, dtype=self.x.dtype)
                made[f"{name}.{kind}"] = (2 * u - 1) / n**0.5
        return made

    def outputs(self, params: Params) -> Tensor:
        """[B]."""
        return outputs_of(self.x, flatten(params), self.depth)[0]

    def __call__(self, params: Params) -> Tensor:
        """The loss, differentiable through the straight-through estimator."""
        *hidden, (weight, bias) = zip(*[iter(params.values())] * 2, strict=True)
        h = self.x
        for w, b in hidden:
            h = F.sign_ste(torch.nn.functional.linear(h, w, b), self.estimator)
        return torch.mean((torch.nn.functional.linear(h, weight, bias)[:, 0] - self.y) ** 2)


def ste_gradient(loss: SignMlpLoss, params: Params, estimator: str) -> dict[str, Tensor]:
    """The gradient by a straight-through estimator."""
    leaves = {k: p.detach().requires_grad_() for k, p in params.items()}
    value = SignMlpLoss(loss.x, loss.y, loss.depth, estimator)(leaves)
    return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
