"""The documented functions: what they refuse and how they say it, autocast, seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from vdropkern import functional

from .cases import CASES, SEED, leaves


def x_mu_ls(out: int = 3, inp: int = 5, **changed: Any) -> dict[str, Any]:
    """Valid arguments of linear_lrt, some of them replaced."""
    return {
        "x": torch.zeros(2, inp),
        "mu": torch.zeros(out, inp),
        "log_sigma2": torch.zeros(out, inp),
        **changed,
    }


REFUSED_LINEAR = {
    "mu of one dimension": (x_mu_ls(mu=torch.zeros(5)), r"mu must be \[O, I\], got shape \(5,\)"),
    "x of another width": (
        x_mu_ls(x=torch.zeros(2, 4)),
        r"x must be \[\*, I\] with I = 5 \(mu is \(3, 5\)\), got \(2, 4\)",
    ),
    "x without dimensions": (x_mu_ls(x=torch.zeros(())), r"x must be \[\*, I\] .* got \(\)"),
    "log_sigma2 of another shape": (
        x_mu_ls(log_sigma2=torch.zeros(5, 3)),
        r"log_sigma2 must have mu's shape \(3, 5\), got \(5, 3\)",
    ),
    "bias of another shape": (x_mu_ls(bias=torch.zeros(5)), r"bias must be \[O\] = \(3,\), got \(5,\)"),
    "bias as a column": (x_mu_ls(bias=torch.zeros(3, 1)), r"bias must be \[O\] = \(3,\), got \(3, 1\)"),
    "two dtypes": (
        x_mu_ls(x=torch.zeros(2, 5, dtype=torch.float64)),
        r"x and mu must share one floating dtype, got torch.float64 and torch.float32; "
        r"cast one, or run under torch.autocast",
    ),
    "integers": (
        x_mu_ls(x=torch.zeros(2, 5, dtype=torch.int64), mu=torch.zeros(3, 5, dtype=torch.int64)),
        r"x and mu must share one floating dtype, got torch.int64",
    ),
    "no noise": (x_mu_ls(log_sigma2=None), r"give exactly one of log_sigma2 and log_alpha"),
    "two noises": (x_mu_ls(log_alpha=torch.zeros(())), r"give exactly one of log_sigma2 and log_alpha"),
    "log_alpha of no known shape": (
        x_mu_ls(log_sigma2=None, log_alpha=torch.zeros(4)),
        r"log_alpha must be a scalar, \[I\], \[O\] or \[O, I\] \(here I=5, O=3\), got shape \(4,\)",
    ),
    "log_alpha transposed": (
        x_mu_ls(log_sigma2=None, log_alpha=torch.zeros(5, 3)),
        r"log_alpha must be .* got shape \(5, 3\)",
    ),
    "log_alpha of a square layer": (
        x_mu_ls(5, 5, log_sigma2=None, log_alpha=torch.zeros(5)),
        r"log_alpha of shape \(5,\) is ambiguous for a square layer; say \(1, 5\) for per input or \(5, 1\)",
    ),
    "seed of a wrong dtype": (
        x_mu_ls(seed=torch.tensor(1, dtype=torch.int32)),
        r"seed must be an int or an int64 tensor of one element, got torch.int32 of shape \(\)",
    ),
    "seed of two elements": (
        x_mu_ls(seed=torch.zeros(2, dtype=torch.int64)),
        r"seed must be .* got torch.int64 of shape \(2,\)",
    ),
    "seed on another device": (
        x_mu_ls(seed=torch.zeros((), dtype=torch.int64, device="meta")),
        r"seed is on meta but the inputs are on cpu; move it there",
    ),
    "eps below 0": (x_mu_ls(eps=-1e-8), r"eps must be a finite number >= 0, got -1e-08"),
    "eps not a number": (x_mu_ls(eps=float("nan")), r"eps must be a finite number >= 0, got nan"),
    "seed too large": (x_mu_ls(seed=2**63), r"seed must fit in 64 signed bits, got 9223372036854775808"),
    "seed too small": (x_mu_ls(seed=-(2**63) - 1), r"seed must fit in 64 signed bits"),
}


@pytest.mark.parametrize(
    "function", [functional.linear_lrt, functional.linear_lrt_kl], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("name", REFUSED_LINEAR)
def test_linear_refuses(name: str, function: Any) -> None:
    """Errors start with the function's name and say what was given and what is accepted."""
    arguments, message = REFUSED_LINEAR[name]
    with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
        function(**arguments)


W, V, CLASSES = torch.zeros(3, 3), torch.zeros(3), torch.zeros(3, dtype=torch.int64)
CONV = {"x": torch.zeros(1, 3, 4, 4), "mu": torch.zeros(3, 3, 2, 2)}
HEAD = {"h": W, "weight": W, "bias": V, "target": CLASSES}
ELSEWHERE: dict[str, tuple[Callable[..., Any], dict[str, Tensor], str]] = {
    "linear, mu": (functional.linear_lrt, {"x": W, "mu": W, "log_sigma2": W}, "mu"),
    "linear, log_sigma2": (functional.linear_lrt, {"x": W, "mu": W, "log_sigma2": W}, "log_sigma2"),
    "linear, log_alpha": (functional.linear_lrt, {"x": W, "mu": W, "log_alpha": W}, "log_alpha"),
    "linear, bias": (functional.linear_lrt, {"x": W, "mu": W, "log_sigma2": W, "bias": V}, "bias"),
    "conv, mu": (functional.conv2d_lrt, {**CONV, "log_sigma2": CONV["mu"]}, "mu"),
    "conv, log_sigma2": (functional.conv2d_lrt, {**CONV, "log_sigma2": CONV["mu"]}, "log_sigma2"),
    "conv, log_alpha": (functional.conv2d_lrt, {**CONV, "log_alpha": CONV["mu"]}, "log_alpha"),
    "weights, log_sigma2": (functional.weight_noise, {"mu": W, "log_sigma2": W}, "log_sigma2"),
    "weights, log_alpha": (functional.weight_noise, {"mu": W, "log_alpha": W}, "log_alpha"),
    "output, bias": (functional.mul_out_noise, {"z": W, "log_alpha": V, "bias": V}, "bias"),
    "head, weight": (functional.multi_sample_head, HEAD, "weight"),
    "head, target": (functional.multi_sample_head, HEAD, "target"),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_parameters_on_another_device_are_refused(name: str) -> None:
    # as after a dense checkpoint was loaded into a net made on meta; kernels would return memory as it comes
    function, arguments, which = ELSEWHERE[name]
    function(**arguments)
    message = f"^{function.__name__}: {which} is on meta but the input is on cpu; move it there"
    with pytest.raises(ValueError, match=message):
        function(**{**arguments, which: arguments[which].to("meta")})


REFUSED_KL = {
    "nothing": ({}, r"give mu and log_sigma2, or log_alpha alone"),
    "mu alone": ({"mu": torch.zeros(3)}, r"give mu and log_sigma2, or log_alpha alone"),
    "all three": (
        {"mu": torch.zeros(3), "log_sigma2": torch.zeros(3), "log_alpha": torch.zeros(3)},
        r"give either mu and log_sigma2, or log_alpha alone",
    ),
    "two shapes": (
        {"mu": torch.zeros(3, 5), "log_sigma2": torch.zeros(5)},
        r"mu and log_sigma2 must have one shape, got \(3, 5\) and \(5,\)",
    ),
    "integers": (
        {"log_alpha": torch.zeros(3, dtype=torch.int64)},
        r"log_alpha must be floating, got torch.int64",
    ),
    "two devices": (
        {"mu": torch.zeros(3), "log_sigma2": torch.zeros(3, device="meta")},
        r"mu and log_sigma2 must be on one device, got cpu and meta",
    ),
    "unknown prior": (
        {"log_alpha": torch.zeros(3), "prior": "gaussian"},
        r"unknown prior 'gaussian'; accepted: log-uniform, log-uniform-kingma, log-uniform-exact, ard",
    ),
}


@pytest.mark.parametrize("function", [functional.kl, functional.kl_value_and_grad], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", REFUSED_KL)
def test_kl_refuses(name: str, function: Any) -> None:
    arguments, message = REFUSED_KL[name]
    with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
        function(**arguments)


def test_linear_lrt_kl_refuses_priors_and_shared_log_alpha() -> None:
    with pytest.raises(ValueError, match=r"^linear_lrt_kl: unknown prior 'none'; accepted: log-uniform, "):
        functional.linear_lrt_kl(**x_mu_ls(), prior="none")
    with pytest.raises(
        ValueError, match=r"^linear_lrt_kl: log_alpha must be \[O, I\] = \(3, 5\), got \(1, 5\); "
    ):
        functional.linear_lrt_kl(**x_mu_ls(log_sigma2=None, log_alpha=torch.zeros(5)))


@pytest.mark.parametrize(
    "function", [functional.philox_bits, functional.philox_normal], ids=lambda f: f.__name__
)
def test_philox_refuses(function: Any) -> None:
    name = function.__name__
    with pytest.raises(ValueError, match=f"^{name}: rows and cols must be >= 0, got -1 and 4"):
        function(1, -1, 4)
    with pytest.raises(ValueError, match=f"^{name}: seed must be an int or an int64 tensor of one element"):
        function(torch.zeros(3), 2, 4)
    with pytest.raises(ValueError, match=f"^{name}: seed must fit in 64 signed bits"):
        function(2**64, 2, 4)
    with pytest.raises(ValueError, match=r"^philox_normal: dtype must be floating, got torch.int64"):
        functional.philox_normal(1, 2, 4, torch.int64)


def test_new_seed_is_drawn_from_torch() -> None:
    torch.manual_seed(3)
    seeds = [functional.new_seed() for _ in range(100)]
    torch.manual_seed(3)
    assert torch.equal(functional.new_seed(), seeds[0])
    assert seeds[0].dtype == torch.int64
    assert seeds[0].shape == ()
    assert len({int(s) for s in seeds}) == 100
    # all 64 bits are used: both signs, and high words of every size
    assert {int(s) < 0 for s in seeds} == {True, False}
    assert max(abs(int(s)) for s in seeds) > 2**62


AUTOCAST = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


@AUTOCAST
def test_autocast_equals_casting_by_hand(dtype: torch.dtype, backend: str) -> None:
    """x and mu are cast, log_sigma2 and bias are not; gradients come back in the parameters' dtype."""
    case = CASES["linear_lrt-odd"]
    tensors = leaves(case)
    with torch.autocast("cpu", dtype=dtype):
        (y,) = case.call(tensors)
    assert y.dtype == dtype
    cast = {k: t.to(dtype) if k in ("x", "mu") else t for k, t in tensors.items()}
    (expected,) = case.call(cast)
    assert torch.equal(y, expected)
    for name, a, b in zip(
        tensors,
        torch.autograd.grad(y.float().sum(), list(tensors.values())),
        torch.autograd.grad(expected.float().sum(), list(tensors.values())),
        strict=True,
    ):
        assert a.dtype == torch.float32
        assert torch.equal(a, b), name


@AUTOCAST
def test_autocast_with_mixed_parameters(dtype: torch.dtype, backend: str) -> None:
    """Half inputs from an earlier layer meet float32 parameters, as in any autocast network."""
    tensors = leaves(CASES["linear_lrt_kl-odd-log-uniform"])
    tensors["x"] = tensors["x"].detach().to(dtype).requires_grad_()
    with pytest.raises(ValueError, match="share one floating dtype"):
        functional.linear_lrt_kl(**tensors)
    with torch.autocast("cpu", dtype=dtype):
        y, kl = functional.linear_lrt_kl(**tensors)
    assert (y.dtype, kl.dtype) == (dtype, torch.float32)
    for t, g in zip(
        tensors.values(), torch.autograd.grad([y.sum(), kl], list(tensors.values())), strict=True
    ):
        assert g.dtype == t.dtype
        assert torch.isfinite(g).all()


@AUTOCAST
def test_autocast_leaves_kl_and_noise_alone(dtype: torch.dtype, backend: str) -> None:
    tensors = CASES["kl-odd-log-uniform"].make()
    with torch.autocast("cpu", dtype=dtype):
        found, noise = functional.kl(**tensors), functional.philox_normal(SEED, 4, 5)
    assert torch.equal(found, functional.kl(**tensors))
    assert torch.equal(noise, functional.philox_normal(SEED, 4, 5))


def test_autocast_leaves_float64_alone(backend: str) -> None:
    case = CASES["linear_lrt-odd"]
    tensors = case.make(torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (y,) = case.call(tensors)
    assert torch.equal(y, case.call(tensors)[0])


def test_backward_inside_autocast(backend: str) -> None:
    """Not advised by torch, but done: the products of the backward pass are not cast either."""
    case = CASES["linear_lrt-extreme-x0"]

    def gradients(inside: bool) -> tuple[Tensor, ...]:
        tensors = leaves(case)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = case.call(tensors)[0].float().sum()
            if inside:
                return torch.autograd.grad(loss, list(tensors.values()))
        return torch.autograd.grad(loss, list(tensors.values()))

    for a, b in zip(gradients(inside=True), gradients(inside=False), strict=True):
        assert torch.equal(a, b)


def test_no_grad_records_nothing(backend: str) -> None:
    tensors = leaves(CASES["linear_lrt_kl-odd-log-uniform"])
    with torch.no_grad():
        outputs = functional.linear_lrt_kl(**tensors)
    with torch.inference_mode():
        inferred = functional.linear_lrt(**{k: t.detach() for k, t in tensors.items()})
    assert not any(t.requires_grad for t in (*outputs, inferred))
