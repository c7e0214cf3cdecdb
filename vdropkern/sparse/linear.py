"""A linear layer that holds only the weights pruning has left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..ops.spmm.csr import check_csr, csr_to_dense, dense_to_csr

__all__ = ["SparseLinear"]


class SparseLinear(torch.nn.Module):
    """y = x W^T + bias with W in compressed rows (CSR); op ``spmm``.

    Made by `from_dense` or `vdropkern.sparsify`. The pattern is fixed; `values` and `bias` are Parameters, so
    what was kept can be fine-tuned.

    Args:
        in_features, out_features, bias: as torch.nn.Linear.
        nnz: number of stored weights, between 0 and in_features * out_features.
        device, dtype: of values and bias.

    State dict: ``values`` [nnz], ``col_indices`` [nnz], ``row_offsets`` [O + 1] (both int32, or int64 where
    that is too small), ``bias`` [O]. Loading one checks the indices and refuses bad ones.

    Shapes: x [*, I] -> y [*, O].

    Raises:
        ValueError: a size is out of range.
    """

    values: torch.nn.Parameter
    bias: torch.nn.Parameter | None
    col_indices: Tensor
    row_offsets: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        nnz: int = 0,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if in_features < 0 or out_features < 0 or not 0 <= nnz <= in_features * out_features:
            raise ValueError(
                "SparseLinear: in_features and out_features must be >= 0, nnz between 0 and their product, "
                f"got {in_features}, {out_features} and {nnz}"
            )
        self.in_features, self.out_features = in_features, out_features
        index_dtype = torch.int32 if max(nnz, in_features) < 2**31 else torch.int64
        # a valid pattern to begin with: the first nnz places of the dense matrix
        places = torch.arange(nnz, dtype=torch.int64, device=device)
        starts = torch.arange(out_features + 1, dtype=torch.int64, device=device) * in_features
        self.values = torch.nn.Parameter(torch.zeros(nnz, device=device, dtype=dtype))
        self.register_buffer("col_indices", (places % max(in_features, 1)).to(index_dtype))
        self.register_buffer("row_offsets", starts.clamp(max=nnz).to(index_dtype))
        zeros = torch.zeros(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if zeros is None else torch.nn.Parameter(zeros))

    @classmethod
    def from_dense(cls, weight: Tensor, bias: Tensor | None = None) -> SparseLinear:
        """Store the nonzeros of a dense weight.

        Args:
            weight: [O, I], floating. Copied.
            bias: [O] or None. Copied.

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
        values, col_indices, row_offsets = dense_to_csr(weight.detach())
        layer = cls(
            weight.shape[1], weight.shape[0], bias=bias is not None, device="meta", dtype=weight.dtype
        )
        layer.values = torch.nn.Parameter(values)
        layer.col_indices, layer.row_offsets = col_indices, row_offsets
        if bias is not None:
            layer.bias = torch.nn.Parameter(bias.detach().clone())
        return layer

    @property
    def nnz(self) -> int:
        """How many weights are stored."""
        return self.values.shape[0]

    @property
    def density(self) -> float:
        """Stored weights over all; 0 for an empty layer."""
        return self.nnz / max(self.in_features * self.out_features, 1)

    def weight_dense(self) -> Tensor:
        """The weight as a dense [O, I] tensor; differentiable in `values`."""
        return csr_to_dense(self.values, self.col_indices, self.row_offsets, self.in_features)

    def to_dense(self) -> torch.nn.Linear:
        """The same layer as a plain torch.nn.Linear, parameters copied."""
        dense = torch.nn.utils.skip_init(
            torch.nn.Linear,
            self.in_features,
            self.out_features,
            bias=self.bias is not None,
            device=self.values.device,
            dtype=self.values.dtype,
        )
        with torch.no_grad():
            dense.weight.copy_(self.weight_dense())
            dense.weight.requires_grad_(self.values.requires_grad)
            if self.bias is not None:
                dense.bias.copy_(self.bias)
                dense.bias.requires_grad_(self.bias.requires_grad)
        return dense.train(self.training)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, nnz={self.nnz}, density={self.density:.4f}"
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name of torch.nn.Linear.forward
        return F.spmm(input, self.values, self.col_indices, self.row_offsets, self.bias)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *rest: Any
    ) -> None:
        """Refuse indices that are not a CSR matrix of this size: the kernels trust them."""
        errors: list[str] = rest[-1]
        csr = [state_dict.get(f"{prefix}{name}") for name in ("values", "col_indices", "row_offsets")]
        tensors = [t for t in csr if isinstance(t, Tensor)]
        if len(tensors) == len(csr):
            try:
                check_csr(tensors[0], tensors[1], tensors[2], self.in_features)
            except ValueError as err:
                errors.append(f"{prefix or 'SparseLinear: '}{err}")
                return
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *rest)
