"""What else computes relu(x W^T + b) with a sparse W: each as its documentation says, from a dense layer."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


def torch_csr(dense: Any) -> Forward:
    """CSR @ x^T, which is faster than a CSR weight in F.linear."""
    weight, bias = dense.weight.detach().to_sparse_csr(), dense.bias.detach()[:, None]
    return lambda x: (weight @ x.T + bias).relu_().T.contiguous()


def scipy_csr(dense: Any) -> Forward:
    import numpy
    import scipy.sparse

    weight, bias = (
        scipy.sparse.csr_matrix(dense.weight.detach().numpy()),
        dense.bias.detach().numpy()[:, None],
    )

    def forward(x: Tensor) -> Tensor:
        y = weight @ numpy.ascontiguousarray(x.numpy().T)
        y += bias
        return torch.from_numpy(numpy.ascontiguousarray(numpy.maximum(y, 0, out=y).T))

    return forward


@functools.cache  # compiling takes longer than timing a layer
def _numba_multiply() -> Callable[..., None]:
    import numba

    @numba.njit(fastmath=True)  # type: ignore[untyped-decorator, unused-ignore]
    def multiply(values: Any, columns: Any, offsets: Any, bias: Any, x: Any, y: Any) -> None:
        for o in range(len(bias)):
            row = y[o]
            row[:] = bias[o]
            for k in range(offsets[o], offsets[o + 1]):
                for b in range(len(row)):
                    row[b] += values[k] * x[columns[k], b]
            for b in range(len(row)):
                row[b] = max(row[b], numba.float32(0))

    compiled: Callable[..., None] = multiply
    return compiled


def numba_csr(dense: Any) -> Forward:
    """Rows of W times columns of x^T, compiled for this CPU, on one thread."""
    import numpy
    import scipy.sparse

    multiply = _numba_multiply()
    csr, bias = scipy.sparse.csr_matrix(dense.weight.detach().numpy()), dense.bias.detach().numpy()

    def forward(x: Tensor) -> Tensor:
        y = numpy.empty((len(bias), len(x)), numpy.float32)
        multiply(csr.data, csr.indices, csr.indptr, bias, numpy.ascontiguousarray(x.numpy().T), y)
        return torch.from_numpy(numpy.ascontiguousarray(y.T))

    return forward


def onnxruntime(dense: Any) -> Forward:
    """The dense layer with its zeros, on as many threads as torch has."""
    import numpy
    import onnx
    import onnxruntime as ort

    weight, bias = (t.detach().numpy() for t in (dense.weight, dense.bias))
    node = [
        onnx.helper.make_node("Gemm", ["x", "w", "b"], ["z"], transB=1),
        onnx.helper.make_node("Relu", ["z"], ["y"]),
    ]
    sizes = [("x", ["n", weight.shape[1]]), ("y", ["n", weight.shape[0]])]
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in sizes)
    kept = [
        onnx.numpy_helper.from_array(numpy.ascontiguousarray(a), n) for a, n in ((weight, "w"), (bias, "b"))
    ]
    graph = onnx.helper.make_graph(node, "layer", [x], [y], kept)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


PEERS: dict[str, Callable[[nn.Module], Forward]] = {
    "torch CSR": torch_csr,
    "scipy": scipy_csr,
    "numba": numba_csr,
    "onnxruntime": onnxruntime,
}
