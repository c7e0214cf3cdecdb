"""The interface between a layer and the place where its method's noise enters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ... import functional as F
from ...ops.kl.reference import log_alpha_of

if TYPE_CHECKING:
    from ..variational import Variational

__all__ = ["Place", "wide_dtype"]


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 at least: what log_alpha, variances and KLs are computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Place:
    """Where noise enters, without state of its own: the layer carries parameters and buffers.

    The base does all that follows from `Method.scale`, `kl_prior` and `prune_at`; a place defines `sample`,
    and overrides what else it does its own way. Forward passes change no state.
    """

    def init(self, layer: Variational) -> None:
        """Register the method's parameters and buffers, trainable if the weight is."""
        scale = layer.method.scale
        if scale is not None and scale.bounds is not None:
            weight = layer.weight
            shape = scale.shape(weight.shape, layer.groups)
            noise = torch.full(shape, scale.init, dtype=weight.dtype, device=weight.device)
            layer.register_parameter(
                scale.name, torch.nn.Parameter(noise, requires_grad=weight.requires_grad)
            )

    def reset(self, layer: Variational) -> None:
        """Set what `init` registered back to the method's first values, in place."""
        noise = layer.noise_parameter()
        if noise is not None:
            assert layer.method.scale is not None
            with torch.no_grad():
                noise.fill_(layer.method.scale.init)

    def noise_parameters(self, layer: Variational) -> list[torch.nn.Parameter]:
        """Parameters of the noise: a group of their own for optimisers, without weight decay."""
        noise = layer.noise_parameter()
        return [] if noise is None else [noise]

    def sample(self, layer: Variational, x: Tensor) -> Tensor:
        """The noisy forward pass."""
        raise NotImplementedError(f"{type(self).__name__} must define sample()")

    def mean(self, layer: Variational, x: Tensor) -> Tensor:
        """The forward pass of `eval_mode` ``mean``: deterministic, plain ATen."""
        return layer._dense(x, self.effective_weight(layer), layer.bias)

    def kl(self, layer: Variational) -> Tensor:
        """KL(q || p) of the layer in nats, summed; 0 where the method has no prior."""
        prior = layer.method.kl_prior
        if prior is None:
            return layer.weight.new_zeros((), dtype=wide_dtype(layer.weight.dtype))
        assert layer.method.scale is not None
        noise: Tensor = getattr(layer, layer.method.scale.name)
        if layer.method.scale.name == "log_sigma2":
            return F.kl(layer.weight, noise, prior=prior)
        return F.kl(log_alpha=noise, prior=prior) * (self.kl_terms(layer) // max(noise.numel(), 1))

    def kl_terms(self, layer: Variational) -> int:
        """How many random variables the KL counts, however many of them share one log_alpha."""
        return layer.weight.numel()

    def penalty(self, layer: Variational) -> Tensor:
        """What is added to the mean loss as it is, beside KL / N."""
        return layer.weight.new_zeros((), dtype=wide_dtype(layer.weight.dtype))

    def log_alpha(self, layer: Variational, weight: Tensor) -> Tensor:
        """log(sigma^2 / mu^2) where it is not the parameter itself, in float32 at least.

        Raises:
            AttributeError: the method's noise has none.
        """
        scale = layer.method.scale
        if scale is not None and scale.name == "log_sigma2":
            dtype = wide_dtype(weight.dtype)
            return log_alpha_of(weight.to(dtype), layer.log_sigma2.to(dtype))
        if scale is not None and scale.bounds is None:
            return layer._constant(scale.init)
        raise AttributeError(f"{layer.method.name} has no log_alpha")

    def keep_mask(self, layer: Variational) -> Tensor:
        """bool, of the weight's shape: False where the method prunes."""
        threshold = layer.method.prune_at
        if threshold is None:
            return torch.ones_like(layer.weight, dtype=torch.bool)
        assert layer.method.scale is not None
        if layer.method.scale.name == "log_alpha":
            log_alpha = layer.log_alpha.detach()
        else:
            log_alpha = self.log_alpha(layer, layer.weight.detach())
        # NaN is kept: a net that diverged must not pass for a pruned one
        return layer._spread(~(log_alpha >= threshold)).expand_as(layer.weight)

    def effective_weight(self, layer: Variational) -> Tensor:
        """The mean weight, pruned ones at zero and gates folded in: what eval mode and `sparsify` use."""
        if layer.method.prune_at is None:
            return layer.weight
        return torch.where(self.keep_mask(layer), layer.weight, 0.0)

    @torch.no_grad()
    def project_(self, layer: Variational) -> None:
        """What belongs after each step of the optimiser: bounds, ramps, running averages."""
        scale, noise = layer.method.scale, layer.noise_parameter()
        if noise is not None:
            assert scale is not None and scale.bounds is not None
            noise.clamp_(*scale.bounds)
