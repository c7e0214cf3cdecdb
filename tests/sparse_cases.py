"""Sparse matrices and convolutions that tests of all devices share. Needs torch alone."""

from __future__ import annotations

import torch
from torch import Tensor

from vdropkern.sparse import SparseConv2d

PATTERNS = ("random", "full", "none", "one", "ragged")
# in, out, kernel, stride, padding, dilation, groups, image
CONVS = {
    "3x3": (5, 11, 3, 1, 1, 1, 1, (9, 13)),
    "3x3-wide": (4, 9, 3, 1, 1, 1, 1, (3, 71)),
    "3x3-short": (20, 30, 3, 1, 1, 1, 1, (8, 8)),
    "1x1": (7, 10, 1, 1, 0, 1, 1, (6, 17)),
    "5x5-stride": (3, 6, 5, 2, 2, 1, 1, (15, 20)),
    "uneven": (4, 5, (3, 2), (3, 2), (4, 0), (1, 3), 1, (11, 19)),
    "stride-beyond-kernel": (3, 4, 1, 3, 1, 1, 1, (10, 8)),
    "dilated": (3, 4, 3, 1, 2, 2, 1, (9, 12)),
    "padding-beyond-image": (2, 3, 3, 1, 7, 1, 1, (2, 3)),
    "groups": (6, 9, 3, 1, 1, 1, 3, (7, 9)),
    "depthwise": (8, 8, 3, 2, 1, 1, 8, (12, 10)),
    "blocks-and-bands": (40, 7, 3, 1, 1, 1, 1, (60, 60)),
    # tiles three and two vectors wide, with rows left over, and slices of the weight that threads share
    "three-vectors": (6, 10, 3, 1, 1, 1, 1, (7, 23)),
    "many-slices": (12, 300, 3, 1, 1, 1, 1, (7, 10)),
    "one-column": (2, 3, (3, 1), 1, 0, 1, 1, (5, 1)),
}


def weight(out: int, inp: int, pattern: str, seed: int = 0) -> Tensor:
    """[O, I] with rows of many kinds."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(out, inp, generator=generator) + 3
    row, col = torch.arange(out)[:, None], torch.arange(inp)
    if pattern == "random":
        return w * (torch.rand(out, inp, generator=generator) < 0.3)
    if pattern == "none":
        return w * 0
    if pattern == "one":  # a nonzero in all, the last
        return w * ((row == out - 1) & (col == inp - 1))
    if pattern == "ragged":  # full rows, empty ones, and those of a single nonzero, by turns
        return w * torch.where(row % 3 == 0, True, (row % 3 == 1) & (col == row % max(inp, 1)))
    return w


def sparse_conv(name: str, density: float = 0.3, activation: str = "none", bias: bool = True) -> SparseConv2d:
    """The layer of an entry of CONVS, of random weights, so many of them stored."""
    inp, out, kernel, stride, padding, dilation, groups, _ = CONVS[name]
    conv = torch.nn.Conv2d(inp, out, kernel, stride, padding, dilation, groups, bias)
    with torch.no_grad():
        conv.weight.mul_(torch.rand_like(conv.weight) < density)
    return SparseConv2d.from_dense(conv, activation=activation)
