"""Ways out of sparse nets, and how many bytes they take."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import sparse
from vdropkern.sparse import SparseLinear


def pruned_weight(rows: int, columns: int, keep: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator)
    return torch.where(torch.rand(rows, columns, generator=generator) < keep, weight, 0.0)


@pytest.fixture
def net() -> nn.Module:
    """Two sparse layers in a fused Sequential, one with its ReLU inside, and a dense one."""
    first = SparseLinear.from_dense(pruned_weight(20, 30, 0.1, 0), torch.rand(20), activation="relu")
    second = SparseLinear.from_dense(pruned_weight(10, 20, 0.2, 1))
    return vdk.sparsify(nn.Sequential(first, second, nn.ReLU(), nn.Linear(10, 3)), shrink=False)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_dense_and_csr_compute_the_same(net: nn.Module) -> None:
    x = torch.randn(4, 30)
    dense, csr = sparse.to_dense(net), sparse.to_torch_csr(net)
    assert type(dense) is type(csr) is nn.Sequential and net[0].nnz < 200
    assert not any(isinstance(m, SparseLinear) for twin in (dense, csr) for m in twin.modules())
    assert csr[0].weight.layout == torch.sparse_csr and csr[0].weight.values().numel() == net[0].nnz
    with torch.no_grad():
        for twin in (dense, csr):
            torch.testing.assert_close(twin(x), net(x))
    layer = sparse.to_dense(net[1])
    assert type(layer) is nn.Linear and torch.equal(layer.weight, net[1].weight_dense())
    int8 = sparse.to_torch_csr(SparseLinear.from_dense(pruned_weight(5, 6, 0.5, 2)).store_as(torch.int8))
    assert int8.weight.dtype == torch.float32


def test_torch_export(net: nn.Module) -> None:
    x = torch.randn(4, 30)
    program = torch.export.export(net, (x,))
    torch.testing.assert_close(program.module()(x), net(x))


@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of torch
def test_onnx(net: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "net.onnx"
    sparse.to_onnx(net, path, torch.randn(2, 30))
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        x = torch.randn(batch, 30)
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), net(x).detach(), rtol=1e-5, atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_onnx_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r'pip install "vdropkern\[onnx\]"'):
        sparse.to_onnx(nn.Linear(2, 2), tmp_path / "net.onnx", torch.ones(1, 2))
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_a_layer_by_hand() -> None:
    """Eight weights of two values, each 16 places after the other: one bit a value, none for the places."""
    weight = torch.zeros(8, 16)
    weight[:, 15] = torch.tensor([1.0, 2.0] * 4)
    layer = SparseLinear.from_dense(weight, torch.zeros(8))
    report = sparse.size_report(layer)
    (row,) = report.rows
    assert (row.name, row.dense, row.stored) == ("(model)", 4 * 128 + 32, 4 * 8 + 4 * 8 + 4 * 9 + 32)
    assert row.memory == row.stored
    assert row.entropy == (2 * 32 + 8) / 8 + 32  # two codebook entries, eight bits, the bias
    dense = sparse.size_report(layer.to_dense())
    assert [r.entropy for r in dense.rows] == [9.0, 32.0] and dense.total.dense == row.dense


def test_long_gaps_take_zeros_in_between() -> None:
    weight = torch.zeros(1, 1000)
    weight[0, 999] = 1.0
    (row,) = sparse.size_report(nn.ParameterList([nn.Parameter(weight)])).rows
    # 999 = 3 * 256 + 231: three fillers of one length and a last step, values 0, 0, 0, 1
    entropy = -(3 / 4 * math.log2(3 / 4) + 1 / 4 * math.log2(1 / 4)) * 4
    assert row.entropy == pytest.approx((32 + entropy) / 8)


def test_report_of_a_net(net: nn.Module) -> None:
    report = sparse.size_report(net)
    assert [row.name for row in report.rows] == ["0", "1", "3.weight", "3.bias"]
    total = report.total
    assert total.entropy < total.stored < total.dense
    assert json.loads(json.dumps(report.to_dict()))["total"]["stored"] == total.stored
    assert str(report).splitlines()[-1].split()[0] == "total"
    shared = nn.Linear(3, 3)
    assert len(sparse.size_report(nn.Sequential(shared, shared)).rows) == 2
