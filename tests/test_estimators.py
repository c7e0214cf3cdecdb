"""NES, coordinate differences and straight-through gradients, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerance import assert_close
from vdropkern import estimators as E
from vdropkern.ops.philox_normal.reference import philox_normal
from vdropkern.ops.sign_mlp import layers_of, noise_moments, outputs_of, sign_mlp_losses

SEEDS = torch.tensor([3, -5, 2**62 + 1, -(2**63)])


def problem(
    n: int, rows: int, dtype: torch.dtype = torch.float64, depth: int = 3
) -> tuple[Any, dict[str, Tensor]]:
    """A student and the loss to a teacher."""
    g = torch.Generator().manual_seed(n)
    x = torch.randn(rows, n, generator=g, dtype=dtype)
    loss = E.SignMlpLoss(x, torch.zeros(rows, dtype=dtype), depth)
    teacher, student = loss.init(g), loss.init(g)
    loss.y = loss.outputs(teacher)
    return loss, student


def plain_loss(x: Tensor, y: Tensor, p: Mapping[str, Tensor]) -> Tensor:
    h = x
    for i in range(1, len(p) // 2):
        h = torch.nn.functional.linear(h, p[f"fc{i}.weight"], p[f"fc{i}.bias"])
        h = torch.where(h < 0, -1.0, 1.0).to(x.dtype)
    out = torch.nn.functional.linear(h, p["head.weight"], p["head.bias"])[:, 0]
    return ((out - y) ** 2).mean()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("n, rows", [(1, 5), (2, 70), (5, 129), (17, 64), (33, 200), (64, 65)])
def test_losses_of_candidates(n: int, rows: int, depth: int, backend: str) -> None:
    """Rows whose sums are too near 0 for float32 to tell their sign are left out, for every candidate."""
    loss, student = problem(n, rows, depth=depth)
    mu = torch.cat([p.reshape(-1) for p in student.values()]).float().double()
    sigma = torch.linspace(0.05, 0.2, mu.numel()).double()
    x = loss.x.float().double()
    clear = torch.ones(rows, dtype=torch.bool)
    for seed in SEEDS:
        for sign in (1, -1):
            e = philox_normal(seed, 1, mu.numel(), torch.float64)[0]
            for z in outputs_of(x, mu + sign * sigma * e, depth)[1]:
                clear &= z.abs().amin(1) > 1e-4
    assert clear.sum() > rows // 2
    x, y = x[clear], loss.y[clear].float().double()
    expected = sign_mlp_losses(x, y, mu, sigma, SEEDS, depth, True)
    found = sign_mlp_losses(*(t.float() for t in (x, y, mu, sigma)), SEEDS, depth, True)
    # an output is a sum of n + 1 weights, each of which is mu + sigma e
    size = ((mu.abs() + 6 * sigma)[-n - 1 :].sum() + y.abs().max()) ** 2
    assert_close(found, expected, 4 * size.expand_as(expected), n + len(x), "losses")
    one_side = sign_mlp_losses(*(t.float() for t in (x, y, mu, sigma)), SEEDS, depth, False)
    assert torch.equal(one_side, found[::2])


@pytest.mark.parametrize("kind", ["plain", "outlier", "no means", "wide", "not a number", "infinite", "tiny"])
@pytest.mark.parametrize("n, depth", [(3, 1), (31, 2), (32, 3), (33, 1), (100, 3)])
def test_no_sign_is_wrong(n: int, depth: int, kind: str, backend: str) -> None:
    """A wrong sign moves a loss by about 1 / rows. Inputs that do not fit sixteen bits, zeros, NaN."""
    loss, student = problem(n, 300, torch.float32, depth)
    mu, x, y = torch.cat([p.reshape(-1) for p in student.values()]), loss.x, loss.y
    sigma = torch.full_like(mu, 0.1)
    if kind == "outlier":
        x[7, n // 2] = 1e6
    elif kind == "no means":
        mu = torch.zeros_like(mu)
    elif kind == "wide":
        sigma *= torch.logspace(-3, 3, len(mu))
    elif kind == "not a number":
        x[5, 0] = math.nan
    elif kind == "infinite":  # a weight of the last layer of signs
        mu[(depth - 1) * (n * n + n) + n - 1] = -math.inf
    elif kind == "tiny":
        mu[: -n - 1] *= 1e-32
        sigma[: -n - 1] *= 1e-32
    candidates = [
        mu.double() + sign * sigma.double() * philox_normal(seed, 1, len(mu), torch.float64)[0]
        for seed in SEEDS
        for sign in (1, -1)
    ]
    clear = torch.ones(len(x), dtype=torch.bool)
    for flat in candidates:
        sizes = [x.abs().double(), *[torch.ones(n, dtype=torch.float64)] * (depth - 1)]
        before = outputs_of(x.double(), flat, depth)[1]
        for (w, b), size, z in zip(layers_of(flat, n, depth)[:-1], sizes, before, strict=True):
            near = z.abs() < 1e-5 * (size @ w.abs().T + b.abs())
            clear &= ~near.any(1) | z.isnan().any(1)
    assert clear.sum() > 200
    x, y = x[clear], y[clear]
    expected = sign_mlp_losses(x.double(), y.double(), mu.double(), sigma.double(), SEEDS, depth, True)
    found = sign_mlp_losses(x, y, mu, sigma, SEEDS, depth, True)
    assert_close(found, expected, expected, n + len(x), "losses")


def test_losses_are_those_of_the_plain_net() -> None:
    loss, student = problem(6, 50)
    e = philox_normal(SEEDS[0], 1, sum(p.numel() for p in student.values()), torch.float64)[0]
    parts = e.split([p.numel() for p in student.values()])
    moved = {k: p + 0.1 * part.reshape(p.shape) for (k, p), part in zip(student.items(), parts, strict=True)}
    mu = torch.cat([p.reshape(-1) for p in student.values()])
    found = sign_mlp_losses(loss.x, loss.y, mu, torch.full_like(mu, 0.1), SEEDS[:1], 3, False)
    torch.testing.assert_close(found[0], plain_loss(loss.x, loss.y, moved), rtol=1e-12, atol=0)
    torch.testing.assert_close(loss(moved), found[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("draws, d", [(1, 1), (3, 70), (600, 131)])
def test_noise_moments(draws: int, d: int, backend: str) -> None:
    seeds = torch.arange(draws) * 7 - 3
    u, v = torch.randn(2, draws)
    e = torch.cat([philox_normal(s, 1, d, torch.float64) for s in seeds])
    wide_u, wide_v = u.double(), v.double()
    first, second = noise_moments(seeds, u, v, d)
    assert_close(first, wide_u @ e, wide_u.abs() @ e.abs(), draws, "first")
    assert_close(second, wide_v @ (e**2 - 1), wide_v.abs() @ (e**2 + 1), 2 * draws, "second")


def test_threads_do_not_matter(threads: None, backend: str) -> None:
    loss, student = problem(8, 100, torch.float32)
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(E.nes_gradient(loss, student, 40, seed=1))
    for name in student:
        assert torch.equal(results[0].gradient[name], results[1].gradient[name])
    assert torch.equal(results[0].losses, results[1].losses)


@pytest.mark.parametrize("fisher", ["none", "analytic", "monte-carlo"])
@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("fitness", E.FITNESSES)
def test_nes_is_its_formula(fitness: str, antithetic: bool, fisher: str) -> None:
    """The same sums, spelled out over all draws; the loss is any function of any parameters."""
    params = {"a": torch.randn(3, 2, dtype=torch.float64), "b.c": torch.randn(4, dtype=torch.float64)}

    def loss(p: Mapping[str, Tensor]) -> Tensor:
        return (p["a"] ** 3).sum() + p["b.c"].cos().prod() * p["a"].sum()

    m, sigma = 24, 0.3
    found = E.nes_gradient(
        loss, params, m, sigma=sigma, fitness=fitness, antithetic=antithetic, fisher=fisher, seed=9, batch=5
    )
    seeds = E.candidate_seeds(torch.tensor(9), m // 2 if antithetic else m)
    e = torch.cat([philox_normal(s, 1, 10, torch.float64) for s in seeds])
    own = e
    if antithetic:
        e = torch.stack([e, -e], 1).reshape(m, 10)
    mu = torch.cat([p.reshape(-1) for p in params.values()])
    values = torch.stack([loss({"a": w[:6].reshape(3, 2), "b.c": w[6:]}) for w in mu + sigma * e])
    torch.testing.assert_close(found.losses, values, rtol=1e-12, atol=1e-12)
    if fitness == "baseline":
        values = values - values.mean()
    if fitness == "rank":
        order = sorted(range(m), key=lambda k: float(values[k]))
        u = [max(0.0, math.log(m / 2 + 1) - math.log(order.index(k) + 1)) for k in range(m)]
        values = -m * (torch.tensor(u, dtype=torch.float64) / sum(u) - 1 / m)
    by_mu = (values[:, None] * e / sigma).mean(0)
    by_sigma = (values[:, None] * (e**2 - 1) / sigma).mean(0)
    if fisher == "analytic":
        by_mu, by_sigma = by_mu * sigma**2, by_sigma * sigma**2 / 2
    if fisher == "monte-carlo":
        by_mu = by_mu / (own**2).mean(0) * sigma**2
        by_sigma = by_sigma / ((own**2 - 1) ** 2).mean(0) * sigma**2
    for got, expected in ((found.gradient, by_mu), (found.sigma_gradient, by_sigma)):
        flat = torch.cat([g.reshape(-1) for g in got.values()])
        assert got["a"].shape == (3, 2)
        torch.testing.assert_close(flat, expected, rtol=1e-10, atol=1e-10)


def test_nes_of_a_module_and_its_kernel_agree() -> None:
    loss, student = problem(4, 60, torch.float32)
    found = E.nes_gradient(loss, student, 30, seed=2)
    generic = E.nes_gradient(lambda p: plain_loss(loss.x, loss.y, p), student, 30, seed=2)
    single = E.nes_gradient(lambda p: plain_loss(loss.x, loss.y, p), student, 30, seed=2, batch=1)
    torch.testing.assert_close(single.losses, generic.losses)
    close = (found.losses - generic.losses).abs() < 1e-4  # a sum next to 0 may take either sign
    assert close.double().mean() > 0.9
    net = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Tanh())
    x = torch.randn(7, 5)
    of_module = E.module_loss(net, lambda y: y.square().mean(), x)
    params = dict(net.named_parameters())
    gradient = E.nes_gradient(of_module, params, 1000, sigma=0.01, seed=3).gradient
    exact = torch.autograd.grad(of_module(params), list(params.values()))
    assert E.cosines(gradient, dict(zip(params, exact, strict=True)))["total"] > 0.95


def test_more_samples_come_closer_to_the_coordinate_gradient() -> None:
    loss, student = problem(8, 500, torch.float32)
    exact = E.cdg(loss, student)
    near = [
        E.cosines(E.nes_gradient(loss, student, m, seed=4).gradient, exact)["total"]
        for m in (100, 1000, 20_000)
    ]
    assert near[0] < near[1] < near[2]
    assert near[2] > 0.7


@pytest.mark.parametrize("n, depth", [(1, 1), (2, 3), (5, 2), (8, 3)])
@pytest.mark.parametrize("eps", [0.1, 0.01])
def test_incremental_cdg_is_brute_force(n: int, depth: int, eps: float) -> None:
    loss, student = problem(n, 300, depth=depth)
    fast = E.cdg(loss, student, eps)
    slow = E.cdg(loss, student, eps, incremental=False)
    assert fast.keys() == slow.keys()
    for name in slow:
        torch.testing.assert_close(fast[name], slow[name], rtol=1e-9, atol=1e-12, msg=name)
    assert sum(float(g.abs().sum()) for g in slow.values()) > 0


@pytest.mark.parametrize("estimator", ["identity", "hard-tanh", "steep", "swish", "polynomial"])
def test_ste_gradients_point_where_the_coordinate_gradient_does(estimator: str) -> None:
    loss, student = problem(16, 2000)
    near = E.cosines(E.ste_gradient(loss, student, estimator), E.cdg(loss, student))
    assert near.keys() == {"fc1", "fc2", "fc3", "head", "total"}
    assert near["total"] > 0.5
    assert near["head"] == pytest.approx(1.0)


def test_loss_decrease_and_steps() -> None:
    loss, student = problem(8, 1000)
    gradient = E.cdg(loss, student)
    decrease = E.loss_decrease(loss, student, gradient, [0.0, 0.01])
    assert decrease[0] == 0
    assert decrease[1] > 0
    moved = E.step(student, gradient, 0.5)
    assert (moved["fc1.weight"] - student["fc1.weight"]).norm() == pytest.approx(0.5, rel=1e-5)
    together = E.step(student, gradient, 0.5, "all")
    moves = [(together[k] - student[k]).reshape(-1) for k in student]
    assert torch.cat(moves).norm() == pytest.approx(0.5, rel=1e-5)
    plain = E.step(student, gradient, 0.5, "none")
    torch.testing.assert_close(plain["head.bias"], student["head.bias"] - 0.5 * gradient["head.bias"])


def test_opcheck() -> None:
    loss, student = problem(4, 9, torch.float32)
    mu = torch.cat([p.reshape(-1) for p in student.values()])
    ops = torch.ops.vdropkern
    arguments = (loss.x, loss.y, mu, torch.ones_like(mu), SEEDS, 3, True)
    torch.library.opcheck(ops.sign_mlp_losses.default, arguments)
    torch.library.opcheck(ops.noise_moments.default, (SEEDS, torch.ones(4), torch.ones(4), 7))


def test_bad_arguments_are_named() -> None:
    loss, student = problem(2, 5)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"fitness": "x"}, "unknown fitness 'x'; accepted: raw, baseline, rank"),
        ({"fisher": "x"}, "unknown fisher 'x'"),
        ({"samples": 3}, "samples must be >= 1, and even if antithetic, got 3"),
        ({"sigma": 0.0}, "sigma must be > 0"),
        ({"sigma": {"a": torch.ones(1)}}, "sigma must have the names and shapes of the parameters"),
        ({"batch": 0}, "batch must be >= 1"),
    ]
    for given, said in cases:
        with pytest.raises(ValueError, match=said):
            E.nes_gradient(**{"loss": loss, "params": student, "samples": 4, **given})
    with pytest.raises(ValueError, match="eps must be > 0"):
        E.cdg(loss, student, 0)
    with pytest.raises(ValueError, match="incremental is for SignMlpLoss"):
        E.cdg(lambda p: p["a"].sum(), {"a": torch.ones(1)}, incremental=True)
    with pytest.raises(ValueError, match="unknown normalise"):
        E.step(student, student, 1.0, "x")
    with pytest.raises(ValueError, match=r"x must be \[B, n\]"):
        E.SignMlpLoss(torch.ones(3), torch.ones(3))
    # CDG's and NES's fast paths are of signs
    with pytest.raises(ValueError, match=r"estimator must be one of identity, .*, got 'ternary'"):
        E.SignMlpLoss(torch.ones(3, 2), torch.ones(3), estimator="ternary")


def test_parameters_without_dimensions() -> None:
    def loss(p: Mapping[str, Tensor]) -> Tensor:
        return p["a"] * p["b"]

    params = {"a": torch.tensor(3.0), "b": torch.tensor(2.0)}
    found = E.cdg(loss, params)
    torch.testing.assert_close(found, {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}, rtol=1e-4, atol=1e-4)
    for batch in (1, 64):
        g = E.nes_gradient(loss, params, 200, sigma=0.01, seed=0, batch=batch).gradient
        assert E.cosines(g, found)["total"] > 0.99


def test_sigmas_are_taken_by_name() -> None:
    loss, student = problem(4, 50)
    sigma = {name: torch.full_like(p, 0.1 + 0.1 * i) for i, (name, p) in enumerate(student.items())}
    one, other = (
        E.nes_gradient(loss, student, 40, sigma=given, seed=1).gradient
        for given in (sigma, dict(reversed(sigma.items())))
    )
    assert all(torch.equal(one[name], other[name]) for name in student)
