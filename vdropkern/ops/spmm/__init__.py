"""``spmm``: a linear layer with a sparse weight in CSR, for nets whose weights were pruned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._backend import choose
from .._register import differentiable, functorch_active, register, run_backward
from . import reference

SCHEMA = "spmm(Tensor x, Tensor values, Tensor col_indices, Tensor row_offsets, Tensor? bias) -> Tensor"
BACKWARD_SCHEMA = (
    "spmm_backward(Tensor grad_y, Tensor x, Tensor values, Tensor col_indices, Tensor row_offsets,"
    " bool needs_x, bool needs_values, bool needs_bias) -> (Tensor, Tensor, Tensor)"
)
PACKED_SCHEMA = "spmm_packed(Tensor x, Tensor packed, int out_features, bool relu) -> Tensor"

CHAIN_SCHEMA = "spmm_chain(Tensor x, Tensor chain, int out_features) -> Tensor"
ORDERED_SCHEMA = (
    "spmm_ordered(Tensor x, Tensor values, Tensor col_indices, Tensor row_offsets, Tensor order,"
    " Tensor? bias, bool relu) -> Tensor"
)


def _fake(x: Tensor, values: Tensor, col_indices: Tensor, row_offsets: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], row_offsets.shape[0] - 1))


def _backward_fake(
    grad_y: Tensor,
    x: Tensor,
    values: Tensor,
    col_indices: Tensor,
    row_offsets: Tensor,
    needs_x: bool,
    needs_values: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    any_double = torch.float64 in (x.dtype, values.dtype)
    return (
        x.new_empty(x.shape if needs_x else 0),
        values.new_empty(values.shape if needs_values else 0),
        values.new_empty(
            row_offsets.shape[0] - 1 if needs_bias else 0,
            dtype=torch.float64 if any_double else torch.float32,
        ),
    )


def _packed_fake(x: Tensor, packed: Tensor, out_features: int, relu: bool) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


def _ordered_fake(
    x: Tensor,
    values: Tensor,
    col_indices: Tensor,
    row_offsets: Tensor,
    order: Tensor,
    bias: Tensor | None,
    relu: bool,
) -> Tensor:
    return _fake(x, values, col_indices, row_offsets, bias)


def _chain_fake(x: Tensor, chain: Tensor, out_features: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], out_features))


_chain_op = register(CHAIN_SCHEMA, reference.spmm_chain, _chain_fake, of="spmm")
_packed_op = register(PACKED_SCHEMA, reference.spmm_packed, _packed_fake, of="spmm")
# for whoever has seen that compiled kernels are to run, and for graphs
spmm_packed_native, spmm_chain_native = _packed_op.native, _chain_op.native
# what OpOverload.__call__ passes its arguments to: eager code spares a small layer that
spmm_packed_eager = getattr(spmm_packed_native, "_op", spmm_packed_native)
spmm_chain_eager = getattr(spmm_chain_native, "_op", spmm_chain_native)
_op = register(SCHEMA, reference.spmm, _fake)
_ordered_op = register(ORDERED_SCHEMA, reference.spmm_ordered, _ordered_fake, of="spmm")
_backward_op = register(BACKWARD_SCHEMA, reference.spmm_backward, _backward_fake, of="spmm")


def _forward(*inputs: Any) -> Tensor:
    y: Tensor = choose(_op, inputs[0], inputs)(*inputs)
    return y


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, values, col_indices, row_offsets, bias = inputs
    ctx.save_for_backward(x, values, col_indices, row_offsets)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
    x, values, col_indices, row_offsets = ctx.saved_tensors
    needs_x, needs_values, _, _, needs_bias = ctx.needs_input_grad
    impl = choose(_backward_op, x, (values,))
    dx, dvalues, dbias = run_backward(
        "spmm", impl, grad_y, x, values, col_indices, row_offsets, needs_x, needs_values, needs_bias
    )
    return (
        dx if needs_x else None,
        dvalues if needs_values else None,
        None,
        None,
        dbias.to(ctx.bias_dtype) if needs_bias else None,
    )


_apply = differentiable("spmm", _forward, _save, _backward)


def spmm(
    x: Tensor,  # [*, I]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    bias: Tensor | None,  # [O]
) -> Tensor:
    """y [*, O]; differentiable in x, values and bias."""
    inputs = (x, values, col_indices, row_offsets, bias)
    if not torch.is_grad_enabled() and not functorch_active():  # inference: spare it a Function's 10 us
        return _forward(*inputs)
    y: Tensor = _apply(*inputs)
    return y


def spmm_packed(
    x: Tensor,  # [*, I]
    packed: Tensor,  # uint8, of `pack.pack`
    out_features: int,
    relu: bool,
) -> Tensor:
    """y [*, O] of a packed weight with its bias, then ReLU where asked for; not differentiable."""
    y: Tensor = choose(_packed_op, x)(x, packed, out_features, relu)
    return y


def spmm_ordered(
    x: Tensor,  # [*, I]
    values: Tensor,  # [nnz]
    col_indices: Tensor,  # [nnz]
    row_offsets: Tensor,  # [O + 1]
    order: Tensor,  # int32 [O], of `csr.by_length`
    bias: Tensor | None,  # [O]
    relu: bool,
) -> Tensor:
    """y [*, O] as of `spmm`, then ReLU where asked for; not differentiable.

    For GPUs, whose blocks take rows in the order given.
    """
    inputs = (x, values, col_indices, row_offsets, order, bias, relu)
    y: Tensor = choose(_ordered_op, x, inputs)(*inputs)
    return y


def spmm_chain(
    x: Tensor,  # [*, I of the first layer]
    chain: Tensor,  # uint8, of `pack.chain`
    out_features: int,
) -> Tensor:
    """y [*, O of the last layer] of packed layers one after the other; not differentiable."""
    y: Tensor = choose(_chain_op, x)(x, chain, out_features)
    return y
