"""What layers with a method share. A layer adds its constructor, its geometry and its functional calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import torch
from torch import Tensor

from .._method import MC
from ..kl import KLModule
from ..methods import Method, SparseVD
from .places import PLACES, Place
from .places._base import wide_dtype

__all__ = ["Variational"]

DEFAULT_METHOD = SparseVD()

Self = TypeVar("Self", bound="Variational")


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
        if own is not None:
            return own
        if "method" not in layer.__dict__:
            raise AttributeError(f"{type(layer).__name__} has no log_alpha yet")
        return layer._place().log_alpha(layer, layer.weight)


class Variational(KLModule):
    """A layer of torch.nn with a `method`: noise in training, a KL or penalty, pruning.

    Attributes:
        method: the `Method`, frozen; replace it by another of the same parameters to change thresholds or the
            eval mode.
        weight: mean mu of the weights.
        log_sigma2: log variance, where that is the method's parameter.
        log_alpha: log(sigma^2 / mu^2): the method's parameter, or computed (then it is
            log_sigma2 - log(mu^2 + 1e-8), in float32 at least). Methods without Gaussian noise have none.
    """

    method: Method
    weight: Tensor
    bias: Any  # a Parameter or None; torch annotates it differently from layer to layer
    groups: int = 1
    channel_dim: int = -1  # of units in inputs and outputs, batched or not
    if TYPE_CHECKING:
        log_sigma2: torch.nn.Parameter
    log_alpha = _LogAlpha()

    # torch's own layer, and the attributes that are its constructor's arguments, `bias` apart
    _dense_class: ClassVar[type[torch.nn.Module]]
    _dense_arguments: ClassVar[tuple[str, ...]]
    _dense_state: ClassVar[tuple[str, ...]] = ("weight", "bias")  # what it shares with torch's own layer

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer without noise, of any weight: plain ATen."""
        raise NotImplementedError(f"{type(self).__name__} must define _dense()")

    def _plain(self, x: Tensor) -> Tensor:
        """The layer without noise, of its own weight and bias."""
        return self._dense(x, self.weight, self.bias)

    def _lrt(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, mean: Tensor | None = None
    ) -> Tensor:
        """The layer by local reparameterisation; `mean` stands in for the weight."""
        raise NotImplementedError(f"{type(self).__name__} must define _lrt()")

    def _lrt_kl(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
    ) -> tuple[Tensor, Tensor]:
        """`_lrt` and the weights' KL in one op."""
        raise NotImplementedError(f"{type(self).__name__} must define _lrt_kl()")

    @property
    def in_units(self) -> int:
        """Input features or channels."""
        return self.weight.shape[1] * self.groups

    @property
    def out_units(self) -> int:
        """Output features or channels."""
        return self.weight.shape[0]

    def unit_shape_in(self, per_unit: Tensor) -> Tensor:
        """View [C] (or [1]) so that it broadcasts against the layer's input, batched or not."""
        return per_unit.reshape(-1, *(1,) * (self.weight.ndim - 2))

    def unit_shape_out(self, per_unit: Tensor) -> Tensor:
        """View [C] (or [1]) so that it broadcasts against the layer's output, batched or not."""
        return per_unit.reshape(-1, *(1,) * (self.weight.ndim - 2))

    def unit_shape_weight(self, per_unit: Tensor, of: str) -> Tensor:
        """View [C] (or [1]) of the ``input``'s or ``output``'s units so that it broadcasts to the weight."""
        ones = (1,) * (self.weight.ndim - 2)
        if per_unit.numel() == 1 or of == "output":
            return per_unit.reshape(-1, 1, *ones)
        return self._spread(per_unit.reshape(self.groups, -1, *ones))

    def _place(self) -> Place:
        return PLACES[self.method.enters]

    def _init_noise(self, method: Method) -> None:
        """Set the method and make its parameters, beside the weight and trainable if that is."""
        self.method = method
        self._place().init(self)

    @classmethod
    def from_dense(cls: type[Self], dense: torch.nn.Module, method: Method = DEFAULT_METHOD) -> Self:
        """The variational twin of a plain layer: the SAME weight and bias Parameters, flags and hooks.

        Raises:
            TypeError: `method` is no Method.
        """
        check_method(method)
        layer = cls.__new__(cls)
        state: dict[str, Any] = dense.__getstate__()
        layer.__dict__.update(
            {name: value.copy() if isinstance(value, dict) else value for name, value in state.items()}
        )
        layer._init_noise(method)
        return layer

    def to_dense(self) -> torch.nn.Module:
        """torch's own layer with a copy of the effective mean weights: pruned, gates folded in."""
        dense = torch.nn.utils.skip_init(
            self._dense_class,
            **{name: getattr(self, name) for name in self._dense_arguments},
            bias=self.bias is not None,
            device=self.weight.device,
            dtype=self.weight.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.pruned_weight())
            dense.weight.requires_grad_(self.weight.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    def reset_parameters(self) -> None:
        """Draw weight and bias as torch's own layer does; the noise starts at the method's first value."""
        super().reset_parameters()  # type: ignore[misc]  # torch's layer follows in the order of bases
        if "method" in self.__dict__:  # torch's constructor calls this before there is one
            self.reset_noise()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method}"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        place = PLACES[self.method.enters]
        mode: Any = "sample" if self.training else self.method.eval_mode
        if mode == "mean":
            return place.mean(self, input)
        if isinstance(mode, MC):
            return torch.stack([place.sample(self, input) for _ in range(mode.samples)]).mean(0)
        return place.sample(self, input)

    def reset_noise(self) -> None:
        """Set the method's parameters and buffers back to their first values."""
        self._place().reset(self)

    def noise_parameter(self) -> torch.nn.Parameter | None:
        """The method's log_sigma2 or log_alpha, None where it learns neither."""
        scale = self.method.scale
        return None if scale is None or scale.bounds is None else getattr(self, scale.name)

    def noise_parameters(self) -> list[torch.nn.Parameter]:
        """All parameters of the method beside weight and bias: no weight decay for them."""
        return self._place().noise_parameters(self)

    def _noise(self) -> tuple[Tensor | None, Tensor | None]:
        """(log_sigma2, log_alpha), one of them None, of the weight's shape or 1 in any dimension."""
        scale = self.method.scale
        assert scale is not None
        if scale.bounds is None:
            return None, self._constant(scale.init)
        noise: Tensor = getattr(self, scale.name)
        return (noise, None) if scale.name == "log_sigma2" else (None, self._spread(noise))

    def _spread(self, per_weight: Tensor) -> Tensor:
        """What broadcasts to the weight, from one value an input, [groups, I / groups, ...] if grouped.

        Or from a single value of any dimensions, which layers of different kinds may share.
        """
        if per_weight.ndim != self.weight.ndim:
            per_weight = per_weight.reshape((1,) * self.weight.ndim)
        if self.groups == 1 or per_weight.shape[0] in (1, self.weight.shape[0]):
            return per_weight
        return per_weight.repeat_interleave(self.weight.shape[0] // self.groups, 0)

    def _constant(self, value: float) -> Tensor:
        # float32 at least, whatever the weights are: a rounded log_alpha would be another dropout rate
        dtype = wide_dtype(self.weight.dtype)
        return torch.full((1,) * self.weight.ndim, value, dtype=dtype, device=self.weight.device)

    def kl(self) -> Tensor:
        """KL(q || p) summed over the layer's random variables, in nats; 0 where the method has no prior.

        Where weights share a log_alpha, its KL counts once for each of them.
        """
        return self._place().kl(self)

    def penalty(self) -> Tensor:
        """What the method adds to the mean loss beside KL / N; 0 for most."""
        return self._place().penalty(self)

    def keep_mask(self) -> Tensor:
        """bool, of the weight's shape: False where the method prunes (log_alpha >= `method.prune_at`)."""
        return self._place().keep_mask(self)

    def pruned_weight(self) -> Tensor:
        """The mean weights, those to be pruned at zero, gates folded in: what eval mode computes with."""
        return self._place().effective_weight(self)

    def project_(self) -> None:
        """What belongs after each step of the optimiser, in place; `vdropkern.project_` calls it."""
        self._place().project_(self)


def check_method(method: object) -> None:
    """Raise TypeError unless it is a `Method`."""
    if not isinstance(method, Method):
        raise TypeError(f"method must be one of vdropkern.methods, such as SparseVD(), got {method!r}")
