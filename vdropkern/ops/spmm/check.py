"""Whether kernels can read a packed form that came from elsewhere, from a file: they trust what it holds."""

from __future__ import annotations

import torch
from torch import Tensor

from .lookup import check_lookups
from .pack import CHAIN_MAGIC, MOST_LAYERS, NO_ROW, UNIT, Parts, chain_parts, parts, segments_of

__all__ = ["check_pack", "check_packed"]


def check_pack(packed: Tensor) -> None:
    """Raise ValueError, saying what is wrong, unless a kernel can read `packed` without leaving its memory.

    `pack` makes what passes; this is for whoever got a packed matrix elsewhere.
    """
    p, rising = parts(packed), "must run from 0 to {} without decreasing"
    h = p.header
    if h["blocks"] == 0:
        raise ValueError("packed has no block of columns")
    for name, t, last in (("first", p.first, h["groups"]), ("start", p.start, h["steps"]),
                          ("columns", p.begins, int(p.begins[-1]))):  # fmt: skip
        if int(t[0]) != 0 or int(t[-1]) != last or bool((t.diff() < 0).any()):
            raise ValueError(f"packed: {name} {rising.format(last)}")
    if h["plane"] == 0 and int(p.begins[-1]) != h["in"]:
        raise ValueError(f"packed: columns must end at {h['in']}, got {int(p.begins[-1])}")
    if h["slices"] * h["slice_rows"] < h["out"] or h["slice_rows"] >= NO_ROW:
        raise ValueError("packed: the slices do not hold all rows")
    lengths, segment = p.start.diff(), segments_of(p)
    if (h["groups"] and int(lengths.max()) > h["longest"]) or h["longest"] > h["steps"]:
        raise ValueError(f"packed: a group is longer than {h['longest']}, or none is")
    row = p.rows + (segment % max(h["slices"], 1))[:, None] * h["slice_rows"]
    real = p.rows != NO_ROW
    if bool(((p.rows >= h["slice_rows"]) | (row >= h["out"]))[real].any()) or not bool(real[:, 0].all()):
        raise ValueError("packed: rows must lie in their slice, at least one a group")
    begun = row[segment < h["slices"]][real[segment < h["slices"]]]
    if not torch.equal(begun.sort().values, torch.arange(h["out"], device="cpu")):
        raise ValueError("packed: the first block must hold every row once")
    zeros = p.begins.diff() * (h["plane"] or UNIT)  # of a block's indices, that of the zero
    block = segment // max(h["slices"], 1)
    if bool((p.index > torch.repeat_interleave(zeros[block], lengths)[:, None]).any()):
        raise ValueError("packed: index must lie in its block")
    check_lookups(p.lookups, h["out"], h["in"])
    _check_cells(p, lengths, block)


def _check_cells(p: Parts, lengths: Tensor, block: Tensor) -> None:
    """The places in cells, of groups of these lengths in these blocks."""
    h = p.header
    if h["pieces"] == 0:
        return
    ends = torch.nn.functional.pad(p.cell_ends, (0, 0, 0, 0, 1, 0))  # [pieces + 1, groups, 8]
    if bool((ends.diff(dim=0) < 0).any()) or bool((ends[-1] > lengths[:, None]).any()):
        raise ValueError("packed: the pieces of a row must end one after the other, within its group")
    most = p.begins.diff() * h["cell_plane"]
    if bool((p.cell_index >= torch.repeat_interleave(most[block], lengths)[:, None].clamp(min=1)).any()):
        raise ValueError("packed: cell_index must lie in its block")


def check_packed(packed: Tensor) -> None:
    """`check_pack`, of a packed matrix or of each in a chain.

    Raises:
        ValueError: a kernel could leave its memory.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() < 16:
        raise ValueError(f"packed must be uint8 [bytes], got {packed.dtype} of shape {tuple(packed.shape)}")
    packed = packed.clone()  # so that it begins on a multiple of 64
    magic, count = packed[:16].view(torch.int64).tolist()
    if magic != CHAIN_MAGIC:
        check_pack(packed)
        return
    if not 1 <= count <= MOST_LAYERS or packed.numel() < 16 + 24 * count:
        raise ValueError(f"packed: a chain must have 1 to {MOST_LAYERS} layers within it")
    entries = packed[16 : 16 + 24 * count].view(torch.int64).view(-1, 3)
    if bool((entries[:, :2] < 0).any()) or bool((entries[:, :2] > packed.numel()).any()):
        raise ValueError("packed: a chain's layers must lie in it")
    for layer, _ in chain_parts(packed):
        check_pack(layer)  # which is too short where it was cut off
