"""linear_lrt: the law of its output, its noise, and how its forms hang together."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from scipy import stats
from torch import Tensor

from tests.cases import CASES, SEED, Case, select
from tests.plain import linear_lrt as plain_linear_lrt
from tests.plain import sigma2_of
from tests.tolerance import assert_close
from vdropkern import functional

DRAWS = 120_000
FORMS = [
    case
    for case in CASES.values()
    if case.id.startswith("linear_lrt-log_alpha[") and case.make()["x"].numel()
]


def double(case: Case) -> dict[str, Tensor]:
    return {k: t.requires_grad_() for k, t in case.make(torch.float64).items()}


def gradients(outputs: Tensor | tuple[Tensor, ...], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a sum with unequal weights over every output."""
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = sum((t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).reshape(t.shape)).sum() for t in outputs)
    return dict(zip(tensors, torch.autograd.grad(loss, list(tensors.values())), strict=True))


def assert_same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], rtol: float = 1e-11) -> None:
    assert found.keys() == expected.keys()
    for name, t in found.items():
        scale = expected[name].abs().max().item() if t.numel() else 0.0
        torch.testing.assert_close(
            t, expected[name], rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def moments_hold(y: Tensor, mean: Tensor, var: Tensor) -> None:
    """Every column of y [draws, O] has this mean and variance, as normals do."""
    n = y.shape[0]
    z = torch.cat([(y.mean(0) - mean) / (var / n).sqrt(), (y.var(0) / var - 1) / math.sqrt(2 / n)])
    p = 2 * stats.norm.sf(z.abs().numpy())
    assert p.min() > 1e-4 / p.size, f"standardised moments {z.tolist()}"


@pytest.mark.parametrize("form", ["log_sigma2", "log_alpha"])
def test_moments(form: str, backend: str) -> None:
    """Over many draws y has mean x mu^T + b and variance x^2 (sigma^2)^T + eps, column by column."""
    case = CASES["linear_lrt-odd" if form == "log_sigma2" else "linear_lrt-log_alpha[11x37]"]
    tensors = case.make()
    tensors["x"] = tensors["x"][:1].expand(DRAWS, -1)
    (y,) = case.call(tensors)
    exact = {k: t.double() for k, t in tensors.items()}
    exact["x"] = exact["x"][:1]
    mean, std = plain_linear_lrt(exact, torch.zeros((), dtype=torch.float64).expand(1, 11), 1e-8)
    moments_hold(y.double(), mean[0], std[0] ** 2)


def test_same_law_as_drawing_the_weights(backend: str) -> None:
    """Each output of the layer and of x W^T, W ~ N(mu, sigma^2), come from one normal distribution."""
    case = CASES["linear_lrt-odd"]
    tensors = {k: t.double() for k, t in case.make().items()}
    x, mu, sd, bias = tensors["x"][0], tensors["mu"], tensors["log_sigma2"].exp().sqrt(), tensors["bias"]
    draws = 40_000
    by_weights = torch.cat(
        [
            (mu + sd * torch.randn(1000, *mu.shape, dtype=torch.float64)) @ x + bias
            for _ in range(draws // 1000)
        ]
    )
    (by_outputs,) = case.call({**tensors, "x": x.expand(draws, -1)})
    moments_hold(by_weights, (mu @ x + bias), sd**2 @ x**2)
    p = [
        stats.ks_2samp(by_weights[:, i].numpy(), by_outputs[:, i].numpy()).pvalue for i in range(mu.shape[0])
    ]
    assert min(p) > 1e-4 / len(p)


def test_outputs_are_independent() -> None:
    """No correlation between columns, nor between rows: the noise is drawn for every element of y."""
    case = CASES["linear_lrt-odd"]
    tensors = case.make()
    tensors["x"] = tensors["x"][:1].expand(DRAWS, -1)
    (y,) = case.call(tensors)
    z = ((y - y.mean(0)) / y.std(0)).double()
    correlation = (z.T @ z / DRAWS)[torch.ones(11, 11).triu(1) > 0] * math.sqrt(DRAWS)
    lagged = (z[1:] * z[:-1]).mean(0) * math.sqrt(DRAWS - 1)
    scores = torch.cat([correlation, lagged])
    assert 2 * stats.norm.sf(scores.abs().max().item()) > 1e-4 / scores.numel()


def test_noise_is_philox_normal(backend: str) -> None:
    """y = mean + std e, with e the normals of the same seed, element by element."""
    for case in (CASES["linear_lrt-leading"], CASES["linear_lrt-blocked"], CASES["linear_lrt-wide_out"]):
        tensors = case.make(torch.float64)
        (y,) = case.call(tensors)
        rows, out = y.shape[:-1].numel(), y.shape[-1]
        noise = functional.philox_normal(SEED, rows, out, torch.float64)
        mean, std = plain_linear_lrt(tensors, torch.zeros_like(noise), 1e-8)
        found = ((y - mean) / std).reshape(rows, out)
        torch.testing.assert_close(found, noise, rtol=1e-9, atol=1e-9)


def test_leading_dimensions_are_rows(backend: str) -> None:
    case = CASES["linear_lrt-leading"]
    tensors = double(case)
    (y,) = case.call(tensors)
    flat = {**tensors, "x": tensors["x"].reshape(24, 10)}
    assert torch.equal(y.reshape(24, 6), case.call(flat)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_input_leaves_eps(dtype: torch.dtype, backend: str) -> None:
    """With x = 0 the output is b + sqrt(eps) e, and no gradient is infinite."""
    tensors = {k: t.requires_grad_() for k, t in CASES["linear_lrt-extreme-x0"].make(dtype).items()}
    for eps in (1e-8, 1e-4):
        y = functional.linear_lrt(**tensors, seed=SEED, eps=eps)
        expected = tensors["bias"] + math.sqrt(eps) * functional.philox_normal(SEED, *y.shape, dtype)
        torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-7)
        for name, g in gradients(y, tensors).items():
            assert torch.isfinite(g).all(), name


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_log_alpha_is_log_sigma2_of_the_product(case: Case, backend: str) -> None:
    """sigma^2 = alpha mu^2: the same y as with log_sigma2 = log_alpha + log mu^2, and its gradients by the
    chain rule."""
    tensors = double(case)
    (y,) = case.call(tensors)
    log_sigma2 = sigma2_of(tensors).log()
    others = {k: t for k, t in tensors.items() if k != "log_alpha"}
    expected = functional.linear_lrt(**others, log_sigma2=log_sigma2, seed=SEED)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert_same(gradients(y, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("case", FORMS, ids=str)
def test_shared_log_alpha_sums_gradients(case: Case, backend: str) -> None:
    """A log_alpha that is shared gets the sum of what its copies would get."""
    tensors = double(case)
    full = sigma2_of(tensors).div(tensors["mu"] ** 2).log()  # [O, I], grown from the shared one by autograd
    (y,) = case.call(tensors)
    (expected,) = case.call({**tensors, "log_alpha": full})
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert_same(gradients(y, tensors), gradients(expected, tensors))


@pytest.mark.parametrize("case", select("linear_lrt_kl"), ids=str)
def test_fused_equals_separate(case: Case, backend: str) -> None:
    """linear_lrt_kl is linear_lrt beside kl, in value and in every gradient."""
    tensors = double(case)
    fused = case.call(tensors)
    prior = case.options.get("prior", "log-uniform")
    y = functional.linear_lrt(**tensors, seed=SEED, clip_log_alpha=case.options.get("clip_log_alpha"))
    own = {k: tensors[k] for k in ("mu", "log_sigma2", "log_alpha") if k in tensors}
    if "log_alpha" in own:
        del own["mu"]
    separate = (y, functional.kl(**own, prior=prior))
    for found, expected in zip(fused, separate, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert_same(gradients(fused, tensors), gradients(separate, tensors))


def test_kl_gradient_is_scaled(backend: str) -> None:
    """The weight of the KL in the loss reaches its gradient: beta / N of a warm-up, or zero."""
    case = CASES["linear_lrt_kl-odd-log-uniform"]
    tensors = double(case)
    y, kl = case.call(tensors)
    parts = [torch.autograd.grad(t, tensors["mu"], retain_graph=True)[0] for t in (y.sum(), kl)]
    for weight in (0.0, 1 / 60000, 5.0):
        (found,) = torch.autograd.grad(y.sum() + weight * kl, tensors["mu"], retain_graph=True)
        torch.testing.assert_close(found, parts[0] + weight * parts[1], rtol=1e-12, atol=1e-14)


def test_gradient_variance_is_below_weight_sampling() -> None:
    """Kingma et al. (2015), section 2.3: noise of its own for every row makes gradients less noisy than one
    draw of the weights for the whole batch."""
    x = torch.randn(64, 10)
    mu, log_sigma2 = torch.randn(4, 10), torch.full((4, 10), -1.0, requires_grad=True)
    target = torch.randn(64, 4)
    by_output, by_weight = [], []
    for seed in range(300):
        y = functional.linear_lrt(x, mu, log_sigma2, seed=seed)
        by_output.append(torch.autograd.grad(((y - target) ** 2).mean(), log_sigma2)[0])
        w = mu + (log_sigma2 / 2).exp() * functional.philox_normal(seed, 4, 10)
        by_weight.append(torch.autograd.grad(((x @ w.T - target) ** 2).mean(), log_sigma2)[0])
    ours, theirs = torch.stack(by_output), torch.stack(by_weight)
    assert ours.var(0).mean() < 0.5 * theirs.var(0).mean()
    # and both estimate one gradient
    z = (ours.mean(0) - theirs.mean(0)) / ((ours.var(0) + theirs.var(0)) / 300).sqrt()
    assert z.abs().max() < 4.5


def test_half_precision_runs_the_variance_in_float32(backend: str) -> None:
    """In float16 x^2 sigma^2 = 1e-4 * e^-10 would vanish, and 1e-8 with it; the noise must survive."""
    x = torch.full((2000, 16), 1e-2, dtype=torch.float16)
    mu = torch.zeros(8, 16, dtype=torch.float16)
    log_sigma2 = torch.full((8, 16), -10.0)
    y = functional.linear_lrt(x, mu, log_sigma2, seed=1).double()
    expected = math.sqrt(16 * float(x[0, 0]) ** 2 * math.exp(-10) + 1e-8)
    assert y.std() == pytest.approx(expected, rel=0.02)


def test_seed_forms(backend: str) -> None:
    case = CASES["linear_lrt-odd"]
    tensors = case.make()
    (y,) = case.call(tensors)
    for seed in (torch.tensor(SEED), torch.tensor([SEED]), torch.tensor([[7, SEED]])[:, 1]):
        assert torch.equal(case.call(tensors, seed=seed)[0], y)
    assert not torch.equal(case.call(tensors, seed=SEED + 1)[0], y)


def test_float64_noise_parameter_of_float32_weights(backend: str) -> None:
    """A wider noise parameter widens the computation, never the result's dtype."""
    case = CASES["linear_lrt-odd"]
    tensors = case.make(torch.float32, noise_dtype=torch.float64)
    y = functional.linear_lrt(**tensors, seed=SEED)
    assert y.dtype == torch.float32
    exact = {k: t.double() for k, t in tensors.items()}
    assert_close(y, functional.linear_lrt(**exact, seed=SEED), None, 1)
