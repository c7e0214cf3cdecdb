"""Global memory asked for by the products: exact counts, and what a wave of programs shares."""

from __future__ import annotations

import math

import pytest
import torch

from gpu import traffic
from vdropkern.ops.linear_lrt import tiles
from vdropkern.ops.linear_lrt import triton as kernels

from ..cases import SEED
from . import interpreter
from .interpreter import Launch

TILE = tiles.Tile(16, 32, 16, 4, 2)
F = 4  # bytes


def inputs(batch: int, inp: int, out: int) -> tuple[torch.Tensor, ...]:
    return torch.randn(batch, inp), torch.randn(out, inp) * 0.05, torch.rand(out, inp) - 6


def of(launches: list[Launch], kernel: str) -> Launch:
    (found,) = (launch for launch in launches if launch.kernel == kernel)
    return found


def test_forward(launches: list[Launch]) -> None:
    """x once a column of tiles, mu and log_sigma2 once a row of tiles, y and std once."""
    batch, inp, out = 2 * TILE.m, 3 * TILE.k, 4 * TILE.n
    x, mu, log = inputs(batch, inp, out)
    with tiles.force_tile("forward", TILE):
        kernels.linear_lrt(x, mu, log, None, None, torch.tensor(SEED), "none", 1e-8)
    launch = of(launches, "forward_kernel")
    assert launch.programs == 8
    seeds = 8 * 2 * launch.programs  # an epilogue of two halves
    assert launch.loaded == F * (4 * x.numel() + 2 * 2 * mu.numel()) + seeds
    assert launch.unique == F * (x.numel() + 2 * mu.numel()) + 8
    assert launch.stored == F * 2 * batch * out
    assert launch.flops == 2 * 2 * batch * inp * out


def test_backward(launches: list[Launch]) -> None:
    batch, inp, out = 2 * TILE.m, 2 * TILE.n, 3 * TILE.k
    x, mu, log = inputs(batch, inp, out)
    dy, std = torch.randn(batch, out), torch.rand(batch, out) + 1
    with tiles.force_tile("input_gradient", TILE), tiles.force_tile("weight_gradient", TILE):
        kernels.linear_lrt_backward(
            dy,
            torch.tensor(1.0),
            x,
            mu,
            log,
            None,
            std,
            torch.tensor(SEED),
            "ard",
            math.inf,
            True,
            True,
            True,
        )
    first = of(launches, "output_gradient_kernel")
    assert first.loaded == F * 2 * dy.numel() + 8 * first.programs
    assert first.stored == F * dy.numel() + F * out  # g2, and one partial sum of the bias' gradient
    second = of(launches, "input_gradient_kernel")
    assert second.loaded == F * (2 * 2 * dy.numel() + 2 * 2 * mu.numel() + x.numel())
    assert second.stored == F * x.numel()
    third = of(launches, "weight_gradient_kernel")
    scales = F * 2 * third.programs  # the KL's, by each half
    assert third.loaded == F * (2 * 2 * dy.numel() + 3 * x.numel() + 2 * mu.numel()) + scales
    assert third.stored == F * 2 * mu.numel()


def test_split_parts_are_all_that_is_added(launches: list[Launch]) -> None:
    batch, inp, out = TILE.m, 16 * TILE.k, TILE.n
    x, mu, log = inputs(batch, inp, out)
    with tiles.force_tile("forward", TILE):
        kernels.linear_lrt(x, mu, log, None, None, torch.tensor(SEED), "none", 1e-8)
    one, two = of(launches, "forward_kernel"), of(launches, "finish_forward_kernel")
    assert one.programs == 4
    assert one.loaded == F * (x.numel() + 2 * mu.numel())
    assert one.stored == two.loaded - 8 * two.programs == F * 4 * 2 * batch * out
    assert two.stored == F * 2 * batch * out


def test_waves(launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels' order of tiles is the one that `traffic.waves` reckons with."""
    monkeypatch.setattr(interpreter, "wave", 10)
    batch, inp, out = 11 * TILE.m, TILE.k, 5 * TILE.n
    x, mu, log = inputs(batch, inp, out)
    with tiles.force_tile("forward", TILE):
        kernels.linear_lrt(x, mu, log, None, None, torch.tensor(SEED), "none", 1e-8)
    launch = of(launches, "forward_kernel")
    seeds = 8 * math.ceil(launch.programs / 10)
    row, column = F * TILE.m * inp, 2 * F * TILE.n * inp
    assert launch.waves == traffic.waves(11, 5, TILE.group, 10, row, column) + seeds


@pytest.mark.parametrize("architecture", traffic.PROCESSORS)
@pytest.mark.parametrize("product", tiles.PRODUCTS)
def test_waves_of_shipped_tiles(product: str, architecture: str) -> None:
    """Every tile, on the problem it is meant for."""
    for arithmetic in tiles.ARITHMETIC:
        for entry in tiles.table(architecture)[product][arithmetic]:
            ratio = traffic.of_tile(architecture, product, arithmetic, entry.tile, entry.shape)
            assert ratio <= traffic.LIMIT, (arithmetic, entry)
