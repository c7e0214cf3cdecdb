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


def _onnx_layer(dense: Any) -> bytes:
    """The dense layer with its zeros and its ReLU."""
    import numpy
    import onnx

    tensors = {"w": dense.weight, "b": dense.bias}
    kept = [onnx.numpy_helper.from_array(numpy.ascontiguousarray(t.detach()), n) for n, t in tensors.items()]
    if isinstance(dense, nn.Linear):
        product = onnx.helper.make_node("Gemm", ["x", "w", "b"], ["z"], transB=1)
        sizes: list[list[Any]] = [["n", dense.in_features], ["n", dense.out_features]]
    else:
        pads = [p for side in (0, 1) for p in dense.padding]
        product = onnx.helper.make_node("Conv", ["x", "w", "b"], ["z"], pads=pads)
        sizes = [["n", dense.in_channels, "h", "v"], ["n", dense.out_channels, "i", "j"]]
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)
        for name, size in zip("xy", sizes, strict=True)
    )
    graph = onnx.helper.make_graph(
        [product, onnx.helper.make_node("Relu", ["z"], ["y"])], "layer", [x], [y], kept
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    buffer = io.BytesIO()
    onnx.save(model, buffer)
    return buffer.getvalue()


def run_onnxruntime(model: bytes) -> Forward:
    """A model of one input, on as many threads as torch has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def run_openvino(model: bytes) -> Forward:
    """A model of one input, tuned for latency, in float32 as torch, on as many threads as torch has."""
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # else it takes bfloat16 on CPUs with AVX512_BF16
    }
    core = openvino.Core()
    request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
    # without `share_outputs` it copies what it returns, as a user who keeps results must
    return lambda x: torch.from_numpy(request.infer([x.numpy()], share_inputs=True)[0])


def onnxruntime(dense: Any) -> Forward:
    return run_onnxruntime(_onnx_layer(dense))


def openvino(dense: Any) -> Forward:
    return run_openvino(_onnx_layer(dense))


# those that know convolutions too
CONV_PEERS: dict[str, Callable[[nn.Module], Forward]] = {"onnxruntime": onnxruntime, "openvino": openvino}
PEERS: dict[str, Callable[[nn.Module], Forward]] = {
    "torch CSR": torch_csr,
    "scipy": scipy_csr,
    "numba": numba_csr,
    **CONV_PEERS,
}
