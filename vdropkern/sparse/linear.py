"""A linear layer that holds only the weights pruning has left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, is_grad_enabled

from .. import functional as F
from ..ops.spmm import spmm_ordered, spmm_packed, spmm_packed_eager
from ..ops.spmm.pack import Columns, linear_columns
from ._ahead import run_ahead
from ._calls import has_gradients, may_pack_without_grad, tracing_state
from ._layer import SparseLayer
from ._ordered import may_order

__all__ = ["SparseLinear"]


class SparseLinear(SparseLayer):
    """y = activation(x W^T + bias) with W in compressed rows (CSR); op ``spmm``.

    Made by `from_dense` or `vdropkern.sparsify`. The pattern is fixed; `values` and `bias` are Parameters, so
    what was kept can be fine-tuned.

    Args:
        in_features, out_features, bias: as torch.nn.Linear.
        nnz: number of stored weights, between 0 and in_features * out_features.
        activation: ``none`` or ``relu``, applied by the kernel.
        store: ``float``, or ``int8`` with a scale a row; see `store_as`.
        device, dtype: of values and bias.

    State dict: ``values`` [nnz], ``col_indices`` [nnz], ``row_offsets`` [O + 1] (both int32, or int64 where
    that is too small), ``bias`` [O], with store=``int8`` ``scales`` [O]. Loading one checks the indices and
    refuses bad ones.

    Shapes: x [*, I] -> y [*, O].

    Raises:
        ValueError: a size is out of range, or an argument unknown.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nnz: int = 0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "none",
        store: str = "float",
    ) -> None:
        if in_features < 0 or out_features < 0 or not 0 <= nnz <= in_features * out_features:
            raise ValueError(
                "SparseLinear: in_features and out_features must be >= 0, nnz between 0 and their product, "
                f"got {in_features}, {out_features} and {nnz}"
            )
        super().__init__(out_features, in_features, nnz, bias, activation, store, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    @classmethod
    def from_dense(
        cls, weight: Tensor, bias: Tensor | None = None, *, activation: str = "none"
    ) -> SparseLinear:
        """Store the nonzeros of a dense weight.

        Args:
            weight: [O, I], floating. Copied.
            bias: [O] or None. Copied.
            activation: as of the class.

        Raises:
            ValueError: shapes or dtypes are wrong.
        """
        if weight.ndim != 2 or not weight.is_floating_point():
            raise ValueError(
                f"SparseLinear.from_dense: weight must be [O, I] and floating, "
                f"got {weight.dtype} of shape {tuple(weight.shape)}"
            )
        if bias is not None and bias.shape != weight.shape[:1]:
            raise ValueError(
                f"SparseLinear.from_dense: bias must be [O] = ({weight.shape[0]},), got {tuple(bias.shape)}"
            )
        has_bias, (out, inp) = bias is not None, weight.shape
        layer = cls(inp, out, bias=has_bias, device="meta", dtype=weight.dtype, activation=activation)
        layer._adopt(weight, bias)
        return layer

    def weight_dense(self) -> Tensor:
        """The weight as a dense [O, I] tensor; differentiable in `values`."""
        return self.weight_matrix()

    def to_dense(self) -> torch.nn.Module:
        """The same layer as a plain torch.nn.Linear, with a ReLU behind it where there is one; copied."""
        weight = self.weight_dense().detach()
        dense = torch.nn.utils.skip_init(
            torch.nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
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
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, {super().extra_repr()}"

    def _columns(self, columns: Any) -> Columns:
        return linear_columns(self.in_features, self.density)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Linear.forward
        relu = self.activation == "relu"
        # what small layers do at every call, with as little around the kernel as there can be
        if not is_grad_enabled():
            held = self._held() if may_pack_without_grad(input) else None
            if held is not None and tracing_state() is None:  # whose two runs are to be the same
                y: Tensor = spmm_packed_eager(input, held.packed, self.out_features, relu)
                return y
        elif has_gradients(input, (self,)) and may_pack_without_grad(input) and self.can_run_ahead():
            return run_ahead(self.forward, (self,), input, self.own_parameters())
        if self.can_pack(input):
            return spmm_packed(input, self.packed(), self.out_features, relu)
        if input.ndim > 0 and input.shape[-1] != self.in_features:  # the kernels trust the columns
            raise ValueError(f"SparseLinear: input must be [*, {self.in_features}], got {tuple(input.shape)}")
        if may_order("spmm", self, input):
            values, order = self.ordered()
            return spmm_ordered(input, values, self.col_indices, self.row_offsets, order, self.bias, relu)
        y = F.spmm(input, self.float_values(), self.col_indices, self.row_offsets, self.bias)
        return torch.relu(y) if relu else y
