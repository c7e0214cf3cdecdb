"""Ways out of sparse nets: dense layers with zeros, torch's CSR, ONNX."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import write_whole
from .._surgery import carry_over, check_whole, copied, replace_
from ._layer import SparseLayer
from .linear import SparseLinear
from .sequential import SparseSequential
from .shrinking.trace import arguments

__all__ = ["to_dense", "to_onnx", "to_torch_csr"]


class CsrLinear(torch.nn.Module):
    """y = activation(x W^T + bias) with W in torch.sparse_csr: torch's own kernels; by `to_torch_csr`.

    Shapes: x [N, I] -> y [N, O].
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, relu: bool) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.relu = relu

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        # CSR times dense is what torch has kernels for
        y = (self.weight @ input.T).T
        y = y if self.bias is None else y + self.bias
        return torch.relu(y) if self.relu else y


def to_dense(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model in torch's own dense layers, zeros included: for every tool that knows those.

    Args:
        model: any module; its sparse layers are converted, everything else is copied.
    """
    check_whole(model, "to_dense")
    dense = copied(model)
    changes = {m: _dense(m) for m in dense.modules() if isinstance(m, SparseLayer)}
    return _plain(dense, changes)


def to_torch_csr(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of the model whose sparse linear layers hold a torch.sparse_csr weight, without gradients.

    Args:
        model: any module; its other sparse layers become dense, everything else is copied.
    """
    check_whole(model, "to_torch_csr")
    result = copied(model)
    changes: dict[Any, torch.nn.Module] = {}
    for module in result.modules():
        if isinstance(module, SparseLinear):
            values = module.float_values().detach()
            shape = module.matrix_shape
            weight = torch.sparse_csr_tensor(
                module.row_offsets, module.col_indices, values, shape, check_invariants=True
            )
            bias = None if module.bias is None else module.bias.detach().clone()
            changes[module] = carry_over(module, CsrLinear(weight, bias, module.activation == "relu"))
        elif isinstance(module, SparseLayer):
            changes[module] = _dense(module)
    return _plain(result, changes)


def _dense(layer: Any) -> torch.nn.Module:
    return carry_over(layer, layer.to_dense())


def _plain(model: torch.nn.Module, changes: Mapping[Any, torch.nn.Module]) -> torch.nn.Module:
    """Replace layers, and fused Sequentials by torch's, in a copy."""
    holder = torch.nn.Sequential(model)
    replace_(holder, changes)
    fused: dict[torch.nn.Module, torch.nn.Module] = {}
    for module in holder.modules():
        if isinstance(module, SparseSequential):
            plain = torch.nn.Sequential()
            plain.__dict__.update({k: v for k, v in module.__dict__.items() if k != "_plan"})
            fused[module] = plain
    replace_(holder, fused)
    return holder[0]


def to_onnx(
    model: torch.nn.Module, path: str | os.PathLike[str], sample_input: Tensor | tuple[Tensor, ...]
) -> None:
    """Write the model as ONNX, dense with zeros, whole or not at all; needs the extra ``onnx``.

    The first dimension of every input is left open. The weights are in the file itself.

    Args:
        model: any module; it is exported in eval mode.
        path: the file. Its folder must exist.
        sample_input: a batch, or a tuple of arguments.

    Raises:
        TypeError: an argument is of another type than it says, as when two are swapped.
        ImportError: onnx or onnxscript is missing; the message says what to install.
        OSError: the file cannot be written; what was there before is still there.
    """
    check_whole(model, "to_onnx")
    file, inputs = Path(path), arguments(sample_input)
    try:
        import onnxscript  # noqa: F401
    except ImportError as err:
        raise ImportError(
            f'to_onnx needs onnx and onnxscript: pip install "vdropkern[onnx]" ({err})'
        ) from err
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        to_dense(model).eval(), inputs, dynamo=True, verbose=False,
        dynamic_shapes=tuple({0: batch} for _ in inputs),
    )  # fmt: skip
    assert program is not None
    write_whole(file, program.model_proto.SerializeToString())
