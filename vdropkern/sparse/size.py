"""How many bytes a model's weights take: dense, as held, in a file, and coded as the papers count."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .._surgery import check_whole, table
from ._layer import SparseLayer

__all__ = ["SizeReport", "SizeRow", "size_report"]

_INDEX_BITS = 8  # of an index difference; a larger one takes a zero in between, as in Deep Compression


@dataclass(frozen=True)
class SizeRow:
    """The bytes of one parameter or sparse layer.

    Attributes:
        name: of the module, or of its parameter.
        dense: all numbers, zeros included, in the dtype they have; int8 ones counted as float32.
        memory: as held now, with what a sparse layer's kernel has packed.
        stored: as `vdropkern.save` writes it, without the file's header.
        entropy: values and index differences at their entropies; see `size_report`.
    """

    name: str
    dense: int
    memory: int
    stored: int
    entropy: float


@dataclass(frozen=True)
class SizeReport:
    """Rows and totals; prints as a table."""

    rows: tuple[SizeRow, ...]

    @property
    def total(self) -> SizeRow:
        """The sums of all columns."""
        columns = ("dense", "memory", "stored", "entropy")
        return SizeRow("total", *(sum(getattr(row, name) for row in self.rows) for name in columns))

    def to_dict(self) -> dict[str, Any]:
        """Rows and totals as plain numbers and strings."""
        return {"rows": [asdict(row) for row in self.rows], "total": asdict(self.total)}

    def __str__(self) -> str:
        head = ("bytes of", "dense", "in memory", "on disk", "entropy-coded")
        lines: list[tuple[str, ...]] = [
            (row.name, f"{row.dense:,}", f"{row.memory:,}", f"{row.stored:,}", f"{math.ceil(row.entropy):,}")
            for row in (*self.rows, self.total)
        ]
        return table(head, lines, right=(1, 2, 3, 4))


@torch.no_grad()
def size_report(model: torch.nn.Module) -> SizeReport:
    """The bytes of every weight, bias and buffer of a model, each counted once.

    Entropy-coded size is counted as Han et al. count it (Deep Compression, ICLR 2016, sections 2 and 4): of a
    weight of two or more dimensions the nonzero values and the differences of their places, row by row, are
    coded each at its entropy, the least that Huffman coding can come to; a difference that 8 bits do not hold
    takes a zero in between. Nothing is quantised for it: values that are all different cost log2(nnz) bits
    each and, as a codebook would have to hold them, are counted at no less than their own bits. Other
    numbers count as they are.

    Args:
        model: any module.

    Returns:
        a `SizeReport`.
    """
    check_whole(model, "size_report")
    rows: list[SizeRow] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        new = [(key, t) for key, t in own if id(t) not in seen]
        seen.update(id(t) for _, t in new)
        if isinstance(module, SparseLayer):
            rows += [_of_sparse(name or "(model)", module)] if new else []
            continue
        for key, tensor in new:
            held = _bytes(tensor)
            coded = _coded(tensor) if tensor.ndim >= 2 else float(held)
            rows.append(SizeRow(f"{name}.{key}".removeprefix("."), held, held, held, coded))
    return SizeReport(tuple(rows))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _of_sparse(name: str, layer: SparseLayer) -> SizeRow:
    stored = layer.stored_bytes()
    width = 4 if layer.store == "int8" else layer.values.element_size()
    rest = sum(_bytes(t) for t in (layer.bias, layer.scales) if t is not None)
    matrix = layer.weight_matrix() if layer.store == "float" else _codes(layer)
    bias = 0 if layer.bias is None else _bytes(layer.bias)
    dense = math.prod(layer.matrix_shape) * width + bias
    return SizeRow(name, dense, stored + layer.packed_bytes(), stored, _coded(matrix) + rest)


def _codes(layer: SparseLayer) -> Tensor:
    """The int8 numbers as a dense matrix."""
    rows = torch.repeat_interleave(layer.row_offsets.diff().long())
    codes = layer.values.new_zeros(layer.matrix_shape)
    codes[rows, layer.col_indices.long()] = layer.values
    return codes


def _coded(weight: Tensor) -> float:
    """Bytes of a weight's nonzero values and of the differences of their places, at their entropies."""
    flat = weight.detach().reshape(-1).cpu()
    places = flat.nonzero().reshape(-1)
    if not len(places):
        return 0.0
    steps = places.diff(prepend=torch.tensor([-1])) - 1
    longest = 2**_INDEX_BITS - 1
    fill = steps // (longest + 1)
    steps = torch.cat([steps % (longest + 1), torch.full((int(fill.sum()),), longest)])
    values = torch.cat([flat[places], flat.new_zeros(int(fill.sum()))])
    _, counts = values.unique(return_counts=True)
    codebook = len(counts) * values.element_size() * 8
    plain = len(places) * values.element_size() * 8 + _entropy(steps)
    return min(plain, codebook + _bits(counts) + _entropy(steps)) / 8


def _entropy(symbols: Tensor) -> float:
    return _bits(symbols.unique(return_counts=True)[1])


def _bits(counts: Tensor) -> float:
    """Bits that so many symbols of each kind take in all."""
    share = counts.double() / counts.sum()
    return float(-(counts.double() * share.log2()).sum())
