"""A convolution that holds only the weights pruning has left."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from .._backend import cpu_lanes
from ..ops.sparse_conv2d import (
    ConvGeometry,
    Pair,
    band_of,
    blocks_of,
    cells_of,
    conv_columns,
    grid_of,
    sparse_conv2d,
    sparse_conv2d_eager,
    sparse_conv2d_ordered,
)
from ..ops.spmm.pack import Columns
from ..ops.spmm.reference import row_of_each
from ._ahead import run_ahead
from ._calls import has_gradients, may_pack_without_grad, tracing_state, untraced
from ._layer import SparseLayer
from ._ordered import may_order

__all__ = ["SparseConv2d"]


def _pair(value: int | tuple[int, ...], name: str, least: int) -> Pair:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) and v >= least for v in pair):
        raise ValueError(f"SparseConv2d: {name} must be an int >= {least} or two of them, got {value!r}")
    return pair[0], pair[1]


class SparseConv2d(SparseLayer):
    """y = activation(conv2d(x, W) + bias), W [O, C / groups, kh, kw] in rows (CSR), one an output channel.

    Made by `from_dense` or `vdropkern.sparsify`. Without gradients it runs op ``sparse_conv2d``: on the CPU
    on packed forms for images of the sizes it last met, on a GPU on the rows as they are; otherwise
    torch's dense convolution of the same weight, through which `values` and `bias` are trained.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as torch.nn.Conv2d,
            with padding as numbers and zeros.
        nnz: number of stored weights.
        activation: ``none`` or ``relu``, applied by the kernel.
        store: ``float``, or ``int8`` with a scale an output channel; see `store_as`.
        device, dtype: of values and bias.

    State dict: as of `SparseLinear`, of the weight reshaped to [O, C / groups * kh * kw].

    Shapes: x [N, C, H, W] -> y [N, O, H', W'].

    Raises:
        ValueError: a size is out of range, or an argument unknown.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        nnz: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        store: str = "float",
    ) -> None:
        if min(in_channels, out_channels) < 0 or groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                "SparseConv2d: in_channels and out_channels must be multiples of groups >= 1, "
                f"got {in_channels}, {out_channels} and {groups}"
            )
        kernel = _pair(kernel_size, "kernel_size", 1)
        columns = in_channels // groups * kernel[0] * kernel[1]
        if not 0 <= nnz <= out_channels * columns:
            raise ValueError(f"SparseConv2d: nnz must lie in [0, {out_channels * columns}], got {nnz}")
        super().__init__(out_channels, columns, nnz, bias, activation, store, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = kernel, _pair(stride, "stride", 1)
        self.padding, self.dilation = _pair(padding, "padding", 0), _pair(dilation, "dilation", 1)

    @classmethod
    def from_dense(
        cls, conv: torch.nn.Conv2d, weight: Tensor | None = None, *, activation: str = "none"
    ) -> SparseConv2d:
        """Store the nonzeros of a convolution's weight, copied.

        Args:
            conv: the geometry, the bias and, without `weight`, the weight.
            weight: another weight of the same shape.
            activation: as of the class.

        Raises:
            ValueError: the padding is not of zeros, or is not the same on both sides.
        """
        if conv.padding_mode != "zeros":
            raise ValueError(
                f"SparseConv2d.from_dense: padding_mode must be 'zeros', got {conv.padding_mode!r}"
            )
        padding = _numbers(conv)
        weight = (conv.weight if weight is None else weight).detach()
        layer = cls(
            conv.in_channels, conv.out_channels, (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]), padding, (conv.dilation[0], conv.dilation[1]), conv.groups,
            conv.bias is not None, device="meta", dtype=weight.dtype, activation=activation,
        )  # fmt: skip
        layer._adopt(weight.reshape(layer.matrix_shape), conv.bias)
        return layer

    def weight_dense(self) -> Tensor:
        """The weight as a dense [O, C / groups, kh, kw] tensor; differentiable in `values`."""
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        return self.weight_matrix().reshape(shape)

    def to_dense(self) -> torch.nn.Module:
        """The same layer as a plain torch.nn.Conv2d, with a ReLU behind it where there is one; copied."""
        weight = self.weight_dense().detach()
        dense = torch.nn.utils.skip_init(
            torch.nn.Conv2d,
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(weight)
            dense.weight.requires_grad_(self.values.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        whole = torch.nn.Sequential(dense, torch.nn.ReLU()) if self.activation == "relu" else dense
        return whole.train(self.training)

    def extra_repr(self) -> str:
        sizes = (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        )
        rest = f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        return f"{sizes}, {rest}, {super().extra_repr()}"

    def _arguments(self, packed: Tensor, columns: Any) -> tuple[object, ...]:
        return packed, self.out_channels, columns.window, band_of(columns)

    def _columns(self, columns: Any) -> Columns:
        per_row = self.nnz / max(self.out_channels, 1)
        places = conv_columns(columns, blocks_of(columns, per_row))
        grid = grid_of(columns, self.nnz, self.out_channels, cpu_lanes())
        cells = None if grid is None else cells_of(columns, grid, places.begins, per_row)
        return dataclasses.replace(places, cells=cells)

    def _column_of_each(self) -> Tensor:
        """Columns of the weight without groups, [O, C * kh * kw]."""
        rows = row_of_each(self.row_offsets, self.nnz)
        group = rows // max(self.out_channels // self.groups, 1)
        return self.col_indices + group * self.matrix_shape[1]

    def _is_for(self, g: ConvGeometry, x: Tensor) -> bool:
        same = g.stride is self.stride and g.padding is self.padding and g.dilation is self.dilation
        return same and x.shape[1:] == (g.in_channels, *g.image)

    def _geometry(self, x: Tensor) -> ConvGeometry:
        with contextlib.nullcontext() if tracing_state() is None else untraced():  # sizes would be tensors
            size = (x.shape[2], x.shape[3])
        return ConvGeometry(
            self.in_channels, self.kernel_size, self.stride, self.padding, self.dilation, size
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Conv2d.forward
        return self.run(input, self.activation == "relu")

    def run(self, input: Tensor, relu: bool) -> Tensor:  # noqa: A002
        """`forward`, with a ReLU behind it or not whatever `activation` says; hooks do not run."""
        if not is_grad_enabled():  # what small layers do at every call
            held = self._held() if may_pack_without_grad(input) else None
            if held is not None and tracing_state() is None and self._is_for(held.columns, input):
                y: Tensor = sparse_conv2d_eager(input, *held.arguments, relu)
                return y
        fits = input.ndim == 4 and input.shape[1] == self.in_channels
        if fits and has_gradients(input, (self,)) and may_pack_without_grad(input) and self.can_run_ahead():
            again = functools.partial(self.run, relu=relu)
            return run_ahead(again, (self,), input, self.own_parameters())
        if fits and self.can_pack(input):
            geometry = self._geometry(input)
            if band_of(geometry) > 0:
                return sparse_conv2d(input, self.packed(geometry), self.out_channels, geometry, relu)
        if fits and may_order("sparse_conv2d_ordered", self, input):
            values, order = self.ordered()
            rows = (values, self.col_indices, self.row_offsets, order)
            return sparse_conv2d_ordered(input, *rows, self.bias, self._geometry(input), self.groups, relu)
        weight, bias = self.weight_dense(), self.bias
        y = torch.nn.functional.conv2d(
            input, weight, bias, self.stride, self.padding, self.dilation, self.groups
        )
        return torch.relu(y) if relu else y


def _numbers(conv: torch.nn.Conv2d) -> Pair:
    """The padding of a convolution as rows and columns."""
    if conv.padding == "valid":
        return 0, 0
    if conv.padding == "same":
        both = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        if any(total % 2 for total in both):
            raise ValueError("SparseConv2d.from_dense: padding 'same' must be the same on both sides")
        return both[0] // 2, both[1] // 2
    assert isinstance(conv.padding, tuple)
    return conv.padding[0], conv.padding[1]
