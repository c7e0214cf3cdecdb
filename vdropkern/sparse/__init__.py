"""Nets that are left after pruning: how sparse they are, sparse layers, files."""

from .conv import SparseConv2d
from .export import to_dense, to_onnx, to_torch_csr
from .files import ModelFileError, describe, load, save
from .frozen import freeze, to_aotinductor, to_export
from .linear import SparseLinear
from .report import SparsityReport, SparsityRow, sparsity
from .sequential import SparseSequential
from .shrink import ShrinkError, ShrinkReport, ShrinkRow, shrink
from .shrinking.select import Select
from .size import SizeReport, SizeRow, size_report
from .sparsify import plan_sparsification, sparsify
from .structure import register_module

__all__ = [
    "ModelFileError",
    "Select",
    "ShrinkError",
    "ShrinkReport",
    "ShrinkRow",
    "SizeReport",
    "SizeRow",
    "SparseConv2d",
    "SparseLinear",
    "SparseSequential",
    "SparsityReport",
    "SparsityRow",
    "describe",
    "freeze",
    "load",
    "plan_sparsification",
    "register_module",
    "save",
    "shrink",
    "size_report",
    "sparsify",
    "sparsity",
    "to_aotinductor",
    "to_dense",
    "to_export",
    "to_onnx",
    "to_torch_csr",
]
