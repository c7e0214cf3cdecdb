"""Nets that tests of model files save."""

from __future__ import annotations

import torch
from torch import Tensor

import vdropkern as vdk
from vdropkern import nn as vnn


class Net(torch.nn.Module):
    """A model that only its own code can build."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(40, 30)
        self.norm = torch.nn.BatchNorm1d(30)
        self.fc2 = torch.nn.Linear(30, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.norm(torch.relu(self.fc1(x))))


def noise(model: torch.nn.Module) -> torch.nn.Module:
    """Let about nine tenths of the variational weights be pruned."""
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, vnn.Linear) and m.method.prune_at is not None:
                m.log_sigma2.copy_(torch.where(torch.rand_like(m.weight) < 0.9, 4.0, -15.0))
    return model


def pruned_mlp() -> torch.nn.Sequential:
    layers = [torch.nn.Flatten(), vnn.Linear(40, 30), torch.nn.ReLU(), vnn.Linear(30, 3)]
    return vdk.sparsify(noise(torch.nn.Sequential(*layers)), shrink=False, max_density=0.5, min_weights=500)  # type: ignore[return-value]
