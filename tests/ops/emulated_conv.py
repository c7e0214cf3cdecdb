"""conv2d_lrt on the emulated GPU, with the signature of the op: functions and autograd are as ever."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern.ops.conv2d_lrt as conv_op
from tests.cases import Case
from tests.emulator import emulated, memory, misaligned, prior_code
from tests.test_generic_ops import results
from vdropkern.ops.conv2d_lrt.reference import memory_format_of
from vdropkern.ops.kl import reference as kl_reference

from .test_linear_lrt_cuda import TYPES, Math

gpu = emulated()
LAST = torch.channels_last
Traffic = dict[str, tuple[int, int]]  # bytes loaded and stored, by tensor


def last(t: Tensor) -> Tensor:
    """The memory of weights in channels last, as the launchers want it."""
    return t.permute(0, 2, 3, 1).contiguous()


@dataclass
class Emulated:
    """The op on the emulated GPU, with the signature of its schema. `offset`: elements by which every tensor
    misses a multiple of 16 bytes."""

    math: Math
    multiprocessors: int = 2
    offset: int = 0
    traffic: dict[str, Traffic] = field(default_factory=dict)  # of the last call of each pass
    kernels: set[str] = field(default_factory=set)  # that ran

    def _shared(
        self, m: Any, x: Tensor, mu: Tensor, log: Tensor, is_alpha: bool, y: Tensor,
        geometry: tuple[int, ...], clip: float, format_: torch.memory_format,
    ) -> dict[str, Any]:  # fmt: skip
        half = x.dtype != torch.float32
        log = log if log.shape == mu.shape and half and log.dtype == x.dtype else log.float()
        return {
            "sizes": [*x.shape, mu.shape[0], *mu.shape[2:], *y.shape[2:], *geometry],
            "channels_last": format_ == LAST,
            "type": TYPES[x.dtype], "precision": self.math.precision, "is_alpha": is_alpha,
            "log_is_float": log.dtype == torch.float32,
            "exp_clip": math.inf if clip == math.inf else math.exp(clip),
            "mu": self._given(m, "mu", last(mu)), "log": self._given(m, "log", last(log.expand(mu.shape))),
            "x": self._image(m, "x", x, format_),
        }  # fmt: skip

    def _note(self, pass_: str, m: Any) -> None:
        self.traffic[pass_] = m.traffic()
        self.kernels |= {record["kernel"] for record in gpu.records()}

    def _given(self, m: Any, name: str, t: Tensor) -> object:
        return m.input(name, misaligned(t, self.offset))

    def _image(self, m: Any, name: str, t: Tensor, format_: torch.memory_format) -> object:
        return self._given(m, name, last(t) if format_ == LAST else t.contiguous())

    def _result(
        self, m: Any, name: str, shape: tuple[int, ...], dtype: torch.dtype, format_: torch.memory_format
    ) -> tuple[Tensor, object]:
        n, c, h, w = shape
        if format_ != LAST:
            made: tuple[Tensor, object] = m.output(name, shape, dtype, self.offset)
            return made
        t, at = m.output(name, (n, h, w, c), dtype, self.offset)
        return t.permute(0, 3, 1, 2), at

    def forward(
        self, x: Tensor, mu: Tensor, log_sigma2: Tensor | None, log_alpha: Tensor | None,
        bias: Tensor | None, seed: Tensor, *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        *geometry, prior, eps, clip = rest
        fake, _, kl = conv_op._fake(x, mu, log_sigma2, log_alpha, bias, seed, *rest)
        format_ = memory_format_of(x, mu)
        log = log_alpha if log_sigma2 is None else log_sigma2
        assert log is not None
        with memory(gpu) as m:
            shared = self._shared(m, x, mu, log, log_sigma2 is None, fake, tuple(geometry), clip, format_)
            y, to_y = self._result(m, "y", tuple(fake.shape), x.dtype, format_)
            r, to_r = self._result(m, "r", tuple(fake.shape), torch.float32, format_)
            arguments = shared | {
                "bias": None if bias is None else m.input("bias", bias.float()), "eps": eps,
                "seed": m.input("seed", seed), "y": to_y, "r": to_r,
            }  # fmt: skip
            size = gpu.conv2d_lrt_forward_workspace(arguments, self.multiprocessors)
            _, workspace = m.output("workspace", (size // 4,), torch.float32)
            gpu.conv2d_lrt_forward(arguments, self.multiprocessors, workspace)
            self._note("forward", m)
        kl.zero_()
        if prior != "none":
            kl = kl_reference.kl(None if log_sigma2 is None else mu, log_sigma2, log_alpha, prior).float()
        return y, r, kl

    def backward(
        self, grad_y: Tensor, grad_kl: Tensor | None, x: Tensor, mu: Tensor, log_sigma2: Tensor | None,
        log_alpha: Tensor | None, r: Tensor, *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        *geometry, prior, clip, needs_x, needs_weight, needs_bias = rest
        format_ = memory_format_of(x, mu)
        log = log_alpha if log_sigma2 is None else log_sigma2
        assert log is not None
        dbias = grad_y.float().sum((0, 2, 3)) if needs_bias else r.new_empty(0)
        number, sd = prior_code(prior) if grad_kl is not None and prior != "none" else (-1, 1.0)
        with memory(gpu) as m:
            shared = self._shared(m, x, mu, log, log_sigma2 is None, grad_y, tuple(geometry), clip, format_)
            dx, to_dx = self._result(m, "dx", tuple(x.shape), x.dtype, format_)
            log_dtype = torch.float32 if shared["log_is_float"] else x.dtype
            dmu, to_dmu = self._result(m, "dmu", tuple(mu.shape), x.dtype, LAST)
            dlog, to_dlog = self._result(m, "dlog", tuple(mu.shape), log_dtype, LAST)
            arguments = shared | {
                "dy": self._image(m, "dy", grad_y.to(x.dtype), format_), "r": self._image(m, "r", r, format_),
                "dx": to_dx if needs_x else None, "dmu": to_dmu if needs_weight else None,
                "dlog": to_dlog if needs_weight else None, "prior": number, "prior_sd": sd,
                "kl_scale": None if grad_kl is None else m.input("kl_scale", grad_kl.float()),
            }  # fmt: skip
            size = gpu.conv2d_lrt_backward_workspace(arguments, self.multiprocessors)
            _, workspace = m.output("workspace", (size // 4,), torch.float32)
            gpu.conv2d_lrt_backward(arguments, self.multiprocessors, workspace)
            self._note("backward", m)
        nothing = x.new_empty(0)
        return (
            dx if needs_x else nothing,
            dmu.contiguous() if needs_weight else nothing,
            dlog.sum_to_size(log.shape).to(log.dtype).contiguous() if needs_weight else nothing,
            dbias,
        )

    def run(self, case: Case, tensors: dict[str, Tensor], grads: tuple[Tensor, ...]) -> dict[str, Tensor]:
        def chosen(op: Any, *_: Any) -> Callable[..., Any]:
            return self.backward if op is conv_op._backward_op else self.forward

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conv_op, "choose", chosen)
            return results(case, tensors, grads)
