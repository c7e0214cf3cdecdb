"""Mean and variance of a net's output without drawing noise: fast dropout's deterministic way."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from . import functional as F
from .methods import Bernoulli, MultiSampleDropout
from .nn import Dropout, Variational

__all__ = ["propagate_moments"]

Moments = tuple[Tensor, Tensor]


def propagate_moments(model: torch.nn.Module, x: Tensor) -> Moments:
    """Mean and variance of the training pass's output, layer by layer in closed form.

    Wang & Manning 2013 (ICML), "fast dropout": instead of drawing noise, push the mean m and the variance v
    of every unit through the net, taking units as normal and independent of each other:

    - linear and convolution layers of weights N(mu, sigma^2): m' = m mu^T + b,
      v' = v (mu^2)^T + (m^2 + v)(sigma^2)^T;
    - noise of mean 1 and variance alpha, on inputs or outputs: m' = m, v' = (1 + alpha) v + alpha m^2;
    - ReLU by `functional.relu_moments`; average pooling over n units: v' = mean(v) / n;
    - Flatten, Identity, and batch normalisation by its running statistics.

    The noise is the methods' whatever the mode of the modules; so is that of torch.nn.Dropout. Deterministic
    and differentiable, so a loss on (m', v') trains without any sampling.

    Args:
        model: one of these modules or a torch.nn.Sequential, nested or not, of them.
        x: the input; its variance is 0.

    Returns:
        (mean, variance), of the output's shape.

    Raises:
        TypeError: a module of another kind, or a layer whose method's noise is not Gaussian weights or
            multiplicative noise; the message names it.
    """
    return _through(model, x, torch.zeros_like(x), "model")


def _through(module: torch.nn.Module, mean: Tensor, var: Tensor, name: str) -> Moments:
    if isinstance(module, torch.nn.Sequential):
        for key, child in zip(module._modules, module, strict=True):  # a module may stand in two places
            mean, var = _through(child, mean, var, f"{name}.{key}")
        return mean, var
    if isinstance(module, Variational):
        return _variational(module, mean, var, name)
    for kind, rule in _RULES.items():
        if type(module) is kind:
            return rule(module, mean, var)
    known = ", ".join(kind.__name__ for kind in _RULES)
    raise TypeError(
        f"propagate_moments: {name} is a {type(module).__name__}; accepted: torch.nn.Sequential, layers of "
        f"vdropkern.nn, {known}"
    )


def _noisy(mean: Tensor, var: Tensor, alpha: Tensor | float) -> Moments:
    """Times noise of mean 1 and variance alpha."""
    return mean, (1 + alpha) * var + alpha * mean.square()


def _variational(layer: Variational, mean: Tensor, var: Tensor, name: str) -> Moments:
    method = layer.method
    if method.enters not in ("nowhere", "input", "pre-activation", "output", "weight"):
        raise TypeError(f"propagate_moments: {name} has {method}, whose noise is at: {method.enters}")
    if method.enters == "nowhere":
        return layer._plain(mean), var if isinstance(layer, Dropout) else _spread(layer, var)
    if method.scale is None:
        if not isinstance(method, (Bernoulli, MultiSampleDropout)):
            raise TypeError(f"propagate_moments: {name} has {method}, whose noise has no rule here")
        mean, var = _noisy(mean, var, method.alpha)
        return layer._plain(mean), var if isinstance(layer, Dropout) else _spread(layer, var)
    log_sigma2, log_alpha = layer._noise()
    if method.enters == "input":
        raw = layer._constant(method.scale.init) if method.scale.bounds is None else layer.log_alpha
        mean, var = _noisy(mean, var, layer.unit_shape_in(raw).exp())
        return layer._plain(mean), var if isinstance(layer, Dropout) else _spread(layer, var)
    if method.enters == "output":
        assert log_alpha is not None
        return _noisy(layer._plain(mean), _spread(layer, var), layer.unit_shape_out(log_alpha).exp())
    sigma2 = log_sigma2.exp() if log_sigma2 is not None else _alpha(log_alpha) * layer.weight.square()
    noise = layer._dense(mean.square() + var, sigma2, None)
    return layer._plain(mean), _spread(layer, var) + noise


def _alpha(log_alpha: Tensor | None) -> Tensor:
    assert log_alpha is not None
    return log_alpha.exp()


def _spread(layer: Variational, var: Tensor) -> Tensor:
    """Variance of a sum of independent units, each times its weight."""
    return layer._dense(var, layer.weight.square(), None)


def _relu(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    return F.relu_moments(mean, var)


def _same(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    return module(mean), module(var)


def _linear(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    assert isinstance(module, torch.nn.Linear)
    return module(mean), torch.nn.functional.linear(var, module.weight.square())


def _conv(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    assert isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d))
    return module(mean), module._conv_forward(var, module.weight.square(), None)


def _average(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    assert isinstance(module, (torch.nn.AvgPool1d, torch.nn.AvgPool2d))
    plain = module.padding in (0, (0,), (0, 0)) and not module.ceil_mode
    if not plain or getattr(module, "divisor_override", None) is not None:
        raise TypeError("propagate_moments: average pooling must be without padding, ceil_mode and divisor")
    size = module.kernel_size
    one_d = isinstance(module, torch.nn.AvgPool1d)
    return module(mean), module(var) / math.prod(size if isinstance(size, tuple) else (size,) * (2 - one_d))


def _global_average(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    pooled = module(mean)
    spatial = pooled.ndim - 2
    if any(s != 1 for s in pooled.shape[-spatial:]):
        raise TypeError("propagate_moments: adaptive average pooling must have output size 1")
    return pooled, module(var) / mean[(0, 0)].numel()


def _batch_norm(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    assert isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d))
    if module.running_var is None:
        raise TypeError("propagate_moments: batch normalisation must have running statistics")
    scale2 = (module.running_var + module.eps).reciprocal()
    if module.weight is not None:
        scale2 = scale2 * module.weight.square()
    shifted = torch.nn.functional.batch_norm(
        mean, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps
    )
    return shifted, var * scale2.reshape(-1, *(1,) * (mean.ndim - 2))


def _dropout(module: torch.nn.Module, mean: Tensor, var: Tensor) -> Moments:
    assert isinstance(module, torch.nn.Dropout)
    return _noisy(mean, var, module.p / (1 - module.p))


_RULES: dict[type[torch.nn.Module], Callable[[torch.nn.Module, Tensor, Tensor], Moments]] = {
    torch.nn.Linear: _linear,
    torch.nn.Conv1d: _conv,
    torch.nn.Conv2d: _conv,
    torch.nn.ReLU: _relu,
    torch.nn.Flatten: _same,
    torch.nn.Identity: _same,
    torch.nn.AvgPool1d: _average,
    torch.nn.AvgPool2d: _average,
    torch.nn.AdaptiveAvgPool1d: _global_average,
    torch.nn.AdaptiveAvgPool2d: _global_average,
    torch.nn.BatchNorm1d: _batch_norm,
    torch.nn.BatchNorm2d: _batch_norm,
    torch.nn.Dropout: _dropout,
}
