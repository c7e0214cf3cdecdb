"""What layers with noisy weights share: noise parameter, KL, pruning. Layers add the forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from .. import functional as F
from ..kl import KLModule
from ..methods import Method
from ..ops.kl.reference import log_alpha_of

__all__ = ["Variational"]


class _LogAlpha:
    """``layer.log_alpha``: the layer's parameter of that name, else computed from the others.

    It has no ``__set__`` on purpose, unlike a property: the plain tensors that replicas of a data-parallel
    layer hold in place of parameters can be set on the instance under this name, and are found first.
    """

    @overload
    def __get__(self, layer: None, owner: type | None = None) -> _LogAlpha: ...
    @overload
    def __get__(self, layer: Variational, owner: type | None = None) -> Tensor: ...
    def __get__(self, layer: Variational | None, owner: type | None = None) -> _LogAlpha | Tensor:
        if layer is None:
            return self
        own = layer._parameters.get("log_alpha")
        return own if own is not None else layer._computed_log_alpha(layer.weight)


class Variational(KLModule):
    """A layer whose `weight` is the mean of a Gaussian, with the noise that `method` says.

    Attributes:
        method: the `Method`, frozen; replace it by another of the same parameter to change thresholds or the
            eval mode.
        weight: mean mu of the weights.
        log_sigma2: log variance, where that is the method's parameter.
        log_alpha: log(sigma^2 / mu^2): the method's parameter, or computed (then it is
            log_sigma2 - log(mu^2 + 1e-8), in float32 at least). Methods without Gaussian noise have none.
    """

    method: Method
    weight: Tensor
    if TYPE_CHECKING:
        log_sigma2: torch.nn.Parameter
    log_alpha = _LogAlpha()

    def _init_noise(self, method: Method) -> None:
        """Set the method and make its noise parameter, beside the weight and trainable if that is."""
        self.method = method
        scale = method.scale
        if scale is not None and scale.bounds is not None:
            noise = torch.full(
                scale.shape(*self._weight_shape()),
                scale.init,
                dtype=self.weight.dtype,
                device=self.weight.device,
            )
            self.register_parameter(
                scale.name, torch.nn.Parameter(noise, requires_grad=self.weight.requires_grad)
            )

    def _weight_shape(self) -> tuple[int, int]:
        out = self.weight.shape[0]
        return out, self.weight[0].numel() if out else self.weight.shape[1]

    def to_dense(self) -> torch.nn.Module:
        """torch's own layer with a copy of the pruned mean weights."""
        raise NotImplementedError(f"{type(self).__name__} must define to_dense()")

    def reset_noise(self) -> None:
        """Set the noise parameter back to the method's first value."""
        scale = self.method.scale
        if scale is not None and scale.bounds is not None:
            with torch.no_grad():
                getattr(self, scale.name).fill_(scale.init)

    def noise_parameter(self) -> torch.nn.Parameter | None:
        """The method's own parameter (log_sigma2 or log_alpha), None where it has none."""
        scale = self.method.scale
        return None if scale is None or scale.bounds is None else getattr(self, scale.name)

    def _noise(self) -> tuple[Tensor | None, Tensor | None]:
        """(log_sigma2, log_alpha), one of them None, as the functions take them."""
        scale = self.method.scale
        assert scale is not None
        if scale.bounds is None:
            return None, self._constant(scale.init)
        noise: Tensor = getattr(self, scale.name)
        return (noise, None) if scale.name == "log_sigma2" else (None, noise)

    def _constant(self, value: float) -> Tensor:
        # float32 at least, whatever the weights are: a rounded log_alpha would be another dropout rate
        dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        return torch.full((1, 1), value, dtype=dtype, device=self.weight.device)

    def _computed_log_alpha(self, weight: Tensor) -> Tensor:
        scale = self.method.scale if "method" in self.__dict__ else None
        if scale is not None and scale.name == "log_sigma2":
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
            return log_alpha_of(weight.to(dtype), self.log_sigma2.to(dtype))
        if scale is not None and scale.bounds is None:
            return self._constant(scale.init)
        raise AttributeError(f"{type(self).__name__} holds no computed log_alpha")

    def kl(self) -> Tensor:
        """KL(q(w) || p(w)) summed over the layer's weights, in nats; 0 where the method has no prior.

        Where weights share a log_alpha, its KL counts once for each of them.
        """
        prior = self.method.kl_prior
        if prior is None:
            return self.weight.new_zeros((), dtype=self._constant(0.0).dtype)
        log_sigma2, log_alpha = self._noise()
        if log_alpha is None:
            return F.kl(self.weight, log_sigma2, prior=prior)
        return F.kl(log_alpha=log_alpha, prior=prior) * (self.weight.numel() // max(log_alpha.numel(), 1))

    def keep_mask(self) -> Tensor:
        """bool, of the weight's shape: log_alpha < `method.prune_at`; all True where nothing is pruned."""
        threshold = self.method.prune_at
        if threshold is None:
            return torch.ones_like(self.weight, dtype=torch.bool)
        scale = self.method.scale
        assert scale is not None
        if scale.name == "log_alpha":
            log_alpha = self.log_alpha.detach()
        else:
            log_alpha = self._computed_log_alpha(self.weight.detach())
        return (log_alpha < threshold).expand_as(self.weight)

    def pruned_weight(self) -> Tensor:
        """The mean weights, those to be pruned at zero: what `eval_mode` ``mean`` computes with."""
        if self.method.prune_at is None:
            return self.weight
        return torch.where(self.keep_mask(), self.weight, 0.0)
