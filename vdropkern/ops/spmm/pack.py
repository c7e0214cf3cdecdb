"""The packed form of a sparse matrix, which the CPU kernels of inference read.

One tensor of bytes: a header and parts, each on a multiple of 64 bytes, as ``csrc/spmm/pack.h`` reads them.
Rows stand in slices, columns in blocks whose inputs stay in L1. Within a slice and block, rows are sorted by
their number of nonzeros and taken in groups of eight, stored step by step: the first nonzero of each row, the
second of each, and so on. A row that has fewer is filled up with zero weights that read a zero input, so what
is not stored is not multiplied. For one row of inputs the matrix may stand there once more (`lookup.py`), if
the CPU at hand can use that; every CPU reads every packed matrix, and none is ever saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lookup import Lookups, lookups, low_bits, part_sizes
from .reference import row_of_each

__all__ = ["Columns", "chain", "chain_parts", "linear_columns", "pack", "unpack"]

MAGIC = 0x326D6D7073_6B64
CHAIN_MAGIC = 0x316E69616863_6476
MOST_LAYERS = 64  # of a chain
ROWS = 8  # a group
NO_ROW = 0xFFFF
ALIGN = 64
UNIT = 4  # a linear layer's index is its input's place in bytes, of a panel one wide
STORED = (torch.float32, torch.bfloat16, torch.int8)
_HEADER = ("magic", "stored", "out", "in", "slices", "slice_rows", "blocks", "groups", "steps", "longest",
           "bytes", "plane", "pairs", "cells_high", "cells_wide", "cell_rows", "cell_cols", "cell_plane",
           "pieces")  # fmt: skip
_PER_ROW = 40  # nonzeros that a row should have in a block: fewer, and loading and storing its sum weighs in
_LEAST_COLUMNS, _MOST_COLUMNS = 640, 4096
_LEAST_ROWS, _MOST_SLICES = 128, 16  # threads share slices; the more rows one has, the less is filled up
_MOST_ROWS = NO_ROW // ROWS * ROWS  # that 16 bits tell apart


@dataclass(frozen=True)
class Cells:
    """Where it finds them in another layout, that of `sparse_conv2d`'s cells.

    Args:
        grid: cells one above the other, side by side, and outputs that each has down and across.
        index: int64 [I], as of `Columns`, in vectors.
        plane: vectors from one channel to the next.
        piece: int64 [I], which part of its block a column is in; those of a block come one after the other.
        pieces: how many there are.
    """

    grid: tuple[int, int, int, int]
    index: Tensor
    plane: int
    piece: Tensor
    pieces: int


@dataclass(frozen=True)
class Columns:
    """Where the kernel finds the inputs of a matrix's columns.

    Args:
        block: int64 [I], the block of each column, not decreasing along a row's columns.
        index: int64 [I], its place within the block, below 2^16: in floats of images, `UNIT` an input of
            a linear layer.
        begins: int64 [blocks + 1], where a block's inputs begin, in inputs.
        zero: int64 [blocks], the place within a block of the zero behind its inputs.
        plane: floats from one input to the next, 0 where that is the panel's width.
        cells: the other layout, where there is one.
    """

    block: Tensor
    index: Tensor
    begins: Tensor
    zero: Tensor
    plane: int = 0
    cells: Cells | None = None


def linear_columns(in_features: int, density: float) -> Columns:
    """Blocks of a linear layer: long enough for `_PER_ROW` nonzeros a row, of equal length but the last."""
    length = min(max(int(_PER_ROW / max(density, 1e-9)), _LEAST_COLUMNS), _MOST_COLUMNS)
    blocks = max(-(-in_features // length), 1) if in_features > 1.3 * length else 1
    length = max(-(-in_features // (16 * blocks)) * 16, 1)
    blocks = max(-(-in_features // length), 1)
    columns = torch.arange(in_features)
    begins = (torch.arange(blocks + 1) * length).clamp(max=in_features)
    return Columns(columns // length, columns % length * UNIT, begins, begins.diff() * UNIT)


def _from_low(t: Tensor) -> Tensor:
    """int64 [n, 8] of the bits of uint16."""
    return t.long().view(-1, ROWS) & 0xFFFF


def _parts(header: dict[str, int]) -> list[tuple[int, int]]:
    """(bytes of an element, elements) of the parts that follow the header."""
    groups, steps, segments = header["groups"], header["steps"], header["blocks"] * header["slices"]
    size = STORED[header["stored"]].itemsize
    scales = header["out"] if STORED[header["stored"]] == torch.int8 else 0
    return [(8, header["blocks"] + 1), (4, segments + 1), (4, groups + 1), (2, ROWS * groups),
            (4, header["out"]), (4, scales), (size, ROWS * steps), (2, ROWS * steps),
            *part_sizes(header["out"], header["pairs"]),
            (2, ROWS * steps if header["pieces"] else 0), (2, header["pieces"] * groups * ROWS)]  # fmt: skip


def _padded(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


@torch.inference_mode(False)
@torch.no_grad()
def pack(
    values: Tensor,  # [nnz], float32, bfloat16 or int8
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    columns: Columns,
    bias: Tensor | None,  # [O]
    scales: Tensor | None = None,  # [O], of int8 values
    one_row: bool = False,
) -> Tensor:
    """The packed form, uint8 [bytes]; the indices must have passed `check_csr`.

    With `one_row` (of linear layers) that for one row of inputs too, where it would be faster.
    """
    out, nnz, blocks = row_offsets.shape[0] - 1, values.shape[0], columns.begins.shape[0] - 1
    slices = max(min(max(out // _LEAST_ROWS, 1), _MOST_SLICES), -(-out // _MOST_ROWS))
    slice_rows = -(-out // slices)
    slice_rows = max(-(-slice_rows // ROWS) * ROWS, ROWS)
    slices = -(-out // slice_rows)
    row, col = row_of_each(row_offsets, nnz), col_indices.long()
    cell = (columns.block[col] * slices + row // slice_rows) * slice_rows + row % slice_rows
    counts = torch.bincount(cell, minlength=blocks * slices * slice_rows).view(blocks, slices, slice_rows)

    # the first block has every row, as it begins the sums; the others have those that add something
    real = torch.arange(slices * slice_rows).view(slices, slice_rows) < out
    keep = torch.where((torch.arange(blocks) == 0)[:, None, None], real, counts > 0)
    falling, order = torch.where(keep, counts, -1).sort(dim=-1, descending=True, stable=True)
    group_counts = (keep.sum(-1) + ROWS - 1) // ROWS  # [blocks, slices]
    first = torch.nn.functional.pad(group_counts.flatten().cumsum(0), (1, 0))
    kept = falling >= 0
    group = first[:-1].view(blocks, slices, 1) + torch.arange(slice_rows) // ROWS
    slot = group * ROWS + torch.arange(slice_rows) % ROWS  # of each row, in sorted order
    groups = int(first[-1])
    rows = torch.full((groups * ROWS,), NO_ROW)
    rows[slot[kept]] = order[kept]
    leads = kept & (torch.arange(slice_rows) % ROWS == 0)
    lengths = falling[leads]  # in the order of groups
    start = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))

    slot_of_cell = torch.empty_like(slot).scatter_(-1, order, slot).flatten()
    by_cell = cell.argsort(stable=True)
    firsts = torch.nn.functional.pad(counts.flatten().cumsum(0), (1, 0))
    sorted_cell = cell[by_cell]
    step = torch.arange(nnz) - firsts[sorted_cell]
    slots = slot_of_cell[sorted_cell]
    place = (start[slots // ROWS] + step) * ROWS + slots % ROWS
    steps = int(start[-1])
    packed_values = values.new_zeros(steps * ROWS)
    packed_values[place] = values.detach()[by_cell]
    block_of_group = torch.repeat_interleave(torch.arange(blocks), group_counts.sum(-1))
    index = torch.repeat_interleave(columns.zero[block_of_group], lengths * ROWS)
    index[place] = columns.index[col[by_cell]]

    bias = torch.zeros(out, dtype=torch.float32) if bias is None else bias.detach().float()
    looked_up = lookups(values, col_indices, row_offsets, bias) if one_row else None
    cells, grid, in_cells = columns.cells, (0,) * 6, [low_bits(index[:0], torch.int16)] * 2
    if cells is not None:
        grid = (*cells.grid, cells.plane, cells.pieces)
        index_in_cells = torch.zeros_like(index)  # no kernel reads those that fill up a group
        index_in_cells[place] = cells.index[col[by_cell]]
        of_piece = cells.piece[col[by_cell]] * groups * ROWS + slots
        ends = torch.bincount(of_piece, minlength=cells.pieces * groups * ROWS).view(cells.pieces, -1)
        in_cells = [low_bits(t.flatten(), torch.int16) for t in (index_in_cells, ends.cumsum(0))]
    numbers = dict(zip(_HEADER, (MAGIC, STORED.index(values.dtype), out, columns.block.shape[0], slices,
                                 slice_rows, blocks, groups, steps, int(lengths.max()) if groups else 0, 0,
                                 columns.plane, 0 if looked_up is None else looked_up.chunk.numel(), *grid),
                       strict=True))  # fmt: skip
    contents = [
        columns.begins, first.int(), start.int(), low_bits(rows, torch.int16), bias,
        bias[:0] if scales is None else scales.float(), packed_values, low_bits(index, torch.int16),
        *(looked_up or [bias[:0]] * len(Lookups._fields)), *in_cells,
    ]  # fmt: skip
    return _joined(numbers, contents)


def _joined(header: dict[str, int], contents: list[Tensor]) -> Tensor:
    at = [_padded(8 * len(_HEADER))]
    for size, count in _parts(header):
        at.append(at[-1] + _padded(size * count))
    header["bytes"] = at[-1]
    packed = torch.zeros(at[-1], dtype=torch.uint8)
    packed[: 8 * len(_HEADER)] = torch.tensor([header[n] for n in _HEADER]).view(torch.uint8)
    for begin, part in zip(at[:-1], contents, strict=True):
        if part.numel():  # an empty one may have any stride, which view refuses
            data = part.contiguous().view(torch.uint8)
            packed[begin : begin + data.numel()] = data
    return packed


@dataclass(frozen=True)
class Parts:
    """A packed matrix taken apart; uint16 parts as int64."""

    header: dict[str, int]
    begins: Tensor
    first: Tensor
    start: Tensor
    rows: Tensor  # [groups, 8]
    bias: Tensor
    scales: Tensor
    values: Tensor  # [steps, 8]
    index: Tensor  # [steps, 8]
    lookups: Lookups  # empty where they were not made
    cell_index: Tensor  # [steps, 8], or empty
    cell_ends: Tensor  # [pieces, groups, 8]


def parts(packed: Tensor) -> Parts:
    """Take a packed matrix apart.

    Raises:
        ValueError: the header is none, or does not fit the size.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() < _padded(8 * len(_HEADER)):
        raise ValueError(f"packed must be uint8 [bytes], got {packed.dtype} of shape {tuple(packed.shape)}")
    packed = packed.clone()  # so that it begins on a multiple of 64
    header = dict(zip(_HEADER, packed[: 8 * len(_HEADER)].view(torch.int64).tolist(), strict=True))
    small = all(0 <= header[name] <= 2**40 for name in _HEADER[1:])
    least, most = (1, 1 << 16) if header["pieces"] else (0, 0)
    small = small and all(least <= header[name] <= most for name in _HEADER[-6:])
    if header["magic"] != MAGIC or not small or header["stored"] >= len(STORED):
        raise ValueError("packed has no header of a packed matrix")
    at, found = _padded(8 * len(_HEADER)), []
    dtypes = (torch.int64, torch.int32, torch.int32, torch.int16, torch.float32, torch.float32,
              STORED[header["stored"]], torch.int16,
              torch.int32, torch.int32, torch.float32, torch.int16, torch.float32, torch.uint8,
              torch.int16, torch.int16)  # fmt: skip
    for (size, count), dtype in zip(_parts(header), dtypes, strict=True):
        if at + _padded(size * count) > packed.numel():
            raise ValueError(f"packed is cut short: its header needs more than {packed.numel()} bytes")
        part = packed[at : at + size * count].view(dtype)
        found.append(part)
        at += _padded(size * count)
    if at != packed.numel() or header["bytes"] != at:
        raise ValueError(f"packed must be {at} bytes, got {packed.numel()}")
    begins, first, start, rows, bias, scales, values, index, *looked_up, in_cells, ends = found
    return Parts(header, begins, first.long(), start.long(), _from_low(rows), bias, scales,
                 values.view(-1, ROWS), _from_low(index), Lookups(*looked_up), _from_low(in_cells),
                 _from_low(ends).view(-1, header["groups"], ROWS))  # fmt: skip


def segments_of(p: Parts) -> Tensor:
    """Block * slices + slice of every group."""
    return torch.repeat_interleave(torch.arange(p.first.shape[0] - 1, device="cpu"), p.first.diff())


def rows_and_steps(p: Parts) -> tuple[Tensor, Tensor]:
    """(row [steps, 8], that of places without one beyond all others; block [steps]) of every step."""
    segment, slices = segments_of(p), max(p.header["slices"], 1)
    group = torch.repeat_interleave(torch.arange(p.header["groups"]), p.start.diff())
    row = torch.where(
        p.rows == NO_ROW, 1 << 40, p.rows + (segment % slices)[:, None] * p.header["slice_rows"]
    )
    return row[group], (segment // slices)[group]


def unpack(packed: Tensor) -> tuple[Tensor, Tensor]:
    """(weight [O, I], bias [O]) in float32, of a linear layer's packed matrix."""
    p = parts(packed)
    out, inp = p.header["out"], p.header["in"]
    row, block = rows_and_steps(p)
    col = p.index // UNIT
    is_zero = col == p.begins.diff()[block][:, None]
    to_row = torch.where(is_zero, out, row.clamp(max=out))
    to_col = torch.where(is_zero, inp, p.begins[:-1][block][:, None] + col)
    weight = torch.zeros(out + 1, inp + 1, dtype=torch.float32).index_put_((to_row, to_col), p.values.float())
    weight = weight[:out, :inp]
    return (weight * p.scales[:, None] if p.scales.numel() else weight).contiguous(), p.bias.clone()


def chain(packs: Sequence[Tensor], relus: Sequence[bool]) -> Tensor:
    """Layers' packed forms, one after the other, as one tensor of bytes; see `chain_parts` for its views.

    Raises:
        ValueError: there are none, or more than `MOST_LAYERS`.
    """
    if not 1 <= len(packs) <= MOST_LAYERS:
        raise ValueError(f"a chain has 1 to {MOST_LAYERS} layers, got {len(packs)}")
    begin, head = _padded(8 * (2 + 3 * len(packs))), [CHAIN_MAGIC, len(packs)]
    for packed, relu in zip(packs, relus, strict=True):
        head += [begin, packed.numel(), int(relu)]
        begin += packed.numel()
    start = packs[0].new_zeros(_padded(8 * len(head)))
    start[: 8 * len(head)] = torch.tensor(head, device="cpu").view(torch.uint8)
    return torch.cat([start, *packs])


def chain_parts(joined: Tensor) -> list[tuple[Tensor, bool]]:
    """(packed form, ReLU behind it) of a chain's layers, views of it."""
    count = int(joined[8:16].view(torch.int64))
    entries = joined[16 : 16 + 24 * count].view(torch.int64).view(-1, 3).tolist()
    return [(joined[begin : begin + size], bool(relu)) for begin, size, relu in entries]
