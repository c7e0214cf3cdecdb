"""What the comparison of estimators leaves open, each answered by a measurement.

A question is a function of the settings that returns its name, what is measured, and rows of labelled
numbers: means over `repeats` teachers, students and batches of one width. Training goes by steps of a
gradient divided by its norm, tensor by tensor, on one batch, with a rate that falls on a straight line to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as TF
from torch import Tensor

from .. import estimators
from ..estimators import SignMlpLoss
from ..estimators._net import Loss
from ._study_config import CHECKED_LR, STES, StudyConfig, problem
from .xnor_resnet18_net import residual_block

Params = dict[str, Tensor]
Step = Callable[[SignMlpLoss, Params, int], Params]  # a gradient, of the loss, at weights, in a step
STE = "polynomial"


class _Means:
    """Rows of numbers by label, averaged over the repeats in which they are defined."""

    def __init__(self, config: StudyConfig) -> None:
        self._seen: dict[str, dict[str, list[float]]] = {}
        self.seeds = [config.seed * 1_000 + repeat for repeat in range(config.repeats)]

    def add(self, label: str, **values: float) -> None:
        row = self._seen.setdefault(label, {})
        for name, value in values.items():
            row.setdefault(name, []).extend([value] if value == value else [])

    def answer(self, name: str, text: str) -> dict[str, Any]:
        rows = [
            {"label": label} | {k: sum(v) / len(v) if v else None for k, v in row.items()}
            for label, row in self._seen.items()
        ]
        return {"name": name, "text": text, "rows": rows}


def _judged(config: StudyConfig, loss: Loss, params: Params, g: Params, exact: Params) -> dict[str, float]:
    """What a gradient is worth: its cosine to the exact one, and the best decrease in one step."""
    return {
        "cosine": estimators.cosines(g, exact)["total"],
        "decrease": _fall(config, loss, params, g),
    }


def _nes(config: StudyConfig, loss: Loss, params: Params, seed: int, **given: Any) -> Params:
    settings = {"samples": config.draws, "sigma": config.sigma, "fitness": "baseline", **given}
    return estimators.nes_gradient(loss, params, seed=seed, **settings).gradient


def _ste(loss: SignMlpLoss, params: Params, _: int) -> Params:
    return estimators.ste_gradient(loss, params, STE)


def _train(loss: SignMlpLoss, params: Params, gradient: Step, steps: int, lr: float = 0.1) -> Params:
    """The weights of the smallest loss on the way."""
    best, least = params, float(loss(params))
    for k in range(steps):
        params = estimators.step(params, gradient(loss, params, k), lr * (1 - k / steps))
        if (now := float(loss(params))) < least:
            best, least = params, now
    return best


def _fall(config: StudyConfig, loss: Loss, params: Params, g: Params) -> float:
    """The best decrease of the loss in one step, over learning rates."""
    return max(estimators.loss_decrease(loss, params, g, config.lrs))


def final_weights(config: StudyConfig) -> dict[str, Any]:
    """mu, or one of the samples?"""
    means = _Means(config)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        fresh = _fresh(config, seed)

        def gradient(loss: SignMlpLoss, params: Params, k: int) -> Params:
            return _nes(config, loss, params, k, fitness="rank")

        mu = _train(loss, student, gradient, max(config.steps // 4, 2))
        means.add("mu", batch=float(loss(mu)), fresh=float(fresh(mu)))
        generator = torch.Generator().manual_seed(seed)
        found = []
        for _ in range(100):
            sample = {k: p + config.sigma * torch.randn(p.shape, generator=generator) for k, p in mu.items()}
            found.append((float(loss(sample)), float(fresh(sample))))
            means.add("a sample", batch=found[-1][0], fresh=found[-1][1])
        best = min(found)
        means.add("the best of 100 samples on the batch", batch=best[0], fresh=best[1])
    return means.answer("mu or a sample as the final weights", "loss after training by NES, rank fitness")


def _fresh(config: StudyConfig, seed: int) -> SignMlpLoss:
    """The loss to the same teacher, which comes first from the same seed, on another batch."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(config.rows, config.width, generator=generator)
    loss = SignMlpLoss(x, torch.zeros(len(x)))
    teacher = loss.init(generator)
    loss.x = torch.randn(config.rows, config.width, generator=generator.manual_seed(seed + 500_000))
    loss.y = loss.outputs(teacher)
    return loss


def fitness(config: StudyConfig) -> dict[str, Any]:
    """The loss or a shaped reward as fitness; antithetic draws."""
    means = _Means(config)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        exact = estimators.cdg(loss, student, config.eps)
        for kind in estimators.FITNESSES:
            for antithetic in (False, True):
                g = _nes(config, loss, student, seed, fitness=kind, antithetic=antithetic)
                means.add(
                    f"{kind}, {'antithetic' if antithetic else 'independent'}",
                    **_judged(config, loss, student, g, exact),
                )
    return means.answer(
        "the loss or a shaped reward as fitness", "NES: cosine to CDG, best decrease in one step"
    )


def jointly(config: StudyConfig) -> dict[str, Any]:
    """All weights perturbed together, a layer at a time, or one by one, with as many samples in all."""
    means = _Means(config)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        exact = estimators.cdg(loss, student, config.eps)
        layers = sorted({name.partition(".")[0] for name in student})
        by_layer: Params = {}
        for layer in layers:
            # the others stand still: what they are moved by flips no sign
            sigma = {
                k: torch.full_like(p, config.sigma if k.startswith(layer) else 1e-9)
                for k, p in student.items()
            }
            share = config.draws // len(layers) // 2 * 2
            g = estimators.nes_gradient(loss, student, share, sigma=sigma, seed=seed).gradient
            by_layer |= {k: v for k, v in g.items() if k.startswith(layer)}
        found = {
            "jointly": _nes(config, loss, student, seed),
            "a layer at a time": {k: by_layer[k] for k in student},
            "one by one": _one_by_one(config, loss, student, seed),
        }
        for label, g in found.items():
            means.add(label, **_judged(config, loss, student, g, exact))
    return means.answer(
        "weights sampled jointly or one by one", "equal samples in all: cosine to CDG, best decrease"
    )


@torch.no_grad()
def _one_by_one(config: StudyConfig, loss: SignMlpLoss, params: Params, seed: int) -> Params:
    """An antithetic pair a weight as long as the samples last, at least one."""
    generator = torch.Generator().manual_seed(seed)
    pairs = max(config.draws // sum(p.numel() for p in params.values()) // 2, 1)
    found = {k: torch.zeros_like(p) for k, p in params.items()}
    for name, p in params.items():
        flat, g = p.reshape(-1), found[name].view(-1)
        for i in range(p.numel()):
            for e in torch.randn(pairs, generator=generator):
                ends = []
                for sign in (1, -1):
                    moved = flat.clone()
                    moved[i] += sign * config.sigma * e
                    ends.append(loss(params | {name: moved.view_as(p)}))
                g[i] += (ends[0] - ends[1]) * e / (2 * pairs * config.sigma)
    return found


def sigmas(config: StudyConfig) -> dict[str, Any]:
    """How far to perturb."""
    means = _Means(config)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        exact = estimators.cdg(loss, student, config.eps)
        for sigma in (0.01, 0.03, 0.1, 0.3, 1.0):
            g = _nes(config, loss, student, seed, sigma=sigma)
            means.add(f"sigma {sigma}", **_judged(config, loss, student, g, exact))
    return means.answer("sigma", "NES: cosine to CDG, best decrease in one step")


def after_convergence(config: StudyConfig) -> dict[str, Any]:
    """The estimators where a straight-through one has come to rest."""
    means = _Means(config)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        rest = _train(loss, student, _ste, config.steps)
        exact = estimators.cdg(loss, rest, config.eps)
        found = {"cdg": exact, "nes": _nes(config, loss, rest, seed)}
        found |= {name: estimators.ste_gradient(loss, rest, name) for name in STES}
        for label, g in found.items():
            means.add(
                label,
                **_judged(config, loss, rest, g, exact),
                loss=float(loss(rest)),
            )
    return means.answer("estimators after convergence", f"at the smallest loss of training by {STE}")


def switching(config: StudyConfig) -> dict[str, Any]:
    """From a straight-through estimator to NES where it has come to rest."""
    means = _Means(config)
    more = max(config.steps // 4, 2)
    for seed in means.seeds:
        loss, student = problem(config.width, config.rows, seed)
        rest = _train(loss, student, _ste, config.steps)
        means.add("at rest", loss=float(loss(rest)))

        def nes(loss: SignMlpLoss, params: Params, k: int) -> Params:
            return _nes(config, loss, params, k)

        def cdg(loss: SignMlpLoss, params: Params, _: int) -> Params:
            return estimators.cdg(loss, params, config.eps)

        for label, gradient in (("the same estimator again", _ste), ("nes", nes), ("cdg", cdg)):
            for lr in (CHECKED_LR, CHECKED_LR / 5):
                means.add(f"{label}, lr {lr}", loss=float(loss(_train(loss, rest, gradient, more, lr))))
    return means.answer("from STE to NES at rest", f"smallest loss of {more} more steps")


def residual_layer(config: StudyConfig) -> dict[str, Any]:
    """The loss decrease of one layer of a binary residual block."""
    means = _Means(config)
    name, channels = "3.body.0.weight", 4
    draws = max(config.draws // 10, 2) * 2
    for seed in means.seeds:
        torch.manual_seed(seed)
        nets = {estimator: _block_net(channels, estimator) for estimator in STES}
        net = nets["hard-tanh"]
        x = torch.randn(64, 3, 8, 8)
        with torch.no_grad():
            net(x)  # statistics of the norms
        teacher = _block_net(channels, "hard-tanh")
        with torch.no_grad():
            teacher(x)
            target = teacher.eval()(x)
        losses = {}
        for estimator, twin in nets.items():
            twin.load_state_dict(net.state_dict())
            losses[estimator] = estimators.module_loss(twin.eval(), partial(TF.mse_loss, target=target), x)
        loss, weight = losses["hard-tanh"], net.get_parameter(name).detach()
        params = {name: weight}
        size = float(weight.abs().mean())  # of a weight: what moves one across 0
        with torch.no_grad():
            start = float(loss(params))
        exact = estimators.cdg(loss, params, size)
        found = {"cdg": exact, "nes": _nes(config, loss, params, seed, sigma=size, samples=draws, batch=1)}
        for estimator in STES:
            leaf = weight.clone().requires_grad_()
            found[estimator] = {name: torch.autograd.grad(losses[estimator]({name: leaf}), leaf)[0]}
        for label, g in found.items():
            cosine = estimators.cosines(g, exact)["total"]
            means.add(label, cosine=cosine, decrease=_fall(config, loss, params, g), loss=start)
    return means.answer(
        "one layer of a residual block",
        f"first convolution of a binary block of {channels} channels, 64 images of 8 x 8; NES of {draws}",
    )


def _block_net(channels: int, estimator: str) -> torch.nn.Sequential:
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, channels, 3, 1, 1),
        torch.nn.BatchNorm2d(channels),
        torch.nn.ReLU(),
        residual_block(channels, channels, 1, binary=True, estimator=estimator),
        torch.nn.BatchNorm2d(channels),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(channels, 10),
    )


QUESTIONS = (final_weights, fitness, jointly, sigmas, after_convergence, switching, residual_layer)
