"""Nets that are left after pruning: how sparse they are, sparse layers, files."""

from .files import ModelFileError, describe, load, save
from .linear import SparseLinear
from .report import SparsityReport, SparsityRow, sparsity
from .sequential import SparseSequential
from .shrink import ShrinkError, ShrinkReport, ShrinkRow, shrink
from .shrinking.select import Select
from .sparsify import plan_sparsification, sparsify
from .structure import register_module

__all__ = [
    "ModelFileError",
    "Select",
    "ShrinkError",
    "ShrinkReport",
    "ShrinkRow",
    "SparseLinear",
    "SparseSequential",
    "SparsityReport",
    "SparsityRow",
    "describe",
    "load",
    "plan_sparsification",
    "register_module",
    "save",
    "shrink",
    "sparsify",
    "sparsity",
]
