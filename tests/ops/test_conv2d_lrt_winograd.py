"""conv2d_lrt by Winograd's F(4x4, 3x3): 3x3 kernels of stride 1, float32, on enough channels."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.cases import lay_out
from vdropkern import functional

RMS = 1e-5  # what is promised of every mean, variance and gradient, relative to its own size
EPS = 1e-8
SEED = 7
LAYOUTS = ["contiguous", "channels_last"]


class Problem(NamedTuple):
    x: Tensor  # [N, C, H, W]
    mu: Tensor  # [O, C, 3, 3]
    log_sigma2: Tensor  # [O, C, 3, 3]
    bias: Tensor  # [O]
    dy: Tensor  # [N, O, H + 2 ph - 2, W + 2 pw - 2]
    padding: tuple[int, int]


class Results(NamedTuple):
    y: Tensor
    r: Tensor
    dx: Tensor
    dmu: Tensor
    dlog: Tensor
    dbias: Tensor


def make(
    n: int, c: int, h: int, w: int, o: int, padding: tuple[int, int] = (1, 1), layout: str = "contiguous"
) -> Problem:
    dy = torch.randn(n, o, h + 2 * padding[0] - 2, w + 2 * padding[1] - 2)
    x = torch.randn(n, c, h, w)
    mu, log_sigma2 = torch.randn(o, c, 3, 3) * 0.1, torch.randn(o, c, 3, 3) - 6
    return Problem(lay_out(x, layout), mu, log_sigma2, torch.randn(o), lay_out(dy, layout), padding)


def run(p: Problem) -> Results:
    """The op and the op its backward calls."""
    geometry = (1, 1, *p.padding, 1, 1, 1)
    y, r, _ = torch.ops.vdropkern.conv2d_lrt(
        p.x, p.mu, p.log_sigma2, None, p.bias, torch.tensor([SEED]), *geometry, "none", EPS, float("inf")
    )
    gradients = torch.ops.vdropkern.conv2d_lrt_backward(
        p.dy, None, p.x, p.mu, p.log_sigma2, None, r, *geometry, "none", float("inf"), True, True, True
    )
    return Results(y, r, *gradients)


def exact(p: Problem) -> tuple[Results, Tensor, Tensor]:
    """The truth in float64, differentiated by autograd, with its mean and variance."""
    x, mu, log_sigma2, bias = (t.double().requires_grad_() for t in p[:4])
    mean = F.conv2d(x, mu, padding=p.padding)
    variance = F.conv2d(x**2, log_sigma2.exp(), padding=p.padding)
    e = functional.philox_normal(SEED, *mean.flatten(2).flatten(0, 1).shape, torch.float64).view_as(mean)
    std = (variance + EPS).sqrt()
    y = mean + bias[:, None, None] + std * e
    gradients = torch.autograd.grad(y, (x, mu, log_sigma2, bias), p.dy.double())
    return Results(y.detach(), (e / (2 * std)).detach(), *gradients), mean.detach(), variance.detach()


def rms(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def check(p: Problem) -> Results:
    """Every result within `RMS` of the truth, and the mean and the variance that went into y and r too."""
    found, (expected, mean, variance) = run(p), exact(p)
    live = variance > 0
    e = expected.r * 2 * (variance + EPS).sqrt()
    errors = {
        name: rms(getattr(found, name), getattr(expected, name)) for name in ("dx", "dmu", "dlog", "dbias")
    }
    found_mean = found.y.double() - p.bias.double()[:, None, None] - (variance + EPS).sqrt() * e
    errors["mean"] = rms(found_mean[live], mean[live])
    told = live & (e.abs() > 0.1) & (found.r != 0)  # where r tells the variance
    errors["variance"] = rms((e[told] / (2 * found.r[told])) ** 2, variance[told] + EPS)
    assert max(errors.values()) <= RMS, errors
    assert found.y.is_contiguous(memory_format=layout_of(p.x))
    return found


def layout_of(x: Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last


SHAPES = {
    "whole": (2, 16, 8, 8, 16, (1, 1)),
    "odd": (3, 20, 7, 9, 35, (1, 1)),
    "14x14": (3, 64, 14, 14, 48, (1, 1)),
    "7x7": (5, 33, 7, 7, 70, (1, 1)),
    "valid": (2, 17, 9, 6, 16, (0, 0)),
    "few-channels": (2, 9, 11, 10, 8, (1, 1)),
    "one-tile": (9, 16, 3, 3, 16, (1, 1)),
    "one-pixel": (1, 17, 1, 1, 18, (1, 1)),  # too little: implicit GEMM
    "two-rows": (4, 16, 2, 37, 16, (1, 1)),
    "wide": (2, 16, 5, 150, 16, (2, 0)),
    "more-padding": (2, 16, 6, 5, 16, (4, 3)),
    "parts": (3, 24, 53, 45, 16, (1, 2)),  # the tiles' sums in several groups and parts
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_size_and_padding(shape: str, layout: str, backend: str) -> None:
    check(make(*SHAPES[shape], layout))


@pytest.mark.parametrize("tap", range(9))
def test_each_tap_shifts(tap: int, backend: str) -> None:
    """A weight of one tap moves the image, and its gradient moves it back: by one rule."""
    p = make(2, 16, 10, 7, 16)
    dy, dx = tap // 3 - 1, tap % 3 - 1
    mu = torch.zeros(16, 16, 3, 3)
    mu[range(16), range(16), tap // 3, tap % 3] = 1
    found = run(p._replace(mu=mu, log_sigma2=torch.full_like(mu, -80.0), bias=torch.zeros(16)))
    padded = F.pad(p.x, (1, 1, 1, 1))
    shifted = padded[:, :, 1 + dy : 11 + dy, 1 + dx : 8 + dx]
    torch.testing.assert_close(found.y, shifted, rtol=1e-4, atol=2e-3)  # sqrt(eps) e is left of the noise
    back = F.pad(p.dy, (1, 1, 1, 1))[:, :, 1 - dy : 11 - dy, 1 - dx : 8 - dx]
    torch.testing.assert_close(found.dx, back, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        found.dmu[:, :, tap // 3, tap % 3], torch.einsum("nohw,nchw->oc", p.dy, shifted), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pattern", ["pixels", "blocks", "relu", "one-alive"])
def test_dead_receptive_fields(pattern: str, layout: str, backend: str) -> None:
    """Half of the inputs exactly 0: no dust where a window sees nothing else, no smear around it."""
    p = make(4, 32, 15, 18, 24, (1, 1), layout)
    shape = (4, 1, 15, 18)
    keep = {
        "pixels": torch.rand(shape) > 0.5,
        "blocks": F.interpolate((torch.rand(4, 1, 4, 5) > 0.5).float(), (15, 18)) > 0,
        "relu": p.x > 0,
        "one-alive": torch.arange(15 * 18).view(15, 18).expand(shape) == 100,
    }[pattern]
    p = p._replace(x=p.x * keep)
    found = check(p)
    dead = F.conv2d(p.x.double() ** 2, torch.ones(24, 32, 3, 3).double(), padding=1) == 0
    if pattern in ("blocks", "one-alive"):
        assert dead.any()
    if backend != "reference":
        assert (found.r[dead] == 0).all()
    e = functional.philox_normal(SEED, 4 * 24, 15 * 18, torch.float64).view_as(found.y)
    error = (found.y.double() - p.bias[:, None, None])[dead] - EPS**0.5 * e[dead]
    assert (error.abs() <= EPS**0.5 * (1 + e[dead].abs())).all()


@pytest.mark.parametrize("scale", [1e-4, 1e-2])
def test_faint_beside_bright(scale: float, backend: str) -> None:
    """Halves of an image of very different size share tiles: the gradients stay right."""
    p = make(3, 16, 13, 14, 16)
    p.x[..., 7:] *= scale
    found, (expected, *_) = run(p), exact(p)
    for name in ("y", "dx", "dmu", "dlog"):
        assert rms(getattr(found, name), getattr(expected, name)) <= 1e-4, name


def test_no_inputs_at_all(backend: str) -> None:
    p = make(2, 16, 9, 9, 16)
    found = run(p._replace(x=torch.zeros_like(p.x)))
    assert all(torch.isfinite(t).all() for t in found)
    assert (found.dmu == 0).all() and (found.dlog == 0).all()


@pytest.mark.parametrize("shape", ["odd", "parts"])
def test_memory_format_changes_nothing(shape: str, backend: str) -> None:
    if backend == "reference":
        pytest.skip("ATen's own affair")
    p = make(*SHAPES[shape])
    one, other = run(p), run(p._replace(x=lay_out(p.x, "channels_last"), dy=lay_out(p.dy, "channels_last")))
    for name in ("y", "r", "dx", "dmu", "dlog"):
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("shape", [(9, 40, 17, 16, 50), (2, 16, 90, 85, 20), (3, 16, 7, 7, 140)], ids=str)
@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(shape: tuple[int, int, int, int, int], backend: str) -> None:
    if backend == "reference":
        pytest.skip("ATen's own affair")
    p = make(*shape)
    torch.set_num_threads(1)
    alone = run(p)
    for count in (2, 5):
        torch.set_num_threads(count)
        for name, a, b in zip(Results._fields, alone, run(p), strict=True):
            assert torch.equal(a, b), (name, count)


def test_images_of_a_block_are_apart(backend: str) -> None:
    """Small images share a block of tiles; each gets what it gets alone."""
    if backend == "reference":
        pytest.skip("ATen's own affair")
    p = make(7, 16, 7, 7, 24)
    together = run(p)
    for i in range(7):
        only = slice(i, i + 1)
        dx, *_ = torch.ops.vdropkern.conv2d_lrt_backward(
            p.dy[only], None, p.x[only], p.mu, p.log_sigma2, None, together.r[only],
            1, 1, 1, 1, 1, 1, 1, "none", float("inf"), True, False, False,
        )  # fmt: skip
        assert torch.equal(dx, together.dx[only])
    p.x[3] = torch.nan
    spoilt = run(p)
    others = [0, 1, 2, 4, 5, 6]
    assert torch.equal(spoilt.y[others], together.y[others])
    assert spoilt.y[3].isnan().all()
