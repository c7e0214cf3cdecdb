"""Natural evolution strategies (Wierstra et al. 2014, JMLR 15) as estimators of a gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .._validate import as_seed
from ..ops.philox_bits import philox_bits
from ..ops.philox_normal import philox_normal
from ..ops.sign_mlp import noise_moments, sign_mlp_losses
from ._net import Loss, Params, SignMlpLoss, flatten, unflatten

FITNESSES = ("raw", "baseline", "rank")
FISHERS = ("none", "analytic", "monte-carlo")


@dataclass(frozen=True)
class NesResult:
    """gradient: of the expected loss by mu, to be subtracted. sigma_gradient: by sigma. losses: of the
    candidates, [M]; antithetic ones in pairs.
    """

    gradient: dict[str, Tensor]
    sigma_gradient: dict[str, Tensor]
    losses: Tensor


def candidate_seeds(seed: Tensor, draws: int) -> Tensor:
    """int64 [draws]: the seed of each draw, made of two words of `philox_bits` of the seed."""
    words = philox_bits(seed, draws, 2)
    return words[:, 0] << 32 | words[:, 1]


def _values(losses: Tensor, fitness: str) -> Tensor:
    """What each candidate's score is weighted with; the mean of the products is the gradient."""
    if fitness == "raw":
        return losses
    if fitness == "baseline":
        return losses - losses.mean()
    m = losses.numel()
    rank = torch.empty_like(losses)
    rank[losses.argsort(stable=True)] = torch.arange(1, m + 1, dtype=losses.dtype, device=losses.device)
    utility = (math.log(m / 2 + 1) - rank.log()).clamp_min(0)
    return 1 - m * utility / utility.sum()


def _losses(loss: Loss, params: Params, sigma: Tensor, seeds: Tensor, antithetic: bool, batch: int) -> Tensor:
    mu = flatten(params)
    if isinstance(loss, SignMlpLoss):
        return sign_mlp_losses(loss.x, loss.y, mu, sigma, seeds, loss.depth, antithetic)
    found = []

    def of(flat: Tensor) -> Tensor:
        return loss(unflatten(flat, params))

    together = torch.func.vmap(of, randomness="different")
    for some in seeds.split(batch):
        e = torch.cat([philox_normal(s, 1, mu.numel(), mu.dtype) for s in some])
        if antithetic:
            e = torch.stack([e, -e], 1).reshape(-1, mu.numel())
        rows = mu + sigma * e
        found.append(torch.stack([of(flat) for flat in rows]) if batch == 1 else together(rows))
    return torch.cat(found)


def _in_order(sigma: Params, params: Params) -> Tensor:
    """All sigmas one after the other, [d], as their parameters stand."""
    fit = sigma.keys() == params.keys() and all(sigma[k].shape == p.shape for k, p in params.items())
    if not fit:
        raise ValueError("nes_gradient: sigma must have the names and shapes of the parameters")
    return flatten({name: sigma[name] for name in params})


def _fisher(seeds: Tensor, d: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Means of squared scores times sigma^2: of e^2, and of (e^2 - 1)^2."""
    for_mu, for_sigma = (torch.zeros(d, dtype=dtype, device=seeds.device) for _ in range(2))
    for seed in seeds:
        e2 = philox_normal(seed, 1, d, dtype)[0] ** 2
        for_mu += e2
        for_sigma += (e2 - 1) ** 2
    return for_mu / len(seeds), for_sigma / len(seeds)


@torch.no_grad()
def nes_gradient(
    loss: Loss,
    params: Params,
    samples: int,
    *,
    sigma: float | Params = 0.1,
    fitness: str = "baseline",
    antithetic: bool = True,
    fisher: str = "none",
    seed: Tensor | int | None = None,
    batch: int = 64,
) -> NesResult:
    """Gradient of E[L(mu + sigma e)], e ~ N(0, 1) a parameter, from values of L alone.

    With scores of the search distribution, grad_mu = 1/M sum_k v_k e_k / sigma and
    grad_sigma = 1/M sum_k v_k (e_k^2 - 1) / sigma (section 2.2 of the paper). All parameters are drawn
    jointly. Noise is drawn twice from seeds, to perturb and to weight, and never stored.

    Args:
        loss: a function of parameters by name. `SignMlpLoss` has a kernel that holds no candidate's weights;
            any other is run under torch.func.vmap, `batch` draws at a time.
        params: mu, floating tensors of one dtype by name.
        samples: M, candidates evaluated; even if antithetic.
        sigma: of all parameters, > 0, or a tensor for each by name.
        fitness: v: ``raw`` the losses, ``baseline`` less their mean, ``rank`` -M times the paper's utilities
            (section 3.1), the smallest loss being the best.
        antithetic: candidates in pairs mu +- sigma e.
        fisher: ``none``: the gradient; ``analytic``: the natural gradient, times sigma^2 and sigma^2 / 2;
            ``monte-carlo``: with both diagonals estimated from the same draws.
        seed: int, int64 tensor of one element, or None: drawn from torch's generator.
        batch: draws evaluated together where there is no kernel; 1: candidates one after the other, without
            torch.func, for losses that it cannot batch.

    Raises:
        ValueError: unknown fitness or fisher, samples, sigma or batch out of range.
    """
    where = "nes_gradient"
    for name, value, accepted in (("fitness", fitness, FITNESSES), ("fisher", fisher, FISHERS)):
        if value not in accepted:
            raise ValueError(f"{where}: unknown {name} {value!r}; accepted: {', '.join(accepted)}")
    if samples < 1 or (antithetic and samples % 2):
        raise ValueError(f"{where}: samples must be >= 1, and even if antithetic, got {samples}")
    if batch < 1:
        raise ValueError(f"{where}: batch must be >= 1, got {batch}")
    mu = flatten(params)
    spread = torch.full_like(mu, sigma) if isinstance(sigma, (int, float)) else _in_order(sigma, params)
    if spread.shape != mu.shape or not bool((spread > 0).all()):
        raise ValueError(f"{where}: sigma must be > 0, one or one a parameter, got {sigma}")
    seeds = candidate_seeds(as_seed(seed, mu.device, where), samples // 2 if antithetic else samples)
    losses = _losses(loss, params, spread, seeds, antithetic, batch)
    v = _values(losses, fitness) / samples
    odd, even = (v[::2] - v[1::2], v[::2] + v[1::2]) if antithetic else (v, v)
    by_mu, by_sigma = noise_moments(seeds, odd, even, mu.numel())
    by_mu, by_sigma = by_mu / spread, by_sigma / spread
    if fisher == "analytic":
        by_mu, by_sigma = by_mu * spread**2, by_sigma * spread**2 / 2
    elif fisher == "monte-carlo":
        for_mu, for_sigma = _fisher(seeds, mu.numel(), mu.dtype)
        by_mu, by_sigma = by_mu * spread**2 / for_mu, by_sigma * spread**2 / for_sigma
    return NesResult(unflatten(by_mu, params), unflatten(by_sigma, params), losses)
