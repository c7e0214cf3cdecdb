"""The cases of `conv2d_lrt` and `conv2d_lrt_kl`, part of the registry in `cases.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vdropkern import functional

from .cases import Case


def conv(
    name: str,
    x: tuple[int, int, int, int],
    out: int,
    kernel: tuple[int, int],
    *,
    op: str = "conv2d_lrt",
    bias: bool = True,
    log_alpha: tuple[int, ...] | None = None,
    fills: Mapping[str, str] | None = None,
    **options: Any,
) -> Case:
    """A case with x [N, C, H, W] and mu [out, C / groups, *kernel]."""
    mu = (out, x[1] // options.get("groups", 1), *kernel)
    tensors = {"x": (x, "normal"), "mu": (mu, "weight")}
    if log_alpha is None:
        tensors["log_sigma2"] = (mu, "log_sigma2")
    else:
        tensors["log_alpha"] = (log_alpha, "log_alpha<0")
    if bias:
        tensors["bias"] = ((out,), "normal")
    for argument, fill in (fills or {}).items():
        tensors[argument] = (tensors[argument][0], fill)
    return Case(op, name, tensors, options)


def _shapes() -> Iterator[Case]:
    yield conv("odd", (3, 5, 7, 11), 9, (3, 3), padding=1)
    yield conv("valid", (2, 3, 6, 5), 4, (3, 2), padding="valid")
    yield conv("same-even", (2, 3, 6, 5), 4, (4, 3), padding="same")
    yield conv("pad2", (2, 4, 5, 9), 6, (3, 3), padding=2)
    yield conv("1x1", (2, 37, 5, 7), 21, (1, 1))
    yield conv("1x1-stride2", (2, 9, 7, 8), 5, (1, 1), stride=2)
    yield conv("stride2", (2, 5, 9, 12), 7, (3, 3), stride=2, padding=1)
    yield conv(
        "stride3x1-dilation2x3", (2, 3, 13, 11), 6, (3, 2), stride=(3, 1), padding=(2, 0), dilation=(2, 3)
    )
    yield conv("stride-skips-inputs", (2, 3, 10, 9), 4, (2, 2), stride=4, bias=False)
    yield conv("stride2-dilation2", (2, 3, 9, 9), 4, (3, 3), stride=2, dilation=2, padding=2)
    yield conv("groups", (2, 6, 5, 7), 4, (3, 3), groups=2, padding=1)
    yield conv("groups-of-8", (2, 24, 5, 7), 30, (3, 3), groups=3, padding=1)
    yield conv("depthwise", (2, 19, 6, 7), 19, (3, 3), groups=19, padding=1)
    yield conv("depthwise-x2-stride2", (2, 5, 9, 8), 10, (5, 3), groups=5, stride=2, padding=(2, 1))
    yield conv("kernel-is-image", (3, 4, 5, 6), 8, (5, 6))
    yield conv("one-channel", (2, 1, 9, 10), 3, (5, 5))
    # one channel of inputs is a plane in either layout
    yield conv("one-channel-to-many", (5, 1, 19, 28), 20, (5, 5))
    yield conv("one-channel-padded", (3, 1, 9, 10), 21, (5, 4), padding=(4, 2))
    yield conv("one-channel-stride", (2, 1, 13, 29), 18, (4, 3), stride=(2, 3), padding=1, dilation=(1, 2))
    yield conv("one-channel-groups", (2, 2, 9, 21), 42, (5, 5), groups=2, padding=1)
    yield conv("short-lines", (4, 2, 11, 12), 19, (7, 3), padding=(0, 1))
    yield conv("all_ones", (1, 1, 1, 1), 1, (1, 1))
    yield conv("row", (2, 5, 1, 43), 6, (1, 5), padding=(0, 2))
    yield conv("empty_batch", (0, 3, 5, 5), 4, (3, 3), padding=1)
    yield conv("blocked", (3, 70, 9, 13), 137, (3, 3), padding=1)
    yield conv("blocked-valid", (2, 67, 11, 10), 33, (3, 3))
    yield conv("blocked-pad2", (2, 19, 6, 7), 18, (3, 3), padding=2)
    yield conv("blocked-tiny-image", (2, 17, 1, 2), 16, (3, 3), padding=1)
    # input gradients from columns: many images, an image in several parts, channels in blocks
    yield conv("columns-stride2", (65, 9, 9, 11), 24, (3, 3), stride=2, padding=1)
    yield conv("columns-valid", (17, 5, 17, 16), 18, (5, 5), padding="valid")
    yield conv("columns-groups", (5, 70, 13, 12), 140, (7, 7), groups=2, padding=(2, 4), dilation=(1, 2))
    yield conv("long_sum", (1, 260, 4, 5), 3, (3, 3), padding=1)


def _log_alpha() -> Iterator[Case]:
    for shape in ((), (4,), (5,), (1, 4, 1, 1), (5, 1, 1, 1), (1, 1, 3, 1), (5, 4, 3, 3)):
        name = "x".join(map(str, shape))
        yield conv(f"log_alpha[{name}]", (2, 4, 5, 6), 5, (3, 3), padding=1, log_alpha=shape)
    yield conv("log_alpha-blocked", (2, 67, 9, 7), 43, (2, 3), log_alpha=(43, 67, 2, 3), stride=2)


def _kl() -> Iterator[Case]:
    for prior in functional.PRIORS:
        fills = {"mu": "weight>.02", "log_sigma2": "log_sigma2<-8"} if prior == "log-uniform-kingma" else {}
        yield conv(f"odd-{prior}", (2, 5, 7, 6), 9, (3, 3), op="conv2d_lrt_kl", fills=fills, prior=prior)
    free = {"log_alpha": (10, 3, 2, 2), "prior": "ard", "bias": False}
    yield conv("log_alpha-ard", (2, 3, 5, 6), 10, (2, 2), op="conv2d_lrt_kl", stride=2, **free)
    yield conv("empty_batch", (0, 3, 5, 5), 4, (3, 3), op="conv2d_lrt_kl")
    for name, clip in (("some", 2.0), ("all", -20.0)):
        yield conv(f"clip-{name}", (2, 5, 6, 7), 11, (3, 3), op="conv2d_lrt_kl", clip_log_alpha=clip)
    yield conv("clip-log_alpha", (2, 4, 5, 6), 5, (3, 3), log_alpha=(5,), clip_log_alpha=-3.0)


def _extreme() -> Iterator[Case]:
    grid = {"x": "dead_rows", "mu": "weight grid", "log_sigma2": "log_sigma2 grid"}
    for prior in ("log-uniform", "log-uniform-exact", "ard"):
        yield conv(f"extreme-{prior}", (2, 7, 8, 9), 10, (3, 3), op="conv2d_lrt_kl", fills=grid, prior=prior)
    yield conv("extreme-x0", (2, 3, 5, 4), 8, (3, 3), fills={**grid, "x": "zeros"}, padding=1)
    yield conv("extreme-bias", (2, 3, 5, 4), 8, (2, 2), fills={**grid, "bias": "bias -1000"})


def conv_cases() -> Iterator[Case]:
    for family in (_shapes, _log_alpha, _kl, _extreme):
        yield from family()
