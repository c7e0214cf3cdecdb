"""`multi_sample_head` in Triton, by the tests of tests/ops, in every arithmetic; what its products load."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from gpu import traffic
from vdropkern import use_backend, use_precision
from vdropkern.ops._bands import band_of, waves
from vdropkern.ops.multi_sample_head import tiles
from vdropkern.ops.multi_sample_head import triton as kernels

from ..cases import SEED, lay_out
from ..ops import test_multi_sample_head as shared
from ..ops.test_multi_sample_head import OPTIONS, check, classes_of, made
from . import interpreter
from .interpreter import Launch
from .test_linear_lrt import ROUNDOFF

# one, two and four samples of a word in a program, classes within a tile and beyond it, ragged everywhere
SHAPES = [(4, 5, 3, 1), (5, 37, 11, 2), (7, 64, 10, 8), (3, 130, 1, 5), (5, 20, 70, 3), (18, 70, 140, 4)]
FEW = SHAPES[1], SHAPES[4]


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    with use_backend("triton"):
        yield


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_explicit_passes(shape: tuple[int, ...]) -> None:
    *sizes, samples = shape
    check(made(*sizes, dtype=torch.float32), samples, {})


@pytest.mark.parametrize("options", list(OPTIONS.values())[1:], ids=list(OPTIONS)[1:])
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_options(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    *sizes, samples = shape
    check(made(*sizes, dtype=torch.float32), samples, classes_of(options, sizes[2], torch.float32))


@pytest.mark.parametrize("options", ["plain", "weighted", "weighted-none"])
def test_classes_in_parts(options: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More classes than the kernel of losses holds at once: each row is read twice."""
    monkeypatch.setattr(kernels, "WHOLE_ROW", 32)
    check(made(3, 20, 90, torch.float32), 3, classes_of(OPTIONS[options], 90, torch.float32))


def products(rows: int, samples: int, precision: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Loss and gradients of one head."""
    t = made(rows, 70, 80, dtype)
    with use_precision(mean=precision):
        return shared.results(t, samples, torch.tensor(1.0), {})


# half types have one arithmetic, which rounds explicitly
@pytest.mark.parametrize(
    "precision, dtype, truncate",
    [("tf32x3", torch.float32, False), ("tf32x3", torch.float32, True), ("tf32", torch.float32, False),
     ("tf32", torch.float32, True), ("tf32", torch.float16, False), ("tf32", torch.bfloat16, False)],
)  # fmt: skip
def test_arithmetic(
    precision: str, dtype: torch.dtype, truncate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Off by no more than operands are rounded, and by more than if none were."""
    monkeypatch.setattr(interpreter, "truncate_tf32", truncate)
    found = products(9, 4, precision, dtype)
    t = made(9, 70, 80, dtype)
    expected = shared.explicit(t, 4, torch.tensor(1.0), {})
    unit = ROUNDOFF[precision]
    h, w = t["h"].double().abs() * 2, t["weight"].double().abs()
    of_softmax = 2.0**-9 if dtype == torch.bfloat16 else 2.0**-12 if dtype == torch.float16 else 0
    sizes = {
        "loss": (h @ w.T).max(),
        "d_h": (w.sum(0) / 9 * (1 + (h @ w.T).max())).expand_as(t["h"]),
        "d_weight": (h.mean(0) * (1 + (h @ w.T).max())).expand_as(t["weight"]),
        "d_bias": 1 + (h @ w.T).max(),
    }
    for name, value in expected.items():
        allowed = 4 * unit * sizes[name] + 2 * of_softmax * value.abs() + 1e-6 * sizes[name]
        error = (found[name].double() - value).abs()
        assert (error <= allowed).all(), (name, (error / allowed).max())
    if precision == "tf32" and dtype == torch.float32:
        assert (found["d_weight"].double() - expected["d_weight"]).abs().max() > unit / 100 * h.mean()


@pytest.mark.parametrize("layout", ["transposed", "expanded"])
def test_strided(layout: str) -> None:
    t = made(7, 40, 11, torch.float32)
    check(t | {k: lay_out(v, layout) for k, v in t.items() if k != "target"}, 3, {})


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_extreme_logits_are_finite(scale: float) -> None:
    shared.test_extreme_logits_are_finite(scale, "triton")


def test_nan_is_not_swallowed() -> None:
    shared.test_nan_is_not_swallowed("triton")


def test_a_batch_of_nothing() -> None:
    shared.test_a_batch_of_nothing(4, "triton")


def test_only_asked_gradients() -> None:
    shared.test_only_asked_gradients("triton")


def test_one_sample_is_dropout() -> None:
    shared.test_one_sample_is_dropout(torch.float32, "triton")


def test_everything_ignored_and_no_class() -> None:
    """A mean of nothing is NaN, its gradients 0, as torch has it; no class, NaN in its row."""
    t = made(4, 9, 5, torch.float32)
    t["target"] = torch.full((4,), -100)
    found = shared.results(t, 4, torch.tensor(1.0), {})
    assert found["loss"].isnan() and all((found[f"d_{k}"] == 0).all() for k in ("h", "weight", "bias"))
    t["target"] = torch.tensor([1, 5, -1, 2])
    loss = shared.results(t, 4, torch.ones(4), {"reduction": "none"})["loss"]
    assert loss.isnan().tolist() == [False, True, True, False]


def test_same_bits_again_and_parts(launches: list[Launch]) -> None:
    """dW in two parts, added in order."""
    t = made(65, 12, 10, torch.float32)
    first, second = (shared.results(t, 2, torch.tensor(1.0), {}) for _ in range(2))
    assert all(torch.equal(a, second[name]) for name, a in first.items())
    programs = [launch.programs for launch in launches if launch.kernel == "head_weight_gradient_kernel"]
    assert programs == [2, 2]


def test_what_does_not_fit_is_refused() -> None:
    given = (None, torch.zeros(3).long(), None, torch.tensor(SEED), 2, 0.5, "mean", -100, 0.0, True, True)
    with pytest.raises(TypeError, match="multi_sample_head: the Triton kernels compute in float32"):
        kernels.multi_sample_head(torch.randn(3, 2).double(), torch.randn(2, 2), *given)
    with pytest.raises(ValueError, match="multi_sample_head: there are no classes"):
        kernels.multi_sample_head(torch.randn(3, 2), torch.randn(0, 2), *given)


def of(launches: list[Launch], kernel: str) -> Launch:
    (found,) = (launch for launch in launches if launch.kernel == kernel)
    return found


def test_traffic(launches: list[Launch], monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands once a tile that multiplies them, logits once there and back, results once.

    The order of tiles, and who shares rows of h, are what `traffic.of_head` reckons with.
    """
    monkeypatch.setattr(interpreter, "wave", 3)
    monkeypatch.setattr(kernels, "MAX_PARTS", 1)
    shared.results(made(32, 128, 128, torch.float32), 8, torch.tensor(1.0), {})
    h, w, slots = 4 * 32 * 128, 4 * 128 * 128, 32 * 8
    product = of(launches, "head_logits_kernel")
    assert product.programs == 2 * 2 * 2
    assert product.loaded == 2 * 2 * h + 4 * w + 8 * (4 * 64) + 8 * 8 * (128 // 16)
    assert product.unique == h + w + 4 * 128 + 8
    assert product.stored == 4 * slots * 128
    losses = of(launches, "head_loss_kernel")
    assert losses.stored == 4 * slots * (128 + 1)
    assert losses.loaded == 4 * slots * 128 + 8 * 2 * slots + 4 * losses.programs
    back = of(launches, "head_input_gradient_kernel")
    assert back.loaded == 2 * 4 * slots * 128 + 2 * 2 * w + 8 * 2 * back.programs
    assert back.stored == h
    last = of(launches, "head_weight_gradient_kernel")
    assert last.loaded == 2 * 4 * slots * 128 + 2 * h + 8 * 8 * 2 * last.programs
    assert last.stored == w

    for name in tiles.PRODUCTS:
        options = tiles.launch_options(name, "ieee", 8, 128, 128)
        tile = (options["ROWS"], options["COLS"], options["SHARED"])
        down, across, *operands = tiles.grid(name, tile, (32, 128, 128, 8), 4)
        band = band_of(down, across, 4, *operands)
        launch = of(launches, f"head_{name}_kernel")
        begins = range(0, launch.programs, 3)
        # the seed, and with the logits the bias of a column of tiles
        others = 8 * len(begins)
        if name == "logits":
            ends = (min(begin + 3, launch.programs) for begin in begins)
            columns = (
                {across_of(tile, down, across, band) for tile in range(begin, end)}
                for begin, end in zip(begins, ends, strict=True)
            )
            others += 4 * 64 * sum(map(len, columns))
        row, column, sharing = operands
        assert launch.waves == waves(down, across, band, 3, row, column, sharing) + others, name


def across_of(tile: int, down: int, across: int, band: int) -> int:
    """The column of a tile, as `tile_of` has it."""
    turn, within = divmod(tile, band * across)
    column = within // min(down - turn * band, band)
    return across - 1 - column if turn % 2 else column


@pytest.mark.parametrize("architecture", traffic.PROCESSORS)
@pytest.mark.parametrize("product", tiles.PRODUCTS)
def test_waves_of_shipped_tiles(product: str, architecture: str) -> None:
    """Where there are tiles enough: the last wave of a few is what it is."""
    for shape, arithmetics in (
        ((512, 4096, 1024, 8), [*tiles.TILES[product]]),
        ((4096, 4096, 4096, 3), ["ieee"]),
    ):
        for arithmetic in arithmetics:
            options = tiles.launch_options(product, arithmetic, shape[3], shape[2], shape[1])
            tile = (options["ROWS"], options["COLS"], options["SHARED"])
            ratio = traffic.of_head(architecture, product, tile, shape, 2 if arithmetic == "native" else 4)
            assert round(ratio, 2) <= traffic.LIMIT, (shape, arithmetic)
