"""Layers of a sparse net one after the other, each by its own op's reference."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..max_pool2d.reference import max_pool2d
from ..sparse_conv2d.reference import sparse_conv2d
from ..spmm.reference import spmm_chain


def sparse_net(
    x: Tensor,  # [N, C, H, W]
    packed: Sequence[Tensor],  # uint8
    program: Tensor,  # int64
    out_sizes: Sequence[int],
) -> Tensor:  # [N, *out_sizes]
    """y of the program's layers."""
    numbers = program.tolist()
    while numbers:
        kind = numbers.pop(0)
        if kind == 0:
            (index, out, *window, band, relu), numbers = numbers[:12], numbers[12:]
            x = sparse_conv2d(x, packed[index], out, window, band, bool(relu))
        elif kind == 1:
            x = max_pool2d(x, *numbers[:8], *map(bool, numbers[8:10]))
            numbers = numbers[10:]
        else:
            chain = packed[numbers.pop(0)]
            x = spmm_chain(x.flatten(1), chain, 0)
    return x.contiguous()
