"""What sparse layers share: a weight in compressed rows, its storage, and the packed form made from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling, is_exporting

from .._backend import cpu_byte_lookup
from ..ops.spmm.csr import check_csr, csr_to_dense, dense_to_csr
from ..ops.spmm.pack import Columns, pack
from ..ops.spmm.reference import row_of_each
from ._ahead import run_ahead
from ._calls import (
    are_functorch_transforms_active,
    has_gradients,
    may_pack_without_grad,
    tracing_state,
    untraced,
)
from ._ordered import Ordered, ordered
from ._watch import Packed, Watch, packed_of

__all__ = ["ACTIVATIONS", "SparseLayer"]

ACTIVATIONS = ("none", "relu")
STORES = ("float", "int8")
_OTHER_SIZES = 7  # of images for which a layer keeps packed forms: heads on all levels of a pyramid


class SparseLayer(torch.nn.Module):
    """A layer whose weight, a matrix of `rows` x `columns`, is held in compressed rows (CSR).

    CSR is what is trained, saved and checked. On the CPU, without gradients or in eval mode until gradients
    are asked for, a packed form is read, which is made at the first call, and again once a parameter or the
    scales were replaced or changed in place, or their ``.data`` replaced; it is in no state dict. A change
    that hides from torch (``.data.mul_(2)``, or in place under inference_mode of what was made there) must be
    followed by `repack`. On a GPU, the CUDA kernels read CSR, and the order of its rows by their length.
    """

    differentiated = False  # in eval mode, once
    _packs: tuple[Packed, ...] = ()  # for inputs of other sizes than `_pack`, the last that were met
    _dense: Packed | None = None  # `weight`, once it was read

    values: torch.nn.Parameter
    bias: torch.nn.Parameter | None
    col_indices: Tensor
    row_offsets: Tensor
    scales: Tensor | None

    def __init__(
        self,
        rows: int,
        columns: int,
        nnz: int,
        bias: bool,
        activation: str,
        store: str,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        kind = type(self).__name__
        if activation not in ACTIVATIONS:
            accepted = ", ".join(ACTIVATIONS)
            raise ValueError(f"{kind}: unknown activation {activation!r}; accepted: {accepted}")
        if store not in STORES:
            raise ValueError(f"{kind}: unknown store {store!r}; accepted: {', '.join(STORES)}")
        self.activation, self.store, self.matrix_shape = activation, store, (rows, columns)
        index_dtype = torch.int32 if max(nnz, columns) < 2**31 else torch.int64
        # a valid pattern to begin with: the first nnz places of the dense matrix
        places = torch.arange(nnz, dtype=torch.int64, device=device)
        starts = torch.arange(rows + 1, dtype=torch.int64, device=device) * columns
        value_dtype = torch.int8 if store == "int8" else dtype
        zeros = torch.zeros(nnz, device=device, dtype=value_dtype)
        self.values = torch.nn.Parameter(zeros, requires_grad=store == "float")
        self.register_buffer("col_indices", (places % max(columns, 1)).to(index_dtype))
        self.register_buffer("row_offsets", starts.clamp(max=nnz).to(index_dtype))
        self.register_buffer("scales", torch.ones(rows, device=device) if store == "int8" else None)
        made = torch.nn.Parameter(torch.zeros(rows, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", made)
        self._pack: Packed | None = None
        self._order: Ordered | None = None

    def _adopt(self, weight: Tensor, bias: Tensor | None) -> None:
        """Take the nonzeros of weight [rows, columns] and the bias, both copied."""
        values, self.col_indices, self.row_offsets = dense_to_csr(weight.detach())
        self.values = torch.nn.Parameter(values)
        if bias is not None:
            self.bias = torch.nn.Parameter(bias.detach().clone())

    @property
    def nnz(self) -> int:
        """How many weights are stored."""
        return self.values.shape[0]

    @property
    def density(self) -> float:
        """Stored weights over all; 0 for an empty layer."""
        rows, columns = self.matrix_shape
        return self.nnz / max(rows * columns, 1)

    def stored_bytes(self) -> int:
        """Bytes of what the state dict holds."""
        return sum(t.numel() * t.element_size() for t in self.state_dict().values())

    def packed_bytes(self) -> int:
        """Bytes of the packed form that is held now; 0 before the first call without gradients."""
        return sum(made.packed.numel() for made in (self._pack, *self._packs) if made is not None)

    def repack(self) -> None:
        """Make the packed form anew at the next call."""
        self._drop_packs()
        self._order = None

    def _drop_packs(self) -> None:
        self._pack, self._packs, self._dense = None, (), None

    def float_values(self) -> Tensor:
        """The stored weights as floating numbers [nnz]; differentiable in `values`."""
        if self.wants_grad() and not is_exporting():
            self._drop_packs()  # a step of an optimizer may follow, and fused ones leave no version behind
        if self.scales is None:
            return self.values
        return self.values.to(self.scales.dtype) * self.scales[row_of_each(self.row_offsets, self.nnz)]

    def weight_matrix(self) -> Tensor:
        """The weight as a dense matrix [rows, columns]; differentiable in `values`."""
        return csr_to_dense(self.float_values(), self.col_indices, self.row_offsets, self.matrix_shape[1])

    def weight_dense(self) -> Tensor:
        """The weight in the shape that torch's layer gives it; differentiable in `values`."""
        raise NotImplementedError

    @property
    def weight(self) -> Tensor:
        """`weight_dense`, for code that reads the weight of its layers, if only to ask for its dtype.

        No Parameter: what is written into it is lost. In eval mode it is kept until a value changes.
        """
        values = self._parameters.get("values")
        if values is None or is_compiling() or are_functorch_transforms_active():
            return self.weight_dense()
        if tracing_state() is not None or not (is_grad_enabled() and values.requires_grad):
            return self._kept_weight()
        if not self.can_run_ahead():
            return self.weight_dense()
        return run_ahead(self._weight_ahead, (self,), values, ())

    def _kept_weight(self) -> Tensor:
        held = self._dense
        if held is None or not held.watch.is_of(packed_of(self)):
            with torch.inference_mode(False), torch.no_grad(), untraced():
                held = self._dense = Packed(Watch(packed_of(self)), None, self.weight_dense())
        return held.packed

    def _weight_ahead(self, values: Tensor) -> Tensor:
        kept = self._kept_weight().detach()
        if not is_grad_enabled():
            return kept
        return csr_to_dense(values, self.col_indices, self.row_offsets, self.matrix_shape[1]).view_as(kept)

    def store_as(self, dtype: torch.dtype) -> SparseLayer:
        """Hold the weights in another dtype, in place; sums stay in float32. Returns the layer.

        Args:
            dtype: float32, float64, bfloat16, float16, or int8: w / (max |w| of its row / 127), rounded, with
                one float32 scale a row, and no gradients.

        Raises:
            ValueError: the dtype is none of these.
        """
        if not isinstance(dtype, torch.dtype):
            raise ValueError(
                f"store_as: dtype must be floating or int8, got {dtype}, a {type(dtype).__name__}"
            )
        values = self.float_values().detach()
        if dtype == torch.int8:
            rows = row_of_each(self.row_offsets, self.nnz)
            largest = values.new_zeros(self.matrix_shape[0], dtype=torch.float32)
            largest = largest.scatter_reduce(0, rows, values.abs().float(), "amax")
            scales = torch.where(largest > 0, largest / 127, 1.0)
            self.values = torch.nn.Parameter((values / scales[rows]).round().to(dtype), requires_grad=False)
            self.scales, self.store = scales, "int8"
        elif dtype.is_floating_point:
            self.values = torch.nn.Parameter(values.to(dtype), self.values.requires_grad)
            self.scales, self.store = None, "float"
        else:
            raise ValueError(f"store_as: dtype must be floating or int8, got {dtype}")
        return self

    def wants_grad(self) -> bool:
        """Whether gradients are on, and a parameter has one."""
        if not is_grad_enabled():
            return False
        # most layers have no module inside; one that is parametrized has its parameters there
        found = self.parameters() if self._modules else self._parameters.values()
        return any(p is not None and p.requires_grad for p in found)

    def _can_pack_now(self) -> bool:
        values = self._parameters.get("values")
        if values is None or "bias" not in self._parameters:
            return False  # pruning and parametrizations compute them at every call
        return values.is_cpu and values.dtype != torch.float64

    def can_pack(self, x: Tensor) -> bool:
        """Whether a kernel on the packed form may compute this call."""
        return not has_gradients(x, (self,)) and may_pack_without_grad(x) and self._can_pack_now()

    def can_run_ahead(self) -> bool:
        """Whether calls that have gradients may run on the packed form, and again for gradients."""
        if self.training or self.differentiated or not self._can_pack_now():
            return False
        # others in their place, as of torch.func.functional_call, would be gone by then, and hooks run twice
        return all(type(p) is torch.nn.Parameter and not p._backward_hooks for p in self.own_parameters())

    def own_parameters(self) -> list[Tensor]:
        return [p for p in self._parameters.values() if p is not None]

    def _held(self) -> Packed | None:
        """`_pack`, read once as other threads may replace it; None where a parameter changed since then."""
        made = self._pack
        return made if made is not None and made.watch.is_of(packed_of(self)) else None

    def packing(self, columns: Any = None) -> Packed:
        """The packed form as it is held, made where none is, or one for other `columns`."""
        made = self._held()
        if made is None or made.columns != columns:
            others = () if made is None else (made, *self._packs)
            made = next((other for other in others if other.columns == columns), None)
            if made is None:
                watch = Watch(packed_of(self))  # before they are read
                with untraced():
                    packed = self._packed_now(columns)
                made = Packed(watch, columns, packed, self._arguments(packed, columns))
            kept = [other for other in others if other is not made]
            self._pack, self._packs = made, tuple(kept[:_OTHER_SIZES])
        return made

    def packed(self, columns: Any = None) -> Tensor:
        """The packed form alone."""
        return self.packing(columns).packed

    def ordered(self) -> tuple[Tensor, Tensor]:
        """(values in a floating type [nnz], rows by falling length int32 [rows]), for the CUDA kernels."""
        made = self._order = ordered(self, self._order)
        return self.values if made.values is None else made.values, made.order

    def _columns(self, columns: Any) -> Columns:
        raise NotImplementedError

    def _arguments(self, packed: Tensor, columns: Any) -> tuple[object, ...]:
        """What calls without more ado give the op of the packed form behind its input, but for the ReLU."""
        return ()

    def _packed_now(self, columns: Any) -> Tensor:
        values = self.values.float() if self.values.dtype == torch.float16 else self.values
        with torch.device("cpu"):  # whatever the default device is
            cols, places = self._column_of_each(), self._columns(columns)
            one_row = places.plane == 0 and cpu_byte_lookup()
            return pack(values, cols, self.row_offsets, places, self.bias, self.scales, one_row)

    def _column_of_each(self) -> Tensor:
        """The column of every stored weight in the matrix that is packed."""
        return self.col_indices

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"torch.jit.script does not know {type(self).__name__}; use torch.jit.trace, or script what "
            "vdropkern.sparse.to_dense makes"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pack": None, "_packs": (), "_dense": None, "_order": None}

    def extra_repr(self) -> str:
        stored = "" if self.store == "float" else f", store={self.store}"
        activation = "" if self.activation == "none" else f", activation={self.activation}"
        bias = self.bias is not None
        return f"bias={bias}, nnz={self.nnz}, density={self.density:.4f}{stored}{activation}"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, strict: bool, *rest: Any
    ) -> None:
        """Refuse indices that are not a CSR matrix of this size: the kernels trust them.

        Of a part of a state dict, together with what the layer keeps of its own.
        """
        errors: list[str] = rest[-1]
        own = {"values": self.values, "col_indices": self.col_indices, "row_offsets": self.row_offsets}
        tensors = [state_dict.get(f"{prefix}{name}", t) for name, t in own.items()]
        given = any(f"{prefix}{name}" in state_dict for name in own)
        if given and all(isinstance(t, Tensor) and not t.is_meta for t in tensors):
            try:
                check_csr(tensors[0], tensors[1], tensors[2], self.matrix_shape[1])
            except ValueError as err:
                errors.append(f"{prefix or f'{type(self).__name__}: '}{err}")
                return
        self.repack()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *rest)
