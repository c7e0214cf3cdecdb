"""conv2d_lrt: the law of its output, its noise, its forms, and how torch sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.cases import CASES, SEED, Case, lay_out, leaves, select
from tests.conv_cases import conv
from tests.plain_conv import conv2d_lrt as plain_conv2d_lrt
from tests.test_generic_ops import results, upstream
from vdropkern import functional

FUSED = CASES["conv2d_lrt_kl-odd-log-uniform"]
# larger than one thread's share of work, so that threads do divide it
THREADED = {
    "3x3": conv("threads", (9, 40, 17, 16), 50, (3, 3), op="conv2d_lrt_kl", padding=1),
    "stride2": conv("threads-stride2", (9, 33, 20, 21), 50, (3, 3), stride=2),
    "columns": conv("threads-columns", (17, 33, 14, 14), 50, (5, 5), padding="valid"),
    "1x1": conv("threads-1x1", (9, 64, 17, 16), 70, (1, 1), padding=0),
    "depthwise": conv("threads-depthwise", (9, 70, 17, 16), 70, (3, 3), groups=70, padding=1),
}


def gradients(outputs: Tensor | tuple[Tensor, ...], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a sum with unequal weights over every output."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in outputs)
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


def test_moments(backend: str) -> None:
    """Over many draws y has mean conv(x, mu) + b and variance conv(x^2, sigma^2) + eps, pixel by pixel."""
    draws = 20_000
    case = conv("moments", (1, 3, 4, 5), 2, (3, 2), padding=1)
    tensors = case.make()
    exact = {k: t.double() for k, t in tensors.items()}
    mean, std = plain_conv2d_lrt(exact, 0.0, case.options)
    (y,) = case.call({**tensors, "x": tensors["x"].expand(draws, -1, -1, -1)})
    z_mean = (y.double().mean(0) - mean[0]) / (std[0] / math.sqrt(draws))
    z_var = (y.double().var(0) / std[0] ** 2 - 1) / math.sqrt(2 / draws)
    p = 2 * stats.norm.sf(torch.cat([z_mean.flatten(), z_var.flatten()]).abs().numpy())
    assert p.min() > 1e-4 / p.size


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", ["odd", "stride2", "blocked", "depthwise", "groups"])
def test_noise_is_philox_normal(name: str, layout: str, backend: str) -> None:
    """y = mean + std e, with e the normals of the same seed in NCHW order, whatever the layout."""
    case = CASES[f"conv2d_lrt-{name}"]
    tensors = {k: lay_out(t, layout) for k, t in case.make(torch.float64).items()}
    (y,) = case.call(tensors)
    noise = functional.philox_normal(SEED, y.shape[0] * y.shape[1], y[0, 0].numel(), torch.float64)
    mean, std = plain_conv2d_lrt(tensors, 0.0, case.options)
    torch.testing.assert_close(((y - mean) / std).reshape(noise.shape), noise, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_dead_receptive_fields(layout: str, dtype: torch.dtype, backend: str) -> None:
    """Where a window sees zeros alone y = b + sqrt(eps) e, and no gradient is wrong or infinite there."""
    case = conv("dead", (2, 16, 13, 14), 16, (3, 3), padding=1)
    tensors = case.make(dtype)
    x = tensors["x"].relu()
    x[:, :, 3:9, 4:12] = 0
    tensors["x"] = lay_out(x, layout)
    found = results(case, tensors, upstream(case, tensors, layout))
    expected = results(
        case, {k: t.double() for k, t in tensors.items()}, [g.double() for g in upstream(case, tensors)]
    )
    bias = tensors["bias"].reshape(-1, 1, 1)
    noise = functional.philox_normal(SEED, 32, 13 * 14, dtype).reshape(found["y"].shape)
    dead = (slice(None), slice(None), slice(4, 8), slice(5, 11))
    # Winograd may take v = 0 for what is 0 within rounding: y within sqrt(eps) of the truth
    assert (found["y"][dead] - (bias + 1e-4 * noise)[dead]).abs().max() <= 1e-4 * noise.abs().max() + 1e-6
    for name, t in found.items():
        error = (t.double() - expected[name]).norm() / expected[name].norm()
        assert error < (1e-4 if dtype == torch.float32 else 1e-10), f"{name}: {error}"


def test_conv1d_is_conv2d_of_one_row(backend: str) -> None:
    x, mu = torch.randn(2, 4, 19), torch.randn(6, 2, 5) * 0.1
    log_sigma2, bias = torch.randn(6, 2, 5) - 5, torch.randn(6)
    tensors = {k: t.requires_grad_() for k, t in zip("xmsb", (x, mu, log_sigma2, bias), strict=True)}
    options: dict[str, Any] = {"groups": 2, "seed": 3, "prior": "ard"}
    one = functional.conv1d_lrt_kl(x, mu, log_sigma2, bias, stride=2, padding=3, dilation=2, **options)
    two = functional.conv2d_lrt_kl(
        x[:, :, None], mu[:, :, None], log_sigma2[:, :, None], bias,
        stride=(1, 2), padding=(0, 3), dilation=(1, 2), **options,
    )  # fmt: skip
    assert torch.equal(one[0], two[0][:, :, 0])
    assert torch.equal(one[1], two[1])
    found, expected = gradients(one, tensors), gradients(two, tensors)
    for name in tensors:
        torch.testing.assert_close(found[name], expected[name])
    plain = functional.conv1d_lrt(x, mu, log_sigma2, bias, stride=2, padding=3, dilation=2, groups=2, seed=3)
    assert torch.equal(plain, one[0])


def test_one_image_without_a_batch(backend: str) -> None:
    t = FUSED.make()
    del t["bias"]
    image = t.pop("x")[0]
    assert torch.equal(
        functional.conv2d_lrt(image, **t, seed=3), functional.conv2d_lrt(image[None], **t, seed=3)[0]
    )
    row = {k: v[:, :, 0] for k, v in t.items()}
    assert functional.conv1d_lrt(image[:, 0], **row, seed=3).shape == (9, 4)


@pytest.mark.parametrize("case", select("conv2d_lrt_kl"), ids=str)
def test_fused_equals_separate(case: Case, backend: str) -> None:
    """conv2d_lrt_kl is conv2d_lrt beside kl, in value and in every gradient."""
    tensors = leaves(case, torch.float64)
    fused = case.call(tensors)
    options = {k: v for k, v in case.options.items() if k != "prior"}
    own = {k: tensors[k] for k in ("mu", "log_sigma2", "log_alpha") if k in tensors}
    if "log_alpha" in own:
        del own["mu"]
    prior = case.options.get("prior", "log-uniform")
    separate = (functional.conv2d_lrt(**tensors, seed=SEED, **options), functional.kl(**own, prior=prior))
    for found, expected in zip(fused, separate, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    a, b = gradients(fused, tensors), gradients(separate, tensors)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("name", THREADED)
@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(name: str, layout: str, backend: str) -> None:
    if backend == "reference":
        pytest.skip("ATen's own affair")
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        tensors = {k: lay_out(t, layout) for k, t in THREADED[name].make().items()}
        found.append(results(THREADED[name], tensors, upstream(THREADED[name], tensors)))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("noise", ["contiguous", "channels_last"])
@pytest.mark.parametrize("image", ["contiguous", "channels_last"])
@pytest.mark.parametrize("case", select("conv2d_lrt", "conv2d_lrt_kl"), ids=str)
def test_weights_lie_where_they_lie(case: Case, image: str, noise: str, backend: str) -> None:
    """Weights in channels last change no result, and their gradients lie as they do: nothing copies them."""
    tensors = case.make()
    tensors["x"] = lay_out(tensors["x"], image)
    layouts = {"mu": "channels_last", "log_sigma2": noise, "log_alpha": noise}
    given = {k: lay_out(t, layouts[k]) if k in layouts else t for k, t in tensors.items()}
    g = upstream(case, tensors)
    found, expected = (
        results(case, {k: t.detach().requires_grad_() for k, t in these.items()}, g)
        for these in (given, tensors)
    )
    for name, t in found.items():
        if backend == "reference" or name == "kl" or "log_alpha" in name:  # sums in another order
            torch.testing.assert_close(t, expected[name], rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(t, expected[name]), name
    for name in layouts.keys() & given.keys():
        if not given[name].is_contiguous():  # in one layout alone
            assert found[f"d_{name}"].stride() == given[name].stride(), name


OPCHECK = ("odd", "groups", "empty_batch", "log_alpha[4]")


@pytest.mark.parametrize(
    "dtypes, layout", [("fp32", "contiguous"), ("bf16+fp32", "channels_last"), ("fp64", "sliced")]
)
@pytest.mark.parametrize("name", OPCHECK)
def test_opcheck(name: str, dtypes: str, layout: str) -> None:
    """The forward op and the op its backward calls: both are public to the compiler."""
    case = CASES[f"conv2d_lrt-{name}"]
    dtype = {"fp32": torch.float32, "fp64": torch.float64, "bf16+fp32": torch.bfloat16}[dtypes]
    noise_dtype = torch.float32 if dtypes == "bf16+fp32" else None
    t = {k: lay_out(v, layout) for k, v in case.make(dtype, noise_dtype=noise_dtype).items()}
    log_alpha = t.get("log_alpha")
    if log_alpha is not None:
        log_alpha = log_alpha.reshape(1, -1, 1, 1)
    stride, padding = case.options.get("stride", 1), case.options.get("padding", 0)
    geometry = (stride, stride, padding, padding, 1, 1, case.options.get("groups", 1))
    prior = "none" if log_alpha is not None else "log-uniform"
    parameters = (t["x"], t["mu"], t.get("log_sigma2"), log_alpha)
    arguments = (*parameters, t["bias"], torch.tensor(SEED), *geometry, prior, 1e-8, math.inf)
    torch.library.opcheck(torch.ops.vdropkern.conv2d_lrt.default, arguments)
    y, r, kl = torch.ops.vdropkern.conv2d_lrt(*arguments)
    grad_kl = None if prior == "none" else torch.ones_like(kl)
    needs = (True, True, True) if layout != "sliced" else (False, True, False)
    torch.library.opcheck(
        torch.ops.vdropkern.conv2d_lrt_backward.default,
        (torch.ones_like(y), grad_kl, *parameters, r, *geometry, prior, math.inf, *needs),
    )


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile(layout: str, dynamic: bool) -> None:
    """One graph, forward and backward, with the results of the eager call."""
    torch._dynamo.reset()
    run = torch.compile(FUSED.call, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (2, 3):
        tensors = {k: lay_out(t, layout) for k, t in FUSED.make().items()}
        tensors["x"] = lay_out(torch.randn(batch, *tensors["x"].shape[1:]), layout)
        tensors = {k: t.requires_grad_() for k, t in tensors.items()}
        found, expected = run(tensors), FUSED.call(tensors)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        for a, b in zip(
            gradients(found, tensors).values(), gradients(expected, tensors).values(), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_saved_for_backward(backend: str) -> None:
    """Beyond the parameters: x and r, in float32. No noise, no variance, no sigma^2."""
    tensors = leaves(FUSED)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y, _ = FUSED.call(tensors)
    known = {t.data_ptr() for t in tensors.values()}
    beyond = [t for t in saved if t.data_ptr() not in known]
    assert [t.shape for t in beyond] == [y.shape]


def arguments(**changed: Any) -> dict[str, Any]:
    """Valid arguments of conv2d_lrt, some of them replaced."""
    weight = torch.zeros(6, 2, 3, 3)
    return {"x": torch.zeros(2, 4, 5, 5), "mu": weight, "log_sigma2": weight, "groups": 2, **changed}


REFUSED = {
    "mu of two dimensions": ({"mu": torch.zeros(6, 2)}, r"mu must be \[O, C / groups, kh, kw\]"),
    "groups": ({"groups": 4}, r"groups must be >= 1 and divide O = 6, got 4"),
    "channels": ({"groups": 1}, r"x must be \[N, C, H, W\] or \[C, H, W\] with C = 2 .* got \(2, 4, 5, 5\)"),
    "log_sigma2": ({"log_sigma2": torch.zeros(6)}, r"log_sigma2 must have mu's shape \(6, 2, 3, 3\)"),
    "bias": ({"bias": torch.zeros(5)}, r"bias must be \[O\] = \(6,\), got \(5,\)"),
    "dtypes": ({"x": torch.zeros(2, 4, 5, 5).double()}, r"x and mu must share one floating dtype"),
    "no noise": ({"log_sigma2": None}, r"give exactly one of log_sigma2 and log_alpha"),
    "log_alpha": (
        {"log_sigma2": None, "log_alpha": torch.zeros(5)},
        r"log_alpha must be a scalar, \[C / groups\], \[O\], or of mu's dimensions",
    ),
    "stride": ({"stride": 0}, r"stride must be an int or 2 ints >= 1, got 0"),
    "padding": ({"padding": (1, 2, 3)}, r"padding must be an int or 2 ints >= 0, got \(1, 2, 3\)"),
    "padding's name": ({"padding": "full"}, r"padding must be ints >= 0, 'same' or 'valid', got 'full'"),
    "same and stride": ({"padding": "same", "stride": 2}, r"padding='same' needs stride 1"),
    "dilation": ({"dilation": 3}, r"the kernel \(3, 3\) with dilation \(3, 3\) does not fit into x"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("function", [functional.conv2d_lrt, functional.conv2d_lrt_kl])
def test_refuses(name: str, function: Any) -> None:
    """Errors start with the function's name and say what was given and what is accepted."""
    changed, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
        function(**arguments(**changed))


def test_kl_refuses_shared_log_alpha_and_priors() -> None:
    with pytest.raises(ValueError, match="conv2d_lrt_kl: log_alpha must have mu's shape, here it is shared"):
        functional.conv2d_lrt_kl(**arguments(log_sigma2=None, log_alpha=torch.zeros(())))
    with pytest.raises(ValueError, match="conv2d_lrt_kl: unknown prior 'none'"):
        functional.conv2d_lrt_kl(**arguments(), prior="none")
    with pytest.raises(ValueError, match=r"conv1d_lrt: mu must be \[O, C / groups, k\]"):
        functional.conv1d_lrt(torch.zeros(1, 2, 3), torch.zeros(2, 2), torch.zeros(2, 2))
