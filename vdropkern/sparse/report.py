"""How sparse a model is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.utils import parametrize

from .._surgery import PLAIN, check_whole, plain_class, table
from ..nn import Variational
from ._layer import SparseLayer

__all__ = ["SparsityReport", "SparsityRow", "sparsity"]


@dataclass(frozen=True)
class SparsityRow:
    """One weight: its name, its layer's kind, how many numbers it has and how many of them are nonzero."""

    name: str
    kind: str
    weights: int
    nonzero: int

    @property
    def sparsity(self) -> float:
        """Share of zeros, in [0, 1]; 0 for an empty weight."""
        return 1 - self.nonzero / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Rows and totals; prints as a table."""

    rows: tuple[SparsityRow, ...]

    @property
    def weights(self) -> int:
        return sum(row.weights for row in self.rows)

    @property
    def nonzero(self) -> int:
        return sum(row.nonzero for row in self.rows)

    @property
    def sparsity(self) -> float:
        """Share of zeros over all weights, in [0, 1]."""
        return 1 - self.nonzero / self.weights if self.weights else 0.0

    @property
    def compression(self) -> float:
        """weights / nonzero, as the literature counts; inf where nothing is left, 1 where nothing was."""
        if self.nonzero:
            return self.weights / self.nonzero
        return math.inf if self.weights else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as plain numbers and strings."""
        rows = [
            {
                "name": row.name,
                "kind": row.kind,
                "weights": row.weights,
                "nonzero": row.nonzero,
                "sparsity": row.sparsity,
            }
            for row in self.rows
        ]
        totals = {name: getattr(self, name) for name in ("weights", "nonzero", "sparsity", "compression")}
        return {"rows": rows, **totals}

    def __str__(self) -> str:
        head = ("layer", "kind", "weights", "nonzero", "sparsity")
        lines: list[tuple[str, ...]] = [
            (row.name, row.kind, f"{row.weights:,}", f"{row.nonzero:,}", f"{row.sparsity:.2%}")
            for row in self.rows
        ]
        lines.append(("total", "", f"{self.weights:,}", f"{self.nonzero:,}", f"{self.sparsity:.2%}"))
        return f"{table(head, lines, right=(2, 3, 4))}\ncompression {self.compression:.1f}x"


@torch.no_grad()
def sparsity(model: torch.nn.Module) -> SparsityReport:
    """Count the weights of a model and how many of them are nonzero, per layer and in all.

    Weights are parameters of two or more dimensions: biases, normalisation and noise parameters do not
    count. Of a variational layer the pruned mean weights are counted, those that eval mode computes with; of
    a sparse layer the dense matrix it stands for; of a weight that a hook (torch.nn.utils.prune) or a
    parametrization computes, its result. Every parameter counts once, however often it is used;
    layers without a method count too, as a net is only as small as all of its weights.

    Args:
        model: any module.

    Returns:
        a `SparsityReport`.
    """
    check_whole(model, "sparsity")
    rows: list[SparsityRow] = []
    seen: set[torch.Tensor] = set()
    for name, module in model.named_modules():
        label = name or "(model)"
        if isinstance(module, SparseLayer):
            nonzero = int(torch.count_nonzero(module.values))
            rows.append(SparsityRow(label, type(module).__name__, math.prod(module.matrix_shape), nonzero))
            continue
        if isinstance(module, PLAIN) and "weight" not in module._parameters:
            if not seen.issuperset(made_of := _made_of(module)):
                rows.append(_row(label, _kind(module), _weight(module)))
            seen.update(made_of)
        noise = {id(p) for p in module.noise_parameters()} if isinstance(module, Variational) else set()
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim < 2 or id(parameter) in noise or parameter in seen:
                continue
            seen.add(parameter)
            is_mean = isinstance(module, Variational) and parameter is module.weight
            own = label if parameter_name == "weight" else f"{label}.{parameter_name}"
            rows.append(_row(own, _kind(module), _weight(module) if is_mean else parameter))
    return SparsityReport(tuple(rows))


def _row(name: str, kind: str, weight: torch.Tensor) -> SparsityRow:
    return SparsityRow(name, kind, weight.numel(), int(torch.count_nonzero(weight)))


def _kind(module: torch.nn.Module) -> str:
    if isinstance(module, Variational):
        return module.method.name
    if isinstance(module, PLAIN) and parametrize.is_parametrized(module):
        return plain_class(module).__name__
    return type(module).__name__


def _weight(layer: Any) -> torch.Tensor:
    weight: torch.Tensor = layer.pruned_weight() if isinstance(layer, Variational) else layer.weight
    return weight


def _made_of(layer: torch.nn.Module) -> set[torch.Tensor]:
    """The parameters from which a hook or a parametrization computes the layer's weight."""
    if parametrize.is_parametrized(layer, "weight"):
        return set(layer.get_submodule("parametrizations.weight").parameters())
    return {p for name, p in layer._parameters.items() if p is not None and name.startswith("weight_")}
