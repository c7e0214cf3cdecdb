"""A linear layer with a method, in place of torch.nn.Linear."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional as F
from ..methods import Method
from .variational import DEFAULT_METHOD, Variational, check_method

__all__ = ["Linear"]


class Linear(Variational, torch.nn.Linear):
    """torch.nn.Linear whose weights carry the noise of a `Method`; with `SparseVD` they can be pruned.

    In training, by local reparameterisation (Kingma et al. 2015, arXiv 1506.02557),

        y = x mu^T + bias + sqrt(x^2 (sigma^2)^T + 1e-8) e,   e ~ N(0, 1) iid per element of y,

    with sigma^2 = exp(log_sigma2) or alpha mu^2 as the method has it; other methods have their noise
    elsewhere, see `vdropkern.methods`. In eval mode the method's `eval_mode` decides: by default
    y = x W^T + bias with the mean weights, those of log_alpha >= threshold at zero: plain ATen, without
    noise, ready for `torch.export`.

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

    _dense_class = torch.nn.Linear
    _dense_arguments = ("in_features", "out_features")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        method: Method = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_method(method)
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self._init_noise(method)

    def _dense(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    def _lrt(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, mean: Tensor | None = None
    ) -> Tensor:
        mu = self.weight if mean is None else mean
        clip = self.method.clip_at
        return F.linear_lrt(x, mu, log_sigma2, self.bias, log_alpha=log_alpha, clip_log_alpha=clip)

    def _lrt_kl(
        self, x: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None, prior: str
    ) -> tuple[Tensor, Tensor]:
        clip = self.method.clip_at
        return F.linear_lrt_kl(
            x, self.weight, log_sigma2, self.bias, log_alpha=log_alpha, prior=prior, clip_log_alpha=clip
        )
