"""Every case of the registry, on every backend: values and gradients against the float64 truth."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from vdropkern import functional
from vdropkern.functional import PRIORS
from vdropkern.ops.kl import LOG_ALPHA_PRIORS

from . import plain_conv
from .cases import CASES, LAYOUTS, Case, lay_out, select
from .plain import Truth, truth
from .tolerance import assert_close

# dtype of x and mu, dtype of log_sigma2, log_alpha and bias
DTYPES = {
    "fp32": (torch.float32, torch.float32),
    "fp64": (torch.float64, torch.float64),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "fp16": (torch.float16, torch.float16),
    "bf16+fp32": (torch.bfloat16, torch.float32),
    "fp16+fp32": (torch.float16, torch.float32),
}
DIFFERENTIABLE = [case for case in CASES.values() if case.tensors]
LAYOUT_CASES = (
    "linear_lrt-odd",
    "linear_lrt-even",
    "linear_lrt-in1",
    "linear_lrt-out1",
    "linear_lrt-leading",
    "linear_lrt-blocked",
    "linear_lrt-log_alpha[37]",
    "linear_lrt-log_alpha[11x37]",
    "linear_lrt_kl-odd-log-uniform",
    "linear_lrt_kl-blocked",
    "linear_lrt_kl-log_alpha-ard",
    "kl-odd-log-uniform",
    "kl-free-ard",
    "kl-conv",
    "conv2d_lrt-odd",
    "conv2d_lrt-stride2",
    "conv2d_lrt-depthwise",
    "conv2d_lrt-log_alpha[5]",
    "conv2d_lrt_kl-odd-log-uniform",
)


def by_case(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=str)


def results(case: Case, tensors: Mapping[str, Tensor], grads: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Outputs and gradients under the names of `plain.truth`."""
    leaves = {k: t.detach().requires_grad_() for k, t in tensors.items()}
    outputs = case.call(leaves)
    d = torch.autograd.grad(outputs, list(leaves.values()), grads)
    names = ("y", "kl") if len(outputs) == 2 else ("y",) if case.noisy else ("kl",)
    return dict(zip(names, outputs, strict=True)) | {f"d_{k}": g for k, g in zip(leaves, d, strict=True)}


def output_shape(case: Case, tensors: Mapping[str, Tensor]) -> tuple[int, ...]:
    if case.op.startswith("conv2d_lrt"):
        return plain_conv.convolve(tensors["x"].to("meta"), tensors["mu"].to("meta"), case.options).shape
    return (*tensors["x"].shape[:-1], tensors["mu"].shape[0])


def upstream(case: Case, tensors: Mapping[str, Tensor], layout: str = "contiguous") -> tuple[Tensor, ...]:
    """Gradients of the outputs."""
    grads = []
    wide = tensors["mu" if "mu" in tensors else "log_alpha"].dtype
    if case.noisy:
        shape = output_shape(case, tensors)
        grads.append(lay_out(torch.randn(shape, generator=torch.Generator().manual_seed(7)).to(wide), layout))
    if case.with_kl:
        either = [tensors[k].dtype for k in ("x", "mu", "log_sigma2", "log_alpha") if k in tensors]
        grads.append(torch.tensor(-0.75, dtype=torch.float64 if torch.float64 in either else torch.float32))
    return tuple(grads)


@functools.cache
def known(
    case: Case, dtypes: str, layout: str, grad_layout: str
) -> tuple[dict[str, Tensor], dict[str, Truth]]:
    """Tensors of a case in a dtype and layout, and the truth, which every backend shares."""
    dtype, noise_dtype = DTYPES[dtypes]
    tensors = {k: lay_out(t, layout) for k, t in case.make(dtype, noise_dtype=noise_dtype).items()}
    return tensors, truth(case, tensors, upstream(case, tensors, grad_layout))


def check(case: Case, dtypes: str, layout: str = "contiguous", grad_layout: str = "contiguous") -> None:
    tensors, expected = known(case, dtypes, layout, grad_layout)
    actual = results(case, tensors, upstream(case, tensors, grad_layout))
    assert actual.keys() == expected.keys()
    for name, (value, magnitude, length) in expected.items():
        if name.startswith("d_"):
            assert actual[name].dtype == tensors[name[2:]].dtype, f"{name} has another dtype than its tensor"
        assert torch.isfinite(actual[name]).all(), f"{name} is not finite"
        assert_close(actual[name], value, magnitude, length, f"{case} {name}")


@pytest.mark.parametrize("dtypes", DTYPES)
@by_case(DIFFERENTIABLE)
def test_values_and_gradients(case: Case, dtypes: str, backend: str) -> None:
    check(case, dtypes)


@pytest.mark.parametrize("dtypes", ["fp32", "bf16+fp32"])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@by_case([CASES[name] for name in LAYOUT_CASES])
def test_strided_inputs(case: Case, layout: str, dtypes: str, backend: str) -> None:
    check(case, dtypes, layout=layout)


@pytest.mark.parametrize("dtypes", ["fp32", "fp64", "bf16"])
@pytest.mark.parametrize("layout", LAYOUTS[1:])
@by_case([CASES[name] for name in LAYOUT_CASES if name.startswith(("linear", "conv"))])
def test_strided_gradients(case: Case, layout: str, dtypes: str, backend: str) -> None:
    check(case, dtypes, grad_layout=layout)


@pytest.mark.parametrize("dtypes", ["fp32", "bf16+fp32"])
@pytest.mark.parametrize(
    "layouts", ["channels_last/channels_last", "channels_last/contiguous", "contiguous/channels_last"]
)
@by_case([case for case in select("conv2d_lrt") if "kl-odd" not in case.id])
def test_channels_last(case: Case, layouts: str, dtypes: str, backend: str) -> None:
    """Images, their gradients and the weights in NHWC; results come in x's layout."""
    layout, grad_layout = layouts.split("/")
    check(case, dtypes, layout, grad_layout)
    tensors = case.make()
    x = lay_out(tensors["x"], layout).requires_grad_()
    y = case.call({**tensors, "x": x})[0]
    if not x.is_contiguous() and "same" not in case.id:
        assert y.is_contiguous(memory_format=torch.channels_last)
        (dx,) = torch.autograd.grad(y.sum(), x)
        assert dx.stride() == x.stride()


@by_case([CASES["linear_lrt-odd"], CASES["linear_lrt_kl-odd-ard"]])
def test_gradients_of_sum_and_cat(case: Case, backend: str) -> None:
    """The two strided gradients autograd itself makes: sum() expands a scalar, cat() slices a matrix."""
    tensors = {k: t.requires_grad_() for k, t in case.make().items()}

    def gradients(through: str) -> tuple[Tensor, ...]:
        y, *kl = case.call(tensors)
        other = torch.ones(y.shape[0], 3)
        loss = y.sum() if through == "sum" else torch.cat([other, y, other], dim=1)[:, 3:-3].sum()
        return torch.autograd.grad([loss, *kl], list(tensors.values()))

    assert all(torch.equal(a, b) for a, b in zip(gradients("sum"), gradients("cat"), strict=True))


@by_case(
    select(
        "linear_lrt-extreme", "linear_lrt_kl-extreme", "linear_lrt_kl-odd", "kl-extreme",
        "conv2d_lrt-extreme", "conv2d_lrt_kl-extreme", "conv2d_lrt_kl-odd",
    )
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_extreme_inputs_under_autocast(case: Case, dtype: torch.dtype, backend: str) -> None:
    tensors = {k: t.requires_grad_() for k, t in case.make().items()}
    with torch.autocast("cpu", dtype=dtype):
        outputs = case.call(tensors)
    gradients = torch.autograd.grad([t.float().sum() for t in outputs], list(tensors.values()))
    for name, t in zip((*outputs, *tensors), (*outputs, *gradients), strict=True):
        assert torch.isfinite(t).all(), f"{'output' if isinstance(name, Tensor) else name} is not finite"


def test_bias_does_not_enter_the_variance(backend: str) -> None:
    case = CASES["linear_lrt-no_bias"]
    tensors = case.make(torch.float64)
    (plain,), bias = case.call(tensors), torch.full((10,), -1000.0, dtype=torch.float64)
    (shifted,) = case.call({**tensors, "bias": bias})
    assert_close(shifted - bias, plain.detach(), plain.abs() + 1000, 1)


def test_only_asked_gradients_are_computed(backend: str) -> None:
    """A tensor that needs no gradient gets none, and the others get the same as before."""
    case = CASES["linear_lrt_kl-odd-log-uniform"]
    tensors = case.make()
    grads = upstream(case, tensors)
    everything = results(case, tensors, grads)
    for asked in ({"x"}, {"mu"}, {"log_sigma2"}, {"bias"}, {"x", "bias"}, {"mu", "log_sigma2"}):
        some = {k: t.detach().requires_grad_(k in asked) for k, t in tensors.items()}
        leaves = {k: t for k, t in some.items() if k in asked}
        for name, g in zip(
            leaves, torch.autograd.grad(case.call(some), [*leaves.values()], grads), strict=True
        ):
            assert torch.equal(g, everything[f"d_{name}"]), f"{name}, asked for {asked}"


def test_one_output_used(backend: str) -> None:
    """Only y, or only the KL, in the loss: gradients are those of that output alone."""
    case = CASES["linear_lrt_kl-odd-log-uniform"]
    tensors = {k: t.requires_grad_() for k, t in case.make(torch.float64).items()}
    y, kl = case.call(tensors)
    only_y = torch.autograd.grad(y.sum(), list(tensors.values()), retain_graph=True)
    only_kl = torch.autograd.grad(kl, list(tensors.values()), retain_graph=True, allow_unused=True)
    both = torch.autograd.grad([y.sum(), kl], list(tensors.values()))
    for name, a, b, c in zip(tensors, only_y, only_kl, both, strict=True):
        torch.testing.assert_close(a + (0 if b is None else b), c, rtol=1e-12, atol=1e-12, msg=name)
    assert only_kl[1] is not None and only_kl[1].abs().max() > 0


@pytest.mark.parametrize("dtypes", ["fp32", "fp64"])
@pytest.mark.parametrize("name", ["x", "mu", "log_sigma2", "log_alpha", "bias"])
@pytest.mark.parametrize("prior", PRIORS)
def test_nan_is_not_swallowed(prior: str, name: str, dtypes: str, backend: str) -> None:
    """One NaN that goes in comes out: in its row or column of y, in the KL, and in the gradients they feed.

    A net that diverges must be seen to.
    """
    if name == "log_alpha" and prior not in LOG_ALPHA_PRIORS:
        pytest.skip("needs mu and log_sigma2")
    case = CASES[f"linear_lrt_kl-{'log_alpha' if name == 'log_alpha' else 'odd'}-{prior}"]
    tensors = case.make(DTYPES[dtypes][0])
    tensors[name][3] = torch.nan
    alone = {
        k: t for k, t in tensors.items() if k not in ("x", "bias", "mu" if "log_alpha" in tensors else "")
    }
    actual = results(case, tensors, upstream(case, tensors))
    bad = torch.zeros_like(actual["y"], dtype=torch.bool)
    bad[(3, slice(None)) if name == "x" else (slice(None), 3)] = True
    assert torch.equal(actual["y"].isnan(), bad)
    in_kl = name in alone
    assert actual["kl"].isnan() == in_kl
    assert functional.kl(**alone, prior=prior).isnan() == in_kl
    if in_kl:
        gradients = functional.kl_value_and_grad(**alone, prior=prior)[1:]
        own = gradients[0 if name == "mu" else 1]
        assert own is not None
        assert own[3].isnan().all()
    if name != "bias":  # the gradient does not depend on it
        assert actual[f"d_{name}"][3].isnan().all()
