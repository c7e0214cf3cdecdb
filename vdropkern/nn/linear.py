"""A linear layer with noisy weights, in place of torch.nn.Linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from .._method import MC
from ..methods import Method, SparseVD
from .variational import Variational

__all__ = ["Linear"]

_DEFAULT_METHOD = SparseVD()


class Linear(Variational, torch.nn.Linear):
    """torch.nn.Linear whose weights carry the noise of a `Method`; with `SparseVD` they can be pruned.

    In training, by local reparameterisation (Kingma et al. 2015, arXiv 1506.02557),

        y = x mu^T + bias + sqrt(x^2 (sigma^2)^T + 1e-8) e,   e ~ N(0, 1) iid per element of y,

    with sigma^2 = exp(log_sigma2) or alpha mu^2 as the method has it; methods of the input drop x out. In
    eval mode the method's `eval_mode` decides: by default y = x W^T + bias with the mean weights, those of
    log_alpha >= threshold at zero: plain ATen, without noise, ready for `torch.export`.

    Args:
        in_features, out_features, bias, device, dtype: as torch.nn.Linear.
        method: a `vdropkern.methods.Method`.

    State dict: ``weight`` and ``bias`` as torch.nn.Linear, and ``log_sigma2`` or ``log_alpha`` where the
    method learns one. `vdropkern.load_dense_state_dict` reads checkpoints of the dense net.

    Shapes: x [*, I] -> y [*, O]; weight [O, I]; bias [O]; log_sigma2 [O, I]; log_alpha [1, 1], [1, I],
    [O, 1] or [O, I] by the method's granularity.

    Raises:
        TypeError: `method` is no Method.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        method: Method = _DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_method(method)
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self._init_noise(method)

    @classmethod
    def from_dense(cls, dense: torch.nn.Linear, method: Method = _DEFAULT_METHOD) -> Linear:
        """The variational twin of a plain layer: the SAME weight and bias Parameters, flags and hooks.

        Raises:
            TypeError: `method` is no Method.
        """
        _check_method(method)
        layer = cls.__new__(cls)
        layer.__dict__.update(
            {
                name: value.copy() if isinstance(value, dict) else value
                for name, value in dense.__getstate__().items()
            }
        )
        layer._init_noise(method)
        return layer

    def to_dense(self) -> torch.nn.Linear:
        """A plain torch.nn.Linear with a copy of the pruned mean weights."""
        dense = torch.nn.utils.skip_init(
            torch.nn.Linear,
            self.in_features,
            self.out_features,
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
        """Draw weight and bias as torch.nn.Linear does; the noise starts at the method's first value."""
        super().reset_parameters()
        if "method" in self.__dict__:  # torch.nn.Linear's constructor calls this before there is one
            self.reset_noise()

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, method={self.method}"

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Linear.forward
        mode: Any = "sample" if self.training else self.method.eval_mode
        if mode == "mean":
            return torch.nn.functional.linear(input, self.pruned_weight(), self.bias)
        if isinstance(mode, MC):
            return torch.stack([self._sample(input) for _ in range(mode.samples)]).mean(0)
        return self._sample(input)

    def _sample(self, x: Tensor) -> Tensor:
        if self.method.enters == "input":
            dropped = torch.nn.functional.dropout(x, self.method.drop_probability)
            return torch.nn.functional.linear(dropped, self.weight, self.bias)
        log_sigma2, log_alpha = self._noise()
        clip = self.method.clip_at
        collectors = self._active_collectors()
        if not collectors or not self._fuses_kl(x):
            return F.linear_lrt(
                x, self.weight, log_sigma2, self.bias, log_alpha=log_alpha, clip_log_alpha=clip
            )
        prior = self.method.kl_prior
        assert prior is not None
        y, kl = F.linear_lrt_kl(
            x, self.weight, log_sigma2, self.bias, log_alpha=log_alpha, prior=prior, clip_log_alpha=clip
        )
        for collector in collectors:
            collector.report(self, kl)
        return y

    def _fuses_kl(self, x: Tensor) -> bool:
        """Whether the forward pass can deliver the same KL, with the same gradients, as `kl`."""
        scale = self.method.scale
        return (
            self.method.kl_prior is not None
            and scale is not None
            and scale.granularity == "weight"
            # a reentrant checkpoint runs its first pass without gradients
            and torch.is_grad_enabled()
            # autocast hands the op weights rounded to its dtype
            and not torch.is_autocast_enabled(x.device.type)
        )


def _check_method(method: Method) -> None:
    if not isinstance(method, Method):
        raise TypeError(f"method must be one of vdropkern.methods, such as SparseVD(), got {method!r}")
