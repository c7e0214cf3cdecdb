"""The registry of op cases: inputs by name and shape.

A case names a function of `vdropkern.functional`, the tensors it gets and how they are filled, and its other
arguments. `make` draws the tensors for any dtype and device, the same numbers every time. Sizes are odd on
purpose: they leave a remainder in every direction a kernel blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vdropkern import functional
from vdropkern.ops.kl import LOG_ALPHA_PRIORS

SEED = 0x1234_5678_9ABC_DEF1
LAYOUTS = ("contiguous", "transposed", "sliced", "strided", "expanded", "scalar")

Fill = Callable[[tuple[int, ...], torch.Generator], Tensor]


def _normal(scale: float) -> Fill:
    return lambda shape, g: torch.randn(shape, generator=g, dtype=torch.float64) * scale


def _uniform(low: float, high: float) -> Fill:
    return lambda shape, g: torch.rand(shape, generator=g, dtype=torch.float64) * (high - low) + low


def _away_from_zero(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    w = torch.randn(shape, generator=g, dtype=torch.float64) * 0.05
    return w + 0.02 * torch.where(w < 0, -1.0, 1.0)


def _constant(value: float) -> Fill:
    return lambda shape, _: torch.full(shape, value, dtype=torch.float64)


def _dead_rows(shape: tuple[int, ...], g: torch.Generator) -> Tensor:
    """ReLU-like activations; every other row is zero, so its variance is eps alone."""
    x = torch.randn(shape, generator=g, dtype=torch.float64).relu()
    x[..., ::2, :] = 0
    return x


def _cycle(*values: float) -> Fill:
    def fill(shape: tuple[int, ...], _: torch.Generator) -> Tensor:
        n = int(torch.Size(shape).numel())
        return torch.tensor(values, dtype=torch.float64).repeat(n // len(values) + 1)[:n].reshape(shape)

    return fill


FILLS: dict[str, Fill] = {
    "normal": _normal(1.0),
    "weight": _normal(0.05),
    "weight>.02": _away_from_zero,
    "log_sigma2": _uniform(-10.0, -2.0),  # with "weight": log_alpha on both sides of 0 and of 3
    "log_sigma2<-8": _uniform(-14.0, -8.0),  # with "weight>.02": alpha < 1
    "log_alpha<0": _uniform(-6.0, 0.0),
    "zeros": _constant(0.0),
    "dead_rows": _dead_rows,
    "log_sigma2 grid": _cycle(-20.0, -15.0, -10.0, -5.0, 0.0, 4.0, -20.0),
    "weight grid": _cycle(0.0, 1e-20, -1e-6, 1e-4, -1e-2, 1.0, 0.0, 10.0, -3.0),
    "log_alpha grid": _cycle(-60.0, -20.0, -8.0, 0.0, 3.0, 8.0, 30.0, -1e-4),
    "bias -1000": _constant(-1000.0),
}


@dataclass(frozen=True, eq=False)
class Case:
    """Inputs of one call. `tensors` maps an argument to (shape, fill); `options` are the other arguments."""

    op: str
    name: str
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.op}-{self.name}"

    @property
    def noisy(self) -> bool:
        return self.op.startswith(("linear_lrt", "conv2d_lrt"))

    @property
    def with_kl(self) -> bool:
        return self.op.endswith("kl")

    def make(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        noise_dtype: torch.dtype | None = None,
    ) -> dict[str, Tensor]:
        """Draw the tensors.

        Args:
            dtype: of every tensor, but
            noise_dtype: of log_sigma2, log_alpha and bias, where it differs (None: it does not).
        """
        generator = torch.Generator().manual_seed(zlib.crc32(self.id.encode()))
        made = {}
        for argument, (shape, fill) in self.tensors.items():
            own = noise_dtype if noise_dtype and argument in ("log_sigma2", "log_alpha", "bias") else dtype
            made[argument] = FILLS[fill](shape, generator).to(device=device, dtype=own)
        return made

    def call(self, tensors: Mapping[str, Tensor], **options: Any) -> tuple[Tensor, ...]:
        """Run the op on `tensors`; `options` override the case's own."""
        arguments = {**tensors, **({"seed": SEED} if self.noisy else {}), **self.options, **options}
        result = getattr(functional, self.op)(**arguments)
        return result if isinstance(result, tuple) else (result,)

    def __str__(self) -> str:
        return self.id


def leaves(case: Case, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of a case, each asking for its gradient."""
    return {k: t.requires_grad_() for k, t in case.make(dtype).items()}


def lay_out(t: Tensor, layout: str) -> Tensor:
    """A tensor of t's shape with other strides, as a view into memory that is NaN everywhere else.

    ``transposed``, ``sliced`` (with an offset that breaks alignment) and ``strided`` keep t's values;
    ``expanded`` repeats its first row (stride 0), ``scalar`` its first element (all strides 0);
    ``channels_last``, not among `LAYOUTS`, is for images.
    """
    if layout == "contiguous" or t.numel() == 0 or t.ndim == 0:
        return t.contiguous()
    if layout == "transposed":
        return t.mT.contiguous().mT if t.ndim > 1 else lay_out(t, "strided")
    if layout == "channels_last":
        return t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t.contiguous()
    if layout == "sliced":
        padded = t.new_full([n + 3 for n in t.shape], torch.nan)
        view = padded[tuple(slice(1, 1 + n) for n in t.shape)]
        return view.copy_(t)
    if layout == "strided":
        return t.new_full((*t.shape[:-1], 2 * t.shape[-1] + 1), torch.nan)[..., 1::2].copy_(t)
    if layout == "expanded":
        return t[:1].clone().expand(t.shape)
    if layout == "scalar":
        return t.reshape(-1)[:1].clone().reshape([1] * t.ndim).expand(t.shape)
    raise ValueError(f"lay_out: unknown layout {layout!r}; accepted: {', '.join(LAYOUTS)}")


def linear(
    name: str,
    batch: tuple[int, ...],
    inp: int,
    out: int,
    *,
    op: str = "linear_lrt",
    bias: bool = True,
    log_alpha: tuple[int, ...] | None = None,
    fills: Mapping[str, str] | None = None,
    **options: Any,
) -> Case:
    """A case of `linear_lrt` or `linear_lrt_kl` with x [*batch, inp] and mu [out, inp]."""
    tensors = {"x": ((*batch, inp), "normal"), "mu": ((out, inp), "weight")}
    if log_alpha is None:
        tensors["log_sigma2"] = ((out, inp), "log_sigma2")
    else:
        tensors["log_alpha"] = (log_alpha, "log_alpha<0")
    if bias:
        tensors["bias"] = ((out,), "normal")
    for argument, fill in (fills or {}).items():
        tensors[argument] = (tensors[argument][0], fill)
    return Case(op, name, tensors, options)


def _linear_shapes() -> Iterator[Case]:
    yield linear("odd", (5,), 37, 11)
    yield linear("even", (16,), 64, 32)
    yield linear("one_row", (1,), 19, 7)
    yield linear("in1", (6,), 1, 9)
    yield linear("out1", (7,), 13, 1)
    yield linear("all_ones", (1,), 1, 1)
    yield linear("vector", (), 12, 5)
    yield linear("leading", (2, 3, 4), 10, 6)
    yield linear("empty_batch", (0,), 8, 5)
    yield linear("empty_leading", (2, 0, 3), 8, 5)
    yield linear("in0", (4,), 0, 5)
    yield linear("out0", (4,), 6, 0)
    yield linear("no_bias", (9,), 21, 10, bias=False)
    yield linear("long_sum", (9,), 4099, 6)
    yield linear("wide_out", (3,), 17, 1031)
    yield linear("tall_batch", (1030,), 11, 9)
    yield linear("blocked", (67,), 515, 259)


def _linear_log_alpha() -> Iterator[Case]:
    for shape in ((), (1,), (37,), (1, 37), (11,), (11, 1), (11, 37)):
        yield linear(f"log_alpha[{'x'.join(map(str, shape))}]", (5,), 37, 11, log_alpha=shape)
    yield linear("log_alpha[1x18]-square", (6,), 18, 18, log_alpha=(1, 18))
    yield linear("log_alpha[18x1]-square", (6,), 18, 18, log_alpha=(18, 1), bias=False)
    yield linear("log_alpha-blocked", (65,), 259, 131, log_alpha=(131, 259))
    yield linear("log_alpha[5]-empty_batch", (0,), 8, 5, log_alpha=(5,))


def _linear_kl() -> Iterator[Case]:
    for prior in (*functional.PRIORS, "normal(0.1)"):
        fills = {"mu": "weight>.02", "log_sigma2": "log_sigma2<-8"} if prior == "log-uniform-kingma" else {}
        yield linear(f"odd-{prior}", (5,), 37, 11, op="linear_lrt_kl", fills=fills, prior=prior)
        if prior not in LOG_ALPHA_PRIORS:
            continue
        free = {"log_alpha": (10, 21), "prior": prior, "bias": False}
        yield linear(f"log_alpha-{prior}", (5,), 21, 10, op="linear_lrt_kl", **free)
    yield linear("blocked", (67,), 515, 259, op="linear_lrt_kl")
    yield linear("empty_batch", (0,), 8, 5, op="linear_lrt_kl", prior="ard")
    yield linear("leading", (2, 3), 9, 7, op="linear_lrt_kl")


def _linear_extreme() -> Iterator[Case]:
    grid = {"x": "dead_rows", "mu": "weight grid", "log_sigma2": "log_sigma2 grid"}
    for prior in ("log-uniform", "log-uniform-exact", "ard", "normal"):
        yield linear(f"extreme-{prior}", (8,), 63, 20, op="linear_lrt_kl", fills=grid, prior=prior)
    yield linear("extreme-x0", (4,), 9, 8, fills={**grid, "x": "zeros"})
    yield linear("extreme-mu0", (4,), 9, 8, op="linear_lrt_kl", fills={**grid, "mu": "zeros"})
    yield linear("extreme-bias", (6,), 13, 8, fills={**grid, "bias": "bias -1000"})
    yield linear("extreme-mu0-log_alpha", (4,), 9, 8, log_alpha=(8, 9), fills={"mu": "zeros"})
    del grid["log_sigma2"]
    yield linear("extreme-log_alpha", (8,), 21, 10, log_alpha=(10, 21), fills=grid)


def _linear_clip() -> Iterator[Case]:
    for name, clip in (("some", 2.0), ("all", -20.0), ("none", 20.0)):
        yield linear(f"clip-{name}", (5,), 37, 11, op="linear_lrt_kl", clip_log_alpha=clip)
    yield linear("clip-blocked", (67,), 515, 259, clip_log_alpha=2.0)
    for shape in ((11, 37), (37,), (11,)):
        name = "x".join(map(str, shape))
        yield linear(f"clip-log_alpha[{name}]", (5,), 37, 11, log_alpha=shape, clip_log_alpha=-3.0)


def kl_case(name: str, shape: tuple[int, ...], prior: str, *, free: bool = False, fills: str = "") -> Case:
    """A case of `kl` with mu and log_sigma2 of `shape`, or with a free log_alpha."""
    if free:
        return Case("kl", name, {"log_alpha": (shape, fills or "log_alpha<0")}, {"prior": prior})
    mu, log_sigma2 = "weight", "log_sigma2"
    if prior == "log-uniform-kingma":  # a cubic in alpha, meant for alpha <= 1
        mu, log_sigma2 = "weight>.02", "log_sigma2<-8"
    if fills:
        mu, log_sigma2 = f"weight {fills}", f"log_sigma2 {fills}"
    return Case("kl", name, {"mu": (shape, mu), "log_sigma2": (shape, log_sigma2)}, {"prior": prior})


def _kl() -> Iterator[Case]:
    for prior in (*functional.PRIORS, "normal(0.1)"):
        yield kl_case(f"odd-{prior}", (11, 37), prior)
        if prior in LOG_ALPHA_PRIORS:
            yield kl_case(f"free-{prior}", (37,), prior, free=True)
        if prior != "log-uniform-kingma":
            yield kl_case(f"extreme-{prior}", (21, 12), prior, fills="grid")
        if prior in LOG_ALPHA_PRIORS and prior != "log-uniform-kingma":
            yield kl_case(f"extreme-free-{prior}", (33,), prior, free=True, fills="log_alpha grid")
    yield kl_case("scalar", (), "log-uniform", free=True)
    yield kl_case("one", (1,), "ard")
    yield kl_case("empty", (0, 5), "log-uniform")
    yield kl_case("conv", (4, 3, 3, 3), "log-uniform")
    yield kl_case("large", (257, 1029), "log-uniform")


def _by_id(cases: Iterator[Case]) -> dict[str, Case]:
    made: dict[str, Case] = {}
    for case in cases:
        assert case.id not in made, f"two cases are called {case.id}"
        made[case.id] = case
    return made


def _all() -> Iterator[Case]:
    from .conv_cases import conv_cases  # which builds on this module

    for family in (
        _linear_shapes,
        _linear_log_alpha,
        _linear_kl,
        _linear_extreme,
        _linear_clip,
        _kl,
        conv_cases,
    ):
        yield from family()


CASES = _by_id(_all())


def select(*prefixes: str) -> list[Case]:
    """The test cases whose id starts with one of `prefixes`, in order."""
    return [case for key, case in CASES.items() if key.startswith(prefixes)]
