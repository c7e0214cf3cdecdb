"""One factor a unit: of the layer's input, or of its output before the bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import functional as F
from ...methods._gated import Gated
from ...methods.switches import ConcreteDropout, L0HardConcrete, Smallify
from ...ops.kl.reference import log_alpha_of
from ._base import Place, wide_dtype

if TYPE_CHECKING:
    from ..variational import Variational

_OFF = -200.0  # log_sigma2 without noise


class Gate(Place):
    """y = (x * theta) W^T + b, or (x W^T) * theta + b, theta drawn for each unit by `functional.gate`."""

    def init(self, layer: Variational) -> None:
        super().init(layer)
        method, weight = _method(layer), layer.weight
        for name in method.gate_parameters:
            first = torch.empty(_count(layer), dtype=weight.dtype, device=weight.device)
            layer.register_parameter(name, torch.nn.Parameter(first, requires_grad=weight.requires_grad))
        if isinstance(method, Smallify):
            made = torch.zeros(_count(layer), dtype=weight.dtype, device=weight.device)
            layer.register_buffer("gate_sign_mean", made)
            layer.register_buffer("gate_sign_variance", made.clone())
            # 1 or 0, and no bool: averages of nets (torch.optim.swa_utils) take it in as they do parameters
            layer.register_buffer("gate_open", torch.ones_like(made))
        self._reset_gates(layer)

    def reset(self, layer: Variational) -> None:
        super().reset(layer)
        self._reset_gates(layer)

    @torch.no_grad()
    def _reset_gates(self, layer: Variational) -> None:
        for name, first in _method(layer).gate_parameters.items():
            parameter: Tensor = getattr(layer, name)
            if parameter.is_meta or first.spread == 0:
                parameter.fill_(first.init)
            elif first.uniform:
                parameter.uniform_(first.init - first.spread, first.init + first.spread)
            else:
                parameter.normal_(first.init, first.spread)
        if isinstance(layer.method, Smallify):
            _tensor(layer, "gate_sign_mean").copy_(_tensor(layer, "gate_location").sign())
            _tensor(layer, "gate_sign_variance").zero_()
            _tensor(layer, "gate_open").fill_(1.0)

    def noise_parameters(self, layer: Variational) -> list[torch.nn.Parameter]:
        return super().noise_parameters(layer) + [
            getattr(layer, name) for name in _method(layer).gate_parameters
        ]

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        method = _method(layer)
        if method.gate_units == "input":
            gated = self._gated(layer, x)
            if method.scale is not None:
                return layer._lrt(gated, layer.log_sigma2, None)
            return layer._dense(gated, layer.weight, layer.bias)
        y = self._gated(layer, layer._dense(x, layer.weight, None))
        return y if layer.bias is None else y + layer.unit_shape_out(layer.bias).to(y.dtype)

    def _gated(self, layer: Variational, t: Tensor) -> Tensor:
        method = _method(layer)
        location, log_sigma2 = _parameters(layer)
        if method.masks_in_training:
            keep = self.keep_units(layer)
            location = torch.where(keep, location, 0.0)
            log_sigma2 = None if log_sigma2 is None else torch.where(keep, log_sigma2, _OFF)
        return F.gate(
            t,
            location,
            log_sigma2,
            kind=method.kind,
            channel_dim=layer.channel_dim,
            per_sample=method.gate_per_sample,
            temperature=method.temperature,
        )

    def kl(self, layer: Variational) -> Tensor:
        method = _method(layer)
        location, log_sigma2 = _parameters(layer)
        if isinstance(method, ConcreteDropout):
            return F.concrete_dropout_kl(layer.weight, location, layer.in_units, method.length_scale)
        if log_sigma2 is None:
            return super().kl(layer)
        if method.kind == "log-normal":
            return F.log_normal_kl(location, log_sigma2)
        assert method.gate_prior is not None
        gates = F.kl(location, log_sigma2, prior=method.gate_prior)
        return gates if method.scale is None else gates + super().kl(layer)

    def penalty(self, layer: Variational) -> Tensor:
        method = layer.method
        if isinstance(method, L0HardConcrete):
            a_gate = layer.weight.numel() // max(_count(layer), 1)
            open_gates = F.hard_concrete_penalty(
                _tensor(layer, "gate_location"), temperature=method.temperature
            )
            return method.strength * a_gate * open_gates
        if isinstance(method, Smallify):
            switch = torch.where(self.keep_units(layer), _tensor(layer, "gate_location"), 0.0)
            return method.strength * switch.to(wide_dtype(switch.dtype)).abs().sum()
        return super().penalty(layer)

    def keep_units(self, layer: Variational) -> Tensor:
        """bool [units]: False where the method prunes; NaN is kept, so that it shows."""
        method = _method(layer)
        location, log_sigma2 = (None if p is None else p.detach() for p in _parameters(layer))
        assert location is not None
        if method.kind == "log-normal":
            assert log_sigma2 is not None
            return ~(F.log_normal_snr(location, log_sigma2) <= 1)
        if method.kind == "normal":
            assert log_sigma2 is not None and method.gate_prune_at is not None
            dtype = wide_dtype(location.dtype)
            return ~(log_alpha_of(location.to(dtype), log_sigma2.to(dtype)) >= method.gate_prune_at)
        if method.kind == "hard-concrete":
            return ~(F.hard_concrete_mean(location) <= 0)
        if isinstance(method, Smallify):
            return _tensor(layer, "gate_open") > 0.5
        return torch.ones_like(location, dtype=torch.bool)

    def mean_gates(self, layer: Variational) -> Tensor | None:
        """The gates in use, [units], those of pruned units 0; None: all are 1."""
        method = _method(layer)
        location, log_sigma2 = _parameters(layer)
        if method.kind == "concrete":
            return None
        theta = location
        if method.kind == "log-normal":
            assert log_sigma2 is not None
            theta = F.log_normal_mean(location, log_sigma2).to(location.dtype)
        elif method.kind == "hard-concrete":
            theta = F.hard_concrete_mean(location).to(location.dtype)
        return torch.where(self.keep_units(layer), theta, 0.0)

    def keep_mask(self, layer: Variational) -> Tensor:
        keep = self.keep_units(layer)
        return layer.unit_shape_weight(keep, _method(layer).gate_units).expand_as(layer.weight)

    def effective_weight(self, layer: Variational) -> Tensor:
        theta = self.mean_gates(layer)
        return (
            layer.weight
            if theta is None
            else layer.weight * layer.unit_shape_weight(theta, _method(layer).gate_units)
        )

    @torch.no_grad()
    def project_(self, layer: Variational) -> None:
        super().project_(layer)
        method = _method(layer)
        for name, first in method.gate_parameters.items():
            getattr(layer, name).clamp_(*first.bounds)
        if isinstance(method, Smallify):
            sign = _tensor(layer, "gate_location").sign()
            mean, variance = _tensor(layer, "gate_sign_mean"), _tensor(layer, "gate_sign_variance")
            variance.lerp_((sign - mean).square(), 1 - method.momentum)
            mean.lerp_(sign, 1 - method.momentum)
            _tensor(layer, "gate_open").mul_(~(variance >= method.threshold))


def _method(layer: Variational) -> Gated:
    assert isinstance(layer.method, Gated)
    return layer.method


def _count(layer: Variational) -> int:
    method = _method(layer)
    return 1 if method.shared else layer.in_units if method.gate_units == "input" else layer.out_units


def _tensor(layer: Variational, name: str) -> Tensor:
    """By name, since tensors may stand in for parameters; whole where those are sharded."""
    t: Tensor = getattr(layer, name)
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def _parameters(layer: Variational) -> tuple[Tensor, Tensor | None]:
    """(location, log_sigma2)"""
    two = "gate_log_sigma2" in _method(layer).gate_parameters
    return _tensor(layer, "gate_location"), _tensor(layer, "gate_log_sigma2") if two else None
