"""gate: its distributions against their definitions, its kernels and gradients against the float64 truth."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import LAYOUTS, SEED, lay_out
from tests.tolerance import assert_close
from vdropkern import functional as F
from vdropkern.ops.gate import KINDS, reference
from vdropkern.ops.philox_bits.reference import philox_bits

OPTIONS = {
    "normal": (1.0, -math.inf, math.inf),
    "log-normal": (1.0, -20.0, 0.0),
    "hard-concrete": (2 / 3, -0.1, 1.1),
    "concrete": (0.1, 0.0, 1.0),
    "switch": (1.0, -math.inf, math.inf),
}


# x, channel_dim: odd sizes, one element a channel, more channels than are drawn at a time, nothing at all
SHAPES = {
    "conv2d": ((3, 5, 7, 3), 1),
    "conv2d-wide": ((2, 67, 9, 11), 1),
    "conv1d": ((2, 3, 65), 1),
    "conv3d": ((2, 5, 3, 2, 2), 1),
    "linear": ((9, 37), -1),
    "linear-wide": ((2, 1031), 1),
    "linear-tall": ((131, 9), 1),
    "leading": ((2, 3, 4, 10), -1),
    "vector": ((13,), 0),
    "small": ((2, 3, 2), 1),
    "one": ((1, 1, 1), 1),
    "empty-batch": ((0, 5, 2), 1),
    "no-channels": ((3, 0, 4), 1),
    "no-pixels": ((2, 5, 0), 1),
}


DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "bf16+fp32": (torch.bfloat16, torch.float32),
    "fp16+fp32": (torch.float16, torch.float32),
}


BY_KIND = pytest.mark.parametrize("kind", KINDS)


def parameters(kind: str, channels: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    spread = torch.randn(2, channels, generator=generator, dtype=torch.float64)
    if kind == "log-normal":  # mu inside and outside [-20, 0], sigma from 1e-5 to 20
        return {
            "location": (4 * spread[0] - 3).to(dtype),
            "log_sigma2": (6 * spread[1] - 3).clamp(-23, 6).to(dtype),
        }
    made = {"location": spread[0].to(dtype)}
    if kind == "normal":
        made["log_sigma2"] = (2 * spread[1] - 3).to(dtype)
    return made


def inputs(kind: str, shape: str, dtypes: str, layout: str = "contiguous") -> dict[str, Tensor]:
    sizes, channel_dim = SHAPES[shape]
    dtype, parameter_dtype = DTYPES[dtypes]
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.to(memory_format=torch.channels_last) if layout == "channels_last" else lay_out(x, layout)
    return {"x": x, **parameters(kind, sizes[channel_dim], parameter_dtype)}


def call(tensors: dict[str, Tensor], kind: str, channel_dim: int, per_sample: bool = True) -> Tensor:
    return F.gate(**tensors, kind=kind, channel_dim=channel_dim, per_sample=per_sample, seed=SEED)


def conditions(drawn: reference.Gates, t: dict[str, Tensor], kind: str, rows: int) -> tuple[Tensor, ...]:
    """Sizes of the terms behind theta and its two derivatives, which roundings are relative to.

    A quantile's logarithm has an error relative to itself, a log-normal draw one relative to sigma and to
    log theta, the clamped gate one relative to the interval it is clamped from.
    """
    location = t["location"]
    if kind in ("normal", "switch"):
        noise = (drawn.theta - location).abs()
        return location.abs() + noise, drawn.by_location, noise
    if kind == "log-normal":
        sigma = torch.exp(t["log_sigma2"] / 2)
        off = drawn.theta * (1 + drawn.theta.log().abs() + sigma)
        return off, off, off * (1 + sigma)
    bits = philox_bits(torch.tensor(SEED), rows, location.numel()).double()
    u, rest = (bits + 0.5) / 2**32, (2**32 - 0.5 - bits) / 2**32
    off = 1 + (u.log().abs() + rest.log().abs() + location.abs()) / OPTIONS[kind][0]
    if kind == "hard-concrete":
        s = torch.sigmoid((u.log() - rest.log() + location) * 1.5)
        slope = 1.8 * s * (1 - s)
        return 0.1 + 1.2 * s + slope * off, slope * off * (drawn.by_location > 0), 0 * s
    return drawn.theta * off, 11 * drawn.theta * off, 0 * off


def truth(
    tensors: dict[str, Tensor], dy: Tensor, kind: str, channel_dim: int, per_sample: bool
) -> dict[str, tuple[Tensor, Tensor, int]]:
    """value, magnitude, reduction length of y and each gradient."""
    t = {k: v.detach().double() for k, v in tensors.items()}
    d = channel_dim % t["x"].ndim
    view = (t["x"].shape[:d].numel(), t["x"].shape[d], t["x"].shape[d + 1 :].numel())
    x, g = t["x"].reshape(view), dy.double().reshape(view)
    rows = view[0] if per_sample else 1
    seed = torch.tensor(SEED)
    drawn = reference.gates(rows, t["location"], t.get("log_sigma2"), seed, kind, *OPTIONS[kind])
    theta, by_a, by_b = conditions(drawn, t, kind, rows)
    shape = t["x"].shape
    result = {
        "y": ((x * drawn.theta[..., None]).reshape(shape), (x.abs() * theta[..., None]).reshape(shape), 1),
        "x": ((g * drawn.theta[..., None]).reshape(shape), (g.abs() * theta[..., None]).reshape(shape), 1),
    }
    sums, sizes = (g * x).sum(-1), (g * x).abs().sum(-1)
    length = view[0] * view[2]
    result["location"] = ((sums * drawn.by_location).sum(0), (sizes * by_a).sum(0), length)
    if "log_sigma2" in t:
        result["log_sigma2"] = ((sums * drawn.by_log_sigma2).sum(0), (sizes * by_b).sum(0), length)
    return result


def check(
    tensors: dict[str, Tensor], dy: Tensor, kind: str, channel_dim: int, per_sample: bool = True
) -> None:
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    y = call(leaves, kind, channel_dim, per_sample)
    gradients = torch.autograd.grad(y, list(leaves.values()), dy)
    actual = {"y": y} | dict(zip(leaves, gradients, strict=True))
    for name, (value, magnitude, length) in truth(tensors, dy, kind, channel_dim, per_sample).items():
        assert actual[name].dtype == (tensors["x"] if name == "y" else tensors[name]).dtype
        assert_close(actual[name], value, magnitude, length, f"{kind} {name}")


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "batch"])
@pytest.mark.parametrize(
    "shape, dtypes",
    [
        *((shape, "fp32") for shape in SHAPES),
        *((shape, dtypes) for shape in ("conv2d-wide", "linear-tall") for dtypes in [*DTYPES][1:]),
    ],
)
@BY_KIND
def test_values_and_gradients(kind: str, shape: str, dtypes: str, per_sample: bool, backend: str) -> None:
    tensors = inputs(kind, shape, dtypes)
    dy = torch.randn(tensors["x"].shape).to(tensors["x"].dtype)
    check(tensors, dy, kind, SHAPES[shape][1], per_sample)


@pytest.mark.parametrize("shape", ["conv2d", "conv2d-wide", "linear"])
@pytest.mark.parametrize("layout", [*LAYOUTS[1:], "channels_last"])
@pytest.mark.parametrize("kind", ["log-normal", "concrete"])
def test_strides(kind: str, layout: str, shape: str, backend: str) -> None:
    """Any strides of x, and of the incoming gradient."""
    if layout == "channels_last" and shape == "linear":
        pytest.skip("two dimensions have no channels last")
    tensors, channel_dim = inputs(kind, shape, "fp32", layout), SHAPES[shape][1]
    dy = torch.randn(tensors["x"].shape)
    check(tensors, dy, kind, channel_dim)
    if layout != "channels_last":
        check(inputs(kind, shape, "fp32"), lay_out(dy, layout), kind, channel_dim)


@pytest.mark.parametrize("dims", [4, 5])
def test_memory_format_is_kept(dims: int, backend: str) -> None:
    last = torch.channels_last if dims == 4 else torch.channels_last_3d
    x = torch.randn(2, 5, 3, 4, 3)[(...,) if dims == 5 else (..., 0)].contiguous(memory_format=last)
    x.requires_grad_()
    y = F.gate(x, torch.zeros(5), kind="concrete", seed=1)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous(memory_format=last) and dx.is_contiguous(memory_format=last)
    plain = F.gate(x.detach().contiguous(), torch.zeros(5), kind="concrete", seed=1)
    assert plain.is_contiguous() and torch.equal(plain, y)


@BY_KIND
def test_extremes_are_finite(kind: str, backend: str) -> None:
    """mu and logits of any size, sigma from 1e-9 to 150: finite values, finite gradients, theta in range."""
    location, log_sigma2 = torch.cartesian_prod(
        torch.tensor([-60.0, -25.0, -20.0, -19.9999, -5.0, -1e-30, 0.0, 1e-5, 3.0, 40.0]),
        torch.tensor([-40.0, -20.0, -10.0, 0.0, 4.0, 10.0]),
    ).T.contiguous()
    second = {"log_sigma2": log_sigma2} if kind in ("normal", "log-normal") else {}
    for dtype in (torch.float32, torch.float64):
        leaves = {"location": location.to(dtype)} | {k: t.to(dtype) for k, t in second.items()}
        leaves = {k: t.requires_grad_() for k, t in leaves.items()}
        y = F.gate(torch.ones(500, location.numel(), dtype=dtype), **leaves, kind=kind, seed=4)
        assert torch.isfinite(y).all()
        if kind == "log-normal":
            assert y.min() >= 0.99 * math.exp(-20) and y.max() <= 1
        if kind == "hard-concrete":
            assert y.min() == 0 and y.max() == 1
        assert all(torch.isfinite(d).all() for d in torch.autograd.grad(y.sum(), list(leaves.values())))


@BY_KIND
@pytest.mark.parametrize("per_sample", [True, False])
def test_gradcheck(kind: str, per_sample: bool, backend: str) -> None:
    t = {k: v.requires_grad_() for k, v in inputs(kind, "small", "fp64").items()}

    def run(*tensors: Tensor) -> Tensor:
        return call(dict(zip(t, tensors, strict=True)), kind, 1, per_sample)

    assert torch.autograd.gradcheck(run, tuple(t.values()))
    x, *rest = (v.detach() for v in t.values())
    through_func = torch.func.grad(lambda x: run(x, *rest).sum())(x)
    torch.testing.assert_close(through_func, torch.autograd.grad(run(*t.values()).sum(), t["x"])[0])


def test_only_asked_gradients_are_computed(backend: str) -> None:
    tensors = inputs("log-normal", "conv2d", "fp32")
    every = {k: t.clone().requires_grad_() for k, t in tensors.items()}
    gradients = torch.autograd.grad(call(every, "log-normal", 1).sum(), list(every.values()))
    for asked, expected in zip(tensors, gradients, strict=True):
        leaves = {k: t.clone().requires_grad_(k == asked) for k, t in tensors.items()}
        (found,) = torch.autograd.grad(call(leaves, "log-normal", 1).sum(), leaves[asked])
        assert torch.equal(found, expected), asked


def test_one_element_serves_all_channels(backend: str) -> None:
    x = torch.randn(3, 5, 2)
    p = torch.tensor(0.3, requires_grad=True)
    y = F.gate(x, p, kind="concrete", seed=9)
    many = torch.full((5,), 0.3, requires_grad=True)
    assert torch.equal(y, F.gate(x, many, kind="concrete", seed=9))
    (d,) = torch.autograd.grad(y.sum(), p)
    each = torch.autograd.grad(F.gate(x, many, kind="concrete", seed=9).sum(), many)[0]
    torch.testing.assert_close(d, each.sum())


def test_nothing_of_the_size_of_x_is_kept_but_x() -> None:
    saved: list[Tensor] = []
    tensors = {k: t.requires_grad_() for k, t in inputs("log-normal", "conv2d-wide", "fp32").items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        call(tensors, "log-normal", 1)
    assert sum(t.numel() >= tensors["x"].numel() for t in saved) == 1


def test_results_do_not_depend_on_threads(threads: None, backend: str) -> None:
    tensors = {k: t.requires_grad_() for k, t in inputs("hard-concrete", "linear-tall", "fp32").items()}
    found = []
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        y = F.gate(tensors["x"].repeat(50, 1), tensors["location"], kind="hard-concrete", seed=1)
        found.append((y, *torch.autograd.grad(y.square().sum(), list(tensors.values()))))
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", ["x", "location", "log_sigma2"])
@pytest.mark.parametrize("kind", ["normal", "log-normal", "hard-concrete", "concrete"])
def test_nan_is_not_swallowed(kind: str, name: str, backend: str) -> None:
    tensors = inputs(kind, "linear", "fp32")
    if name not in tensors:
        pytest.skip("this kind has one parameter")
    tensors[name][..., 3] = torch.nan
    y = call(tensors, kind, -1)
    assert y[:, 3].isnan().all() and not y[:, :3].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_parameters_wide(dtype: torch.dtype, backend: str) -> None:
    tensors = {k: t.requires_grad_() for k, t in inputs("log-normal", "conv2d", "fp32").items()}
    half = {**tensors, "x": tensors["x"].detach().to(dtype)}
    with torch.autocast("cpu", dtype=dtype):
        y = call(half, "log-normal", 1)
    assert y.dtype == dtype
    assert torch.equal(y, call(half, "log-normal", 1))
    assert torch.autograd.grad(y.float().sum(), tensors["log_sigma2"])[0].dtype == torch.float32


@pytest.mark.parametrize(
    "kind, layout, dtypes",
    [
        ("log-normal", "contiguous", "fp32"),
        ("log-normal", "channels_last", "bf16+fp32"),
        ("normal", "transposed", "fp64"),
        ("hard-concrete", "sliced", "fp32"),
        ("concrete", "channels_last", "fp32"),
        ("switch", "contiguous", "fp64"),
    ],
)
def test_opcheck(kind: str, layout: str, dtypes: str) -> None:
    t = inputs(kind, "conv2d", dtypes, layout)
    rest = (t["location"], t.get("log_sigma2"), torch.tensor(SEED), kind, 1, True, *OPTIONS[kind])
    torch.library.opcheck(torch.ops.vdropkern.gate.default, (t["x"], *rest))
    for needs in ((True, True), (True, False), (False, True)):
        arguments = (torch.ones_like(t["x"]), t["x"], *rest, *needs)
        torch.library.opcheck(torch.ops.vdropkern.gate_backward.default, arguments)


# torch warns of itself: Dynamo makes instances of autograd Functions
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("kind", ["log-normal", "concrete"])
def test_compile(kind: str) -> None:
    torch._dynamo.reset()
    run = torch.compile(
        functools.partial(call, kind=kind, channel_dim=1), backend="aot_eager", fullgraph=True
    )
    for layout in ("contiguous", "channels_last"):
        t = {k: v.requires_grad_() for k, v in inputs(kind, "conv2d", "fp32", layout).items()}
        found, expected = run(t), call(t, kind, 1)
        assert torch.equal(found, expected) and found.stride() == expected.stride()
        leaves = list(t.values())
        for a, b in zip(
            torch.autograd.grad(found.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
        ):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"kind": "beta"}, "unknown kind 'beta'; accepted: normal, log-normal"),
        ({"x": torch.ones(2, 3, dtype=torch.int64)}, "x must be floating, got torch.int64"),
        ({"channel_dim": 2}, r"channel_dim must be a dimension of x \[2, 3\], got 2"),
        ({"kind": "normal"}, "kind 'normal' needs log_sigma2"),
        ({"log_sigma2": torch.zeros(3)}, "kind 'concrete' takes no log_sigma2"),
        ({"location": torch.zeros(4)}, r"location must be \[3\], one value a channel.*got \[4\]"),
        ({"location": torch.zeros(3, dtype=torch.int32)}, "location must be floating, got torch.int32"),
        ({"temperature": 0.0}, "temperature must be > 0, got 0.0"),
        ({"low": 0.5}, "kind 'concrete' has no low and high"),
        ({"kind": "switch", "temperature": 1.0}, "kind 'switch' has no temperature"),
        ({"kind": "hard-concrete", "low": 0.0}, "low must be < 0 and high > 1"),
        (
            {"kind": "log-normal", "log_sigma2": torch.zeros(3), "high": -30.0},
            "low < high, got -20.0 and -30",
        ),
        ({"seed": 2**64}, "seed must fit in 64 signed bits"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        F.gate(**{"x": torch.ones(2, 3), "location": torch.zeros(3), "kind": "concrete", **arguments})
