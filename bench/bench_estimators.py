"""Estimators of the gradient of a net of sign layers, against loops over forward passes in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as TF
from torch import Tensor

import vdropkern as vdk
from vdropkern import estimators
from vdropkern.ops.sign_mlp import layers_of, sign_mlp_losses

from .specs import Contender, Estimate

SAMPLES = 1000  # enough that what all candidates share weighs as little as among the 50,000 of a study
_SIGMA = 0.1


def problem(spec: Estimate) -> tuple[estimators.SignMlpLoss, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.rows, spec.width, generator=generator)
    loss = estimators.SignMlpLoss(x, torch.zeros(spec.rows))
    teacher, student = loss.init(generator), loss.init(generator)
    loss.y = loss.outputs(teacher)
    return loss, student


def _forward(x: Tensor, y: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    *hidden, (weight, bias) = layers
    for w, b in hidden:
        x = TF.linear(x, w, b).sign()
    return ((TF.linear(x, weight, bias)[:, 0] - y) ** 2).mean()


def _plain(spec: Estimate) -> Callable[[], object]:
    """A forward pass a sample, or two a parameter, of which only so many are run."""
    loss, student = problem(spec)
    mu = torch.cat([p.reshape(-1) for p in student.values()])

    def nes() -> Tensor:
        total = torch.zeros_like(mu)
        for _ in range(SAMPLES // 2):
            e = torch.randn_like(mu)
            up, down = (
                _forward(loss.x, loss.y, layers_of(mu + s * _SIGMA * e, spec.width, 3)) for s in (1, -1)
            )
            total += (up - down) * e
        return total / (SAMPLES * _SIGMA)

    def coordinates() -> list[Tensor]:
        found = []
        for i in range(mu.numel()):
            ends = []
            for s in (1, -1):
                moved = mu.clone()
                moved[i] += s * 0.1
                ends.append(_forward(loss.x, loss.y, layers_of(moved, spec.width, 3)))
            found.append((ends[0] - ends[1]) / 0.2)
        return found

    return nes if spec.kind == "nes" else coordinates


def _vdropkern(spec: Estimate) -> Callable[[], object]:
    loss, student = problem(spec)
    if spec.kind == "nes":
        return lambda: estimators.nes_gradient(loss, student, SAMPLES, sigma=_SIGMA, fitness="raw")
    return lambda: estimators.cdg(loss, student)


CONTENDERS = {
    "plain": Contender("a loop over forward passes", _plain, core=True),
    "vdropkern": Contender("vdropkern", _vdropkern, core=True),
}


def gate(spec: Estimate) -> list[str]:
    """Losses of candidates, or every coordinate, against float64; a sum next to 0 may take either sign."""
    loss, student = problem(spec)
    mu = torch.cat([p.reshape(-1) for p in student.values()])
    wide = estimators.SignMlpLoss(loss.x.double(), loss.y.double())
    if spec.kind == "nes":
        seeds, sigma = torch.arange(4), torch.full_like(mu, _SIGMA)
        found = sign_mlp_losses(loss.x, loss.y, mu, sigma, seeds, 3, True)
        with vdk.use_backend("reference"):
            expected = sign_mlp_losses(wide.x, wide.y, mu.double(), sigma.double(), seeds, 3, True)
        # an output moves by two weights of the head where a sign differs, in a row or two
        allowed = 8 * float(expected.max()) / math.sqrt(spec.width) / spec.rows + 1e-6
        worst = float((found - expected).abs().max())
        return [f"losses are off by {worst:.1e}, allowed {allowed:.1e}"] if worst > allowed else []
    exact = estimators.cdg(wide, {k: p.double() for k, p in student.items()})
    near = estimators.cosines(estimators.cdg(loss, student), exact)
    return [f"{name}: cosine {c} to float64" for name, c in near.items() if not c > 0.9999]


def test_estimators(timed: Callable[[], None]) -> None:
    timed()
