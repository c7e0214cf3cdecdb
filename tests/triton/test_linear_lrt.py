"""`linear_lrt` in Triton against the float64 truth: every case, arithmetic, noise form and shipped tile."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern
from vdropkern import _precision
from vdropkern._validate import prepare_linear
from vdropkern.ops.linear_lrt import tiles
from vdropkern.ops.linear_lrt import triton as kernels

from .. import tolerance
from ..cases import SEED, Case, linear, select
from ..plain import truth
from . import interpreter
from .interpreter import Launch

EPS = 1e-8
GRAD_KL = 0.3
# half a unit in the last place of a product's operand
ROUNDOFF = {"ieee": 0.0, "tf32x3": 2.0**-21, "tf32": 2.0**-11, "bf16": 2.0**-8, "native": 0.0}
ARCHITECTURES = sorted(path.stem for path in tiles.SHIPPED.glob("sm_*.json"))


def run(case: Case, tensors: dict[str, Tensor], dy: Tensor, **needs: bool) -> dict[str, Tensor]:
    """Outputs and gradients of a case, by the names of `truth`."""
    given = {"log_sigma2": None, "bias": None, "log_alpha": None, **tensors}
    order = ("x", "mu", "log_sigma2", "bias", "log_alpha")
    x, mu, log_sigma2, log_alpha, bias, seed = prepare_linear(*(given[k] for k in order), SEED, "test")
    prior = case.options.get("prior", "log-uniform") if case.op == "linear_lrt_kl" else "none"
    clip = case.options.get("clip_log_alpha", math.inf)
    y, std, kl = kernels.linear_lrt(x, mu, log_sigma2, log_alpha, bias, seed, prior, EPS, clip)
    grad_kl = torch.tensor(GRAD_KL) if prior != "none" else None
    wanted = {"x": True, "weight": True, "bias": bias is not None, **needs}
    dx, dmu, dlog, dbias = kernels.linear_lrt_backward(
        dy, grad_kl, x, mu, log_sigma2, log_alpha, std, seed, prior, clip,
        wanted["x"], wanted["weight"], wanted["bias"],
    )  # fmt: skip
    log_name = "log_sigma2" if log_sigma2 is not None else "log_alpha"
    found = {"y": y, "kl": kl, "d_x": dx, "d_mu": dmu, "d_bias": dbias, "std": std}
    shape = tensors[log_name].shape if dlog.numel() else dlog.shape
    return found | {f"d_{log_name}": dlog.reshape(shape)}


def check(
    case: Case, tensors: dict[str, Tensor], found: dict[str, Tensor], dy: Tensor, roundoff: float = 0.0
) -> None:
    """Hold results to the truth; `roundoff` is that of the products' operands."""
    grads = (dy.double(), torch.tensor(GRAD_KL).double()) if case.op == "linear_lrt_kl" else (dy.double(),)
    for name, (expected, magnitude, length) in truth(case, tensors, grads).items():
        actual = found[name]
        assert actual.shape == expected.shape, name
        # two operands, and 1 / std in what is multiplied: three roundings, to first order
        allowed = tolerance.bound(expected, magnitude, actual.dtype, length) + 3.2 * roundoff * magnitude
        error = (actual.double() - expected).abs()
        assert (error <= allowed).all(), f"{name}: {(error / allowed).max():.3g} times what is allowed"


def gradient(case: Case, tensors: dict[str, Tensor]) -> Tensor:
    shape = (*tensors["x"].shape[:-1], tensors["mu"].shape[0])
    generator = torch.Generator().manual_seed(len(case.id))
    return torch.randn(shape, generator=generator).to(tensors["x"].dtype)


@pytest.mark.parametrize("case", select("linear_lrt"), ids=str)
def test_every_case(case: Case) -> None:
    """In float32 without tensor cores, to the same tolerance as every other backend."""
    tensors = case.make(torch.float32)
    dy = gradient(case, tensors)
    with contextlib.ExitStack() as stack:
        if "blocked" in case.id:  # the interpreter's time goes by tiles
            for product in tiles.PRODUCTS:
                stack.enter_context(tiles.force_tile(product, tiles.Tile(64, 128, 64, 4, 2)))
        check(case, tensors, run(case, tensors, dy), dy)


ODD = linear("triton-odd", (37,), 75, 45, op="linear_lrt_kl", prior="log-uniform")
RUNS = [("float32", m, v) for m in ("tf32", "tf32x3") for v in ("auto", "bf16")]
RUNS += [("float32", "ieee", "tf32"), ("bfloat16", "torch", "auto"), ("bfloat16", "torch", "tf32")]
RUNS += [("float16", "torch", "auto"), ("float16", "torch", "ieee")]


@pytest.mark.parametrize("dtype, mean, variance", RUNS)
def test_arithmetic(dtype: str, mean: str, variance: str) -> None:
    tensors = ODD.make(getattr(torch, dtype), noise_dtype=torch.float32)
    dy = gradient(ODD, tensors)
    with vdropkern.use_precision(mean=mean, variance=variance):
        precision = _precision.resolve(tensors["x"].dtype)
        found = run(ODD, tensors, dy)
    roundoff = max(ROUNDOFF[name] for name in precision)
    check(ODD, tensors, found, dy, roundoff)
    if precision.variance in (
        "tf32",
        "bf16",
    ):  # the model did round: std is off by less than u, more than u / 50
        exact = truth(ODD, tensors, (dy.double(), torch.tensor(GRAD_KL).double()))
        assert exact  # the inputs are finite
        x, s2 = tensors["x"].double(), tensors["log_sigma2"].double().exp()
        std = (x**2 @ s2.T + EPS).sqrt()
        error = (found["std"].double() / std - 1).abs().max()
        u = ROUNDOFF[precision.variance]
        assert u / 50 < error < u


def test_hardware_that_cuts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands are rounded before tensor cores see them: what those do with the rest does not matter."""
    tensors = ODD.make()
    dy = gradient(ODD, tensors)
    with vdropkern.use_precision(mean="tf32"):
        rounded = run(ODD, tensors, dy)
        monkeypatch.setattr(interpreter, "truncate_tf32", True)
        cut = run(ODD, tensors, dy)
    for name, t in rounded.items():
        assert torch.equal(t, cut[name]), name
    with vdropkern.use_precision(mean="tf32x3"):
        check(ODD, tensors, run(ODD, tensors, dy), dy, 4 * ROUNDOFF["tf32x3"])


def _shipped() -> Iterator[Any]:
    """Every tile of every architecture, once, and one of each product and arithmetic with its depth split.

    The order of tiles (`group`) is left to test_traffic.py.
    """
    seen: dict[tuple[str, str, tiles.Tile], str] = {}
    for architecture in ARCHITECTURES:
        table = tiles.table(architecture)
        for product in tiles.PRODUCTS:
            for arithmetic in tiles.ARITHMETIC:
                for entry in table[product][arithmetic]:
                    seen.setdefault((product, arithmetic, replace(entry.tile, group=2)), architecture)
    split = set()
    for (product, arithmetic, tile), architecture in seen.items():
        label = f"{product}-{arithmetic}-{tile.m}x{tile.n}x{tile.k}-s{tile.stages}-{architecture}"
        yield pytest.param(product, arithmetic, tile, 1, id=label)
        if (product, arithmetic) not in split:
            split.add((product, arithmetic))
            yield pytest.param(product, arithmetic, tile, 2, id=f"{label}-split")


@pytest.mark.parametrize("product, arithmetic, tile, split", list(_shipped()))
def test_shipped_tiles(
    product: str, arithmetic: str, tile: tiles.Tile, split: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tile and a ragged rest in every direction; the other products run with what is chosen for them."""
    if product == "forward":
        rows, out, inp = tile.m + 3, tile.n + 5, 2 * split * tile.k + 7
    elif product == "input_gradient":
        rows, inp, out = tile.m + 3, tile.n + 5, 2 * split * tile.k + 7
    else:
        out, inp, rows = tile.m + 3, tile.n + 5, 2 * split * tile.k + 7
    case = linear(f"{product}-{split}", (rows,), inp, out, op="linear_lrt_kl", prior="log-uniform")
    dtype = torch.bfloat16 if arithmetic == "half" else torch.float32
    tensors = case.make(dtype, noise_dtype=torch.float32)
    dy = gradient(case, tensors)
    used = []

    def choose(name: str, *_: Any) -> tuple[tiles.Tile, int]:
        used.append(name)
        return (tile, split) if name == product else (tiles.Tile(64, 64, 64, 4, 2), 1)

    monkeypatch.setattr(kernels, "choose", choose)
    needs = {"x": product == "input_gradient", "weight": product == "weight_gradient"}
    with vdropkern.use_precision(mean="torch" if arithmetic == "half" else arithmetic):
        precision = _precision.resolve(dtype)
        found = run(case, tensors, dy, **needs)
    assert product in used
    expected = [("y", "kl", "d_bias"), ("d_x",), ("d_mu", "d_log_sigma2")][tiles.PRODUCTS.index(product)]
    every = truth(case, tensors, (dy.double(), torch.tensor(GRAD_KL).double()))
    roundoff = max(ROUNDOFF[name] for name in precision)
    for name in expected:
        exact, magnitude, length = every[name]
        allowed = tolerance.bound(exact, magnitude, found[name].dtype, length) + 3.2 * roundoff * magnitude
        assert ((found[name].double() - exact).abs() <= allowed).all(), name


def test_same_bits_again_and_for_more_rows() -> None:
    case = linear("rows", (70,), 40, 33)
    tensors = case.make()
    dy = gradient(case, tensors)
    one, two = run(case, tensors, dy), run(case, tensors, dy)
    for name, t in one.items():
        assert torch.equal(t, two[name]), name
    fewer = {**tensors, "x": tensors["x"][:64]}
    assert torch.equal(run(case, fewer, dy[:64])["y"], one["y"][:64])


def test_only_what_is_needed(launches: list[Launch]) -> None:
    tensors = ODD.make()
    dy = gradient(ODD, tensors)
    found = run(ODD, tensors, dy, x=False, weight=False)
    assert found["d_x"].numel() == found["d_mu"].numel() == 0
    assert [launch.kernel for launch in launches] == [
        "kl_kernel", "sum_kernel", "forward_kernel", "output_gradient_kernel",
    ]  # fmt: skip


def test_long_sums_are_split(launches: list[Launch]) -> None:
    """With four processors and one tile, four parts of the depth, added in order."""
    case = linear("split", (16,), 1024, 32)
    tensors = case.make()
    run(case, tensors, gradient(case, tensors), x=False, weight=False)
    assert [(launch.kernel, launch.programs) for launch in launches[:2]] == [
        ("forward_kernel", 4), ("finish_forward_kernel", 1),
    ]  # fmt: skip


def test_kept_for_backward() -> None:
    """The standard deviation in float32, whatever the dtype of x."""
    tensors = ODD.make(torch.bfloat16, noise_dtype=torch.float32)
    found = run(ODD, tensors, gradient(ODD, tensors))
    assert found["std"].dtype == torch.float32
    assert found["y"].dtype == torch.bfloat16


def test_configurations_are_json() -> None:
    assert ARCHITECTURES == ["sm_100", "sm_120", "sm_80", "sm_86", "sm_89", "sm_90"]
    for architecture in ARCHITECTURES:
        content = json.loads((tiles.SHIPPED / f"{architecture}.json").read_text())
        assert content["measured"] is None  # nothing here was tuned on a GPU; say so when it was
