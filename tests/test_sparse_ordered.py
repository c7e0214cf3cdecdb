"""Sparse layers as on a GPU: rows by their length for the CUDA kernels, for which the reference stands in."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

import vdropkern as vdk
from tests.test_sparse_layer import dense, layer
from vdropkern.ops.sparse_conv2d import _ordered_op as _conv_op
from vdropkern.ops.spmm import _ordered_op
from vdropkern.ops.spmm.csr import by_length, dense_to_csr
from vdropkern.sparse import SparseConv2d, SparseLinear, _ordered
from vdropkern.sparse import linear as linear_module
from vdropkern.sparse._layer import SparseLayer


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Layers take the path of CUDA tensors; the ops that they ask for."""
    asked: list[str] = []

    def native_on_gpu(op: str, like: Tensor) -> bool:
        asked.append(op)
        return True

    monkeypatch.setattr(_ordered, "native_on_gpu", native_on_gpu)
    monkeypatch.setattr(SparseLayer, "can_pack", lambda self, x: False)
    monkeypatch.setattr(linear_module, "may_pack_without_grad", lambda x: False)
    return asked


def conv() -> SparseConv2d:
    made = torch.nn.Conv2d(6, 9, 3, stride=(1, 2), padding=1, groups=3)
    with torch.no_grad():
        made.weight.mul_(torch.rand_like(made.weight) < 0.4)
    return SparseConv2d.from_dense(made, activation="relu")


def plain(sparse: SparseLayer, x: Tensor) -> Tensor:
    """The layer by torch's own ops, then ReLU; its bias is in float32 whatever its weights are."""
    w, bias = sparse.weight_dense().detach().float(), sparse.bias.detach()
    if isinstance(sparse, SparseConv2d):
        g = sparse
        return torch.nn.functional.conv2d(x, w, bias, g.stride, g.padding, g.dilation, g.groups).relu()
    return torch.nn.functional.linear(x, w, bias).relu()


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16, torch.int8], ids=str)
def test_layers(on_gpu: list[str], stored: torch.dtype) -> None:
    for sparse, x in ((layer("relu"), torch.randn(2, 3, 70)), (conv(), torch.randn(2, 6, 7, 9))):
        sparse.store_as(stored)
        with torch.no_grad():
            y = sparse(x)
        assert sparse._order is not None, "another path was taken"
        torch.testing.assert_close(y, plain(sparse, x))
    assert on_gpu == ["spmm", "sparse_conv2d_ordered"]


def test_changed_tensors_are_seen(on_gpu: list[str]) -> None:
    sparse, x = layer(), torch.randn(3, 70)
    with torch.no_grad():
        sparse(x)
        first = sparse._order
        sparse(x)
        assert sparse._order is first, "made once"
        sparse.values.mul_(2)
        torch.testing.assert_close(sparse(x), dense(sparse, x))
        sparse.load_state_dict(layer_like(sparse).state_dict())
        torch.testing.assert_close(sparse(x), dense(sparse, x))
        sparse.row_offsets = sparse.row_offsets.clone()
        before = sparse._order
        sparse(x)
        assert sparse._order is not before
        sparse.store_as(torch.int8)
        for change in (lambda: None, lambda: sparse.scales.mul_(2), lambda: sparse.values.mul_(0)):
            change()
            torch.testing.assert_close(sparse(x), dense(sparse, x))


def layer_like(other: SparseLinear) -> SparseLinear:
    """Other weights, as many of them, in other rows."""
    weight = other.weight_dense().detach().flip(0, 1).mul(3)
    return SparseLinear.from_dense(weight, torch.randn(40))


def test_copies_make_their_own(on_gpu: list[str]) -> None:
    sparse, x = layer(), torch.randn(3, 70)
    with torch.no_grad():
        y = sparse(x)
        for other in (copy.deepcopy(sparse), pickle.loads(pickle.dumps(sparse))):
            assert other._order is None and torch.equal(other(x), y)
        sparse.repack()
        assert sparse._order is None


def test_when_it_is_not_taken(on_gpu: list[str]) -> None:
    sparse, x = layer(), torch.randn(3, 70)
    sparse(x).sum().backward()
    assert sparse.values.grad is not None
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert sparse(x).dtype == torch.bfloat16
        sparse(x.double())
        sparse.double()(x.double())
    assert sparse._order is None


def test_inputs_of_another_width(on_gpu: list[str]) -> None:
    """Kernels would read past their end."""
    sparse, x = layer(), torch.randn(3, 69)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            with pytest.raises(ValueError, match=r"SparseLinear: input must be \[\*, 70\], got \(3, 69\)"):
                sparse(x)
            with pytest.raises(RuntimeError, match="expected input"):
                conv()(torch.randn(2, 5, 7, 9))


def test_a_chain_of_layers(on_gpu: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A SparseSequential is a Sequential where nothing is packed."""
    monkeypatch.setattr("vdropkern.sparse.sequential.may_pack_without_grad", lambda x: False)
    net = torch.nn.Sequential(torch.nn.Linear(70, 40), torch.nn.ReLU(), torch.nn.Linear(40, 9)).eval()
    sparse = vdk.sparse.SparseSequential(
        SparseLinear.from_dense(net[0].weight, net[0].bias, activation="relu"),
        SparseLinear.from_dense(net[2].weight, net[2].bias),
    ).eval()
    x = torch.randn(5, 70)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), net(x))
    assert all(module._order is not None for module in sparse)


def test_order() -> None:
    w = torch.tensor([[1.0, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]])
    order = by_length(dense_to_csr(w)[2])
    assert order.dtype == torch.int32 and order.tolist() == [1, 3, 4, 0, 2]


def test_opcheck() -> None:
    values, cols, rows = dense_to_csr(torch.randn(9, 8) * (torch.rand(9, 8) < 0.5))
    order, bias = by_length(rows), torch.randn(9)
    torch.library.opcheck(_ordered_op.native, (torch.randn(2, 3, 8), values, cols, rows, order, bias, True))
    x, pairs = torch.randn(2, 2, 5, 7), ([2, 2], [1, 2], [1, 0], [1, 1])
    for b in (bias, None):
        torch.library.opcheck(_conv_op.native, (x, values, cols, rows, order, b, *pairs, 1, False))
