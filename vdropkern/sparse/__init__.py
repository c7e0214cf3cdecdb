"""Nets that are left after pruning: how sparse they are, sparse layers, files."""

from .conv import SparseConv2d
from .files import ModelFileError, describe, load, save
from .linear import SparseLinear
from .report import SparsityReport, SparsityRow, sparsity
from .sequential import SparseSequential
from .sparsify import plan_sparsification, sparsify
from .structure import register_module

__all__ = [
    "ModelFileError",
    "SparseConv2d",
    "SparseLinear",
    "SparseSequential",
    "SparsityReport",
    "SparsityRow",
    "describe",
    "load",
    "plan_sparsification",
    "register_module",
    "save",
    "sparsify",
    "sparsity",
]
