"""Sparse nets with packed weights as constants, and what compilers and exporters make of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import sparse
from vdropkern.ops.spmm.check import check_packed
from vdropkern.ops.spmm.pack import CHAIN_MAGIC, chain, chain_parts, parts
from vdropkern.sparse import SparseConv2d, SparseLinear, SparseSequential


def pruned(net: nn.Module, keep: float = 0.2) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                parameter.mul_(torch.rand_like(parameter) < keep)
    return vdk.sparsify(net.eval(), shrink=False, max_density=1, min_weights=0)


def convolutions() -> nn.Module:
    """Convolutions with and without ReLUs, poolings of both kinds, a chain of linear layers."""
    return pruned(nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(6, 9, 3, stride=2), nn.Tanh(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Linear(9 * 2 * 2, 30), nn.ReLU(), nn.Dropout(), nn.Linear(30, 20), nn.Linear(20, 5),
    ))  # fmt: skip


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    return pruned(nn.Sequential(nn.Conv2d(1, 2, 3), inner, nn.Flatten(), nn.Linear(4 * 4 * 5, 5)), 0.5)


class Residual(nn.Module):
    """Sparse layers outside of any Sequential, and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Linear(3, 4)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        return self.head((torch.relu(self.conv(x)) + x).mean((2, 3)) + shift)


CASES = {
    "convolutions": (convolutions, (torch.randn(3, 1, 23, 23),)),
    "nested": (nested, (torch.randn(2, 1, 12, 14),)),
    "residual": (lambda: pruned(Residual(), 0.5), (torch.randn(2, 3, 9, 8), torch.randn(2, 3))),
}


@pytest.mark.parametrize("name", CASES)
def test_freeze(name: str) -> None:
    make, inputs = CASES[name]
    net = make()
    frozen = sparse.freeze(net, inputs if len(inputs) > 1 else inputs[0])
    with torch.no_grad():
        assert torch.equal(frozen(*inputs), net(*inputs))
    modules = list(frozen.modules())
    assert not any(isinstance(m, (SparseLinear, SparseConv2d, SparseSequential)) for m in modules)
    assert any(isinstance(m, (SparseLinear, SparseConv2d)) for m in net.modules()), "it was changed in place"
    assert not list(frozen.parameters()) or name == "residual"
    # what is done to the net does not reach what was made of it
    before = frozen(*inputs)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert torch.equal(frozen(*inputs), before)


@pytest.mark.parametrize("name", CASES)
def test_export_keeps_the_kernels(name: str) -> None:
    make, inputs = CASES[name]
    net = make()
    program = sparse.to_export(net, tuple(t[:1] for t in inputs))
    ops = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert name == "convolutions" or any("vdropkern.sparse_conv2d" in op for op in ops)
    assert name == "residual" or any("vdropkern.sparse_net" in op for op in ops)
    assert not any("conv2d.default" in op and "vdropkern" not in op for op in ops)
    # what stands before Tanh and what behind
    assert name != "convolutions" or sum("vdropkern." in op for op in ops) == 2
    with torch.no_grad():
        for batch in (1, 2):
            given = tuple(t[:batch] for t in inputs)
            torch.testing.assert_close(program.module()(*given), net(*given))


def test_compiles_to_one_graph() -> None:
    torch._dynamo.reset()
    net, x = convolutions(), torch.randn(2, 1, 23, 23)
    frozen = sparse.freeze(net, x)
    with torch.no_grad():
        compiled = torch.compile(frozen, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), net(x))


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of torch
def test_aotinductor(tmp_path: Path) -> None:
    net, x = convolutions(), torch.randn(5, 1, 23, 23)
    path = tmp_path / "net.pt2"
    sparse.to_aotinductor(net, path, x[:1])
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]
    run = torch._inductor.aoti_load_package(str(path))
    with torch.no_grad():
        for batch in (1, 5):
            torch.testing.assert_close(run(x[:batch]), net(x[:batch]))


def test_aotinductor_refuses_other_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.pt2, got '.*net\.so'"):
        sparse.to_aotinductor(convolutions(), tmp_path / "net.so", torch.randn(1, 1, 23, 23))
    assert list(tmp_path.iterdir()) == []


def test_other_sizes_are_refused() -> None:
    frozen = sparse.freeze(convolutions(), torch.randn(1, 1, 23, 23))
    with pytest.raises(ValueError, match=r"must be \[N, 1, 23, 23\], got \(1, 1, 24, 23\).*freeze the net"):
        frozen(torch.randn(1, 1, 24, 23))


class Twice(nn.Module):
    def __init__(self, second: slice | None) -> None:
        super().__init__()
        self.conv, self.second = nn.Conv2d(1, 2, 3, padding=1), second

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.second is None else self.conv(x)[:, :1, self.second]
        return y if self.second is None else self.conv(y)


def test_refuses() -> None:
    x = torch.randn(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"holds no sparse layer; vdropkern\.sparsify"):
        sparse.freeze(nn.Linear(3, 2), x)
    with pytest.raises(ValueError, match="conv meets images of several sizes, \\(8, 8\\) and \\(4, 8\\)"):
        sparse.freeze(pruned(Twice(slice(0, 4))), x)
    unused = sparse.freeze(pruned(Twice(None)), x)
    assert type(unused.conv) is SparseConv2d
    with pytest.raises(ValueError, match=r"got torch\.float64 on cpu"):
        sparse.freeze(convolutions().double(), x.double())


@pytest.mark.parametrize("shift", [8, 24])
def test_constants_may_lie_anywhere(shift: int) -> None:
    """Compiled programs keep constants on multiples of fewer bytes than an allocator does."""
    x = torch.randn(2, 1, 23, 23)
    frozen = sparse.freeze(convolutions(), x)
    y = frozen(x)
    for module in frozen.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            room = torch.zeros(buffer.nbytes + 128, dtype=torch.uint8)
            first = -room.data_ptr() % 64 + shift
            place = room[first : first + buffer.nbytes].view(buffer.dtype)
            setattr(module, name, place.copy_(buffer))
    assert torch.equal(frozen(x), y)


def hostile(frozen: nn.Module) -> dict[str, Tensor]:
    """A state dict whose first packed matrix sends the kernel far behind its end."""
    state = {k: v.clone() for k, v in frozen.state_dict().items()}
    packed = next(v for v in state.values() if v.dtype == torch.uint8)
    packed = chain_parts(packed)[0][0] if packed[:8].view(torch.int64) == CHAIN_MAGIC else packed
    p = parts(packed)
    start = sum(-(-n // 64) * 64 for n in (8 * len(p.header), p.begins.nbytes, 4 * p.first.numel()))
    packed[start : start + 4 * p.start.numel()].view(torch.int32)[-1] = 2**30
    return state


@pytest.mark.parametrize("name", CASES)
def test_packed_forms_that_are_loaded_are_checked(name: str, tmp_path: Path) -> None:
    make, inputs = CASES[name]
    net = make()
    frozen, bad = (sparse.freeze(net, tuple(t[:1] for t in inputs)) for _ in range(2))
    sparse.save(frozen, tmp_path / "good")
    assert sparse.load(tmp_path / "good", into=frozen) is frozen
    y = frozen(*inputs)
    with pytest.raises(RuntimeError, match=r"packed: start must run from 0"):
        frozen.load_state_dict(hostile(frozen))
    for key, buffer in bad.named_buffers():
        buffer.copy_(hostile(frozen)[key])
    sparse.save(bad, tmp_path / "bad")
    with pytest.raises(sparse.ModelFileError, match=r"packed: start must run from 0"):
        sparse.load(tmp_path / "bad", into=frozen)
    assert torch.equal(frozen(*inputs), y)


@pytest.mark.parametrize("place, value", [(1, 0), (1, 65), (2, -64), (2, 2**40), (3, 2**40)])
def test_chains_that_reach_beyond_their_end_are_refused(place: int, value: int) -> None:
    layer = SparseLinear.from_dense(torch.randn(3, 5))
    joined = chain([layer.packed()], [True])
    check_packed(joined)
    joined[:40].view(torch.int64)[place] = value
    with pytest.raises(ValueError, match="packed"):
        check_packed(joined)
