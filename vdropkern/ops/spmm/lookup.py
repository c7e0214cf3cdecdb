"""The form of a sparse matrix that the CPU kernel reads for one row of inputs, where inputs are looked up.

With the byte look-ups of AVX-512 (VBMI) 64 inputs come from a table in registers at once, of the 128 inputs
that stand in two chunks of 64 (``csrc/spmm/lookup.h``). Rows are sorted by their number of nonzeros and taken
in groups of 64. Each step takes the next nonzero of every row whose input the table holds; a pair of steps
has one table, which begins with the chunk of the leftmost nonzero that is left. Rows need not keep step, so
few places stay empty: a fifth at 90 % zeros, a third at 95 %, half at 98 %.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Lookups", "check_lookups", "lookups"]

ROWS = 64  # a group
CHUNK = 64  # inputs
PLACES = 2 * ROWS  # of a pair of steps
REAL = 128  # of an index byte that stands for a nonzero
NO_ROW = 0xFFFFFFFF
_LARGE = 1 << 20  # bytes that no longer stay in L2
_MOST_PLACES = (3.5, 2.5)  # a nonzero; with more the other form is as fast; of small matrices, of large ones
_NONE = 1 << 40  # a column beyond all
_NONE_LEFT = _NONE // CHUNK


class Lookups(NamedTuple):
    """The parts, in the order in which the packed form holds them."""

    start: Tensor  # int32 [groups + 1], pairs of a group
    rows: Tensor  # int32 [groups, 64], or `NO_ROW`
    bias: Tensor  # float32 [groups, 64]
    chunk: Tensor  # int16 [pairs], the first of the table's two
    values: Tensor  # float32 [pairs, 2, 64]
    places: Tensor  # uint8 [pairs, 2, 64], `REAL` + place in the table, 0 where a row has no nonzero


def part_sizes(out: int, pairs: int) -> list[tuple[int, int]]:
    """(bytes of an element, elements) of the parts."""
    groups = -(-out // ROWS) if pairs else 0
    return [(4, groups + 1 if pairs else 0), (4, ROWS * groups), (4, ROWS * groups), (2, pairs),
            (4, PLACES * pairs), (1, PLACES * pairs)]  # fmt: skip


def low_bits(t: Tensor, dtype: torch.dtype) -> Tensor:
    """The low bits of int64, in an integer of fewer bytes, whose sign torch insists on."""
    return t.view(dtype)[:: 8 // dtype.itemsize].clone(memory_format=torch.contiguous_format)


def byte_lane() -> Tensor:
    """Where an index stands, for each row of a group: interleaving planes by 16 bytes moves inputs about."""
    row = torch.arange(ROWS)
    vector, lane = row // 16, row % 16
    return lane // 4 * 16 + vector * 4 + lane % 4


def lookups(
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    bias: Tensor,  # float32 [O]
) -> Lookups | None:
    """The form, of float32 values; None of others, and where it would not be faster than the other form."""
    out, nnz = row_offsets.shape[0] - 1, values.shape[0]
    if values.dtype != torch.float32 or nnz == 0 or int(col_indices.max()) >= CHUNK << 16:
        return None
    offsets, groups = row_offsets.long(), -(-out // ROWS)
    order = offsets.diff().argsort(descending=True, stable=True)
    found = _steps(col_indices.long(), offsets, order, groups)
    if found is None:
        return None
    rows, ordered = torch.full((groups * ROWS,), NO_ROW), bias.new_zeros(groups * ROWS)
    rows[:out], ordered[:out] = order, bias[order]
    packed = _laid_out(values.detach(), col_indices.long(), offsets, order, *found)
    return packed._replace(rows=low_bits(rows, torch.int32), bias=ordered)


def _steps(col: Tensor, offsets: Tensor, order: Tensor, groups: int) -> tuple[Tensor, Tensor] | None:
    """(each nonzero's step in its group [nnz], chunks [groups, pairs], `_NONE_LEFT` behind a group's last).

    None where there would be too many pairs.
    """
    import numpy as np  # torch takes three times as long for ten small calls a pair

    out, nnz = len(order), len(col)
    place = torch.arange(nnz) + torch.arange(out).repeat_interleave(offsets.diff())
    ended = torch.full((nnz + out,), _NONE)  # rows, each with an end behind it
    ended[place] = col
    first = torch.full((groups * ROWS,), nnz + out - 1)
    first[:out] = offsets[order] + order
    columns, at, step = ended.numpy(), first.numpy(), np.empty(nnz + out, np.int64)
    chunks: list[Any] = []
    pairs, now = 0, columns[at]
    while True:  # a pair of all groups
        chunk = now.reshape(groups, ROWS).min(1) // CHUNK
        left = chunk < _NONE_LEFT
        if not left.any():
            return torch.from_numpy(step)[place], torch.from_numpy(np.stack(chunks, 1))
        pairs += int(left.sum())
        places = pairs * PLACES
        if places > _MOST_PLACES[places * 5 > _LARGE] * nnz:
            return None
        ends = np.where(left, (chunk + 2) * CHUNK, 0).repeat(ROWS)
        for half in (0, 1):
            step[at] = 2 * len(chunks) + half  # of those not taken, too: it is written again when they are
            at += now < ends
            now = columns[at]
        chunks.append(chunk)


def _laid_out(
    values: Tensor, col: Tensor, offsets: Tensor, order: Tensor, step: Tensor, chunks: Tensor
) -> Lookups:
    """The parts, of each nonzero's step in its group and each group's chunks [groups, pairs]; no rows."""
    real = chunks < _NONE_LEFT
    start = torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0))
    slot = torch.empty_like(order)
    slot[order] = torch.arange(len(order))
    slot = slot.repeat_interleave(offsets.diff())  # of each nonzero
    group, lane = slot // ROWS, slot % ROWS
    place = (2 * start[group] + step) * ROWS
    packed = values.new_zeros(int(start[-1]) * PLACES)
    packed[place + lane] = values
    index = torch.zeros(packed.shape, dtype=torch.uint8)
    index[place + byte_lane()[lane]] = (REAL + col - CHUNK * chunks[group, step // 2]).to(torch.uint8)
    none = packed[:0]
    return Lookups(start.int(), none, none, low_bits(chunks[real], torch.int16), packed, index)


def check_lookups(found: Lookups, out: int, inp: int) -> None:
    """Raise ValueError unless the kernel can read these parts without leaving its memory."""
    start, rows, chunk = found.start.long(), found.rows.long() & 0xFFFFFFFF, found.chunk.long() & 0xFFFF
    if chunk.numel() == 0:
        return
    if int(start[0]) != 0 or int(start[-1]) != chunk.numel() or bool((start.diff() < 0).any()):
        raise ValueError(f"packed: pairs must run from 0 to {chunk.numel()} without decreasing")
    if not torch.equal(rows[:out].sort().values, torch.arange(out, device="cpu")) or bool(
        (rows[out:] != NO_ROW).any()
    ):
        raise ValueError("packed: the look-ups must hold every row once")
    if bool((chunk * CHUNK >= inp).any()):
        raise ValueError("packed: the look-ups' chunks must hold inputs")
    col = found.places.long().view(-1, PLACES) - REAL + CHUNK * chunk[:, None]
    if bool(((col >= inp) & (found.places.view(-1, PLACES) >= REAL)).any()):
        raise ValueError("packed: the look-ups' indices must lie among the inputs")
