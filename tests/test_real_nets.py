"""Nets as users write them: what sparsify, shrink, freeze and files make of code that is not ours."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern.sparse import ShrinkError, SparseConv2d, SparseLinear

ALL = {"max_density": 1.0, "min_weights": 0}


def pruned(net: nn.Module, density: float = 0.2) -> nn.Module:
    """The net in eval mode, most weights of its linear and convolution layers at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                module.weight *= torch.rand(module.weight.shape, generator=generator) < density
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-1, 1, generator=generator)
    return net.eval()


class Listed(nn.Module):
    """Layers by their names, and in a list beside by which they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = []
        for i in range(2):
            conv, norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"norm{i}", norm)
            self.stages.append((conv, {"norm": norm}))

    def forward(self, x: Tensor) -> Tensor:
        for conv, more in self.stages:
            x = F.relu(more["norm"](conv(x)))
        return x


def test_layers_in_lists(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = pruned(Listed()), torch.randn(2, 4, 8, 8)
    small, report = vdk.shrink(net, x)
    assert type(small.norm0) is nn.Identity and small.stages[0][1]["norm"] is small.norm0
    assert report.difference < 1e-5
    fast = vdk.sparsify(net, x, **ALL)
    frozen, dense = vdk.sparse.freeze(fast, x), vdk.sparse.to_dense(fast)
    assert frozen.stages[0][0] is frozen.conv0 and dense.stages[0][0] is dense.conv0
    vdk.save(fast, tmp_path / "net")
    loaded = vdk.load(tmp_path / "net", into=Listed()).eval()
    assert type(loaded.stages[1][0]) is SparseConv2d and type(net.stages[1][0]) is nn.Conv2d
    for other in (small, fast, frozen, dense, loaded):
        torch.testing.assert_close(other(x), net(x))


def test_results_of_the_last_call_are_copied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net.kept = [net(torch.ones(1, 4))]
    fast = vdk.sparsify(net)
    assert torch.equal(fast.kept[0], net.kept[0]) and net.kept[0].requires_grad


class Versioned(nn.Module):
    """As torchvision's MNASNet, refuses states that do not say of which version they are."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def _load_from_state_dict(
        self, state_dict: object, prefix: str, local_metadata: dict, *rest: object
    ) -> None:
        if local_metadata.get("version") != self._version:
            raise ValueError("version should be set to 2")
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


def test_modules_that_ask_for_their_version(tmp_path: Path) -> None:
    net = pruned(Versioned())
    vdk.save(vdk.sparsify(net, **ALL), tmp_path / "net")
    torch.testing.assert_close(
        vdk.load(tmp_path / "net", into=Versioned())(torch.ones(1, 4)), net(torch.ones(1, 4))
    )
    vdk.sparse.register_module(Plain, ())
    vdk.save(nn.Sequential(plain := Plain()), tmp_path / "net")
    assert torch.equal(vdk.load(tmp_path / "net")[0].weight, plain.weight)


class Plain(Versioned):
    """One that files can describe."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.randn(3))


class Asking(nn.Module):
    """Reads the weight of a layer for its dtype, as T5 and ViT do, and another's for a product."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv, self.last = nn.Linear(6, 6), nn.Conv2d(2, 3, 3), nn.Linear(6, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(input=x.to(self.conv.weight.dtype)).flatten(2).mean(-1).repeat(1, 2)
        return self.last(self.fc(input=x) @ self.fc.weight)


def test_code_that_reads_weights_and_names_inputs() -> None:
    net, x = pruned(Asking()), torch.randn(2, 2, 5, 5)
    fast = vdk.sparsify(net, x, tune=True)
    fast = vdk.sparsify(net, x, **ALL)
    frozen = vdk.sparse.freeze(fast, x)
    assert type(frozen.fc) is SparseLinear and type(frozen.last) is not SparseLinear
    assert type(fast.fc) is SparseLinear and type(fast.conv) is SparseConv2d
    with torch.no_grad():
        nets = [fast, frozen, *(torch.compile(n, backend="eager") for n in (fast, frozen))]
        for other in nets:
            torch.testing.assert_close(other(x), net(x))
        assert fast.fc.weight is fast.fc.weight and fast.conv.weight.shape == (3, 2, 3, 3)
        fast.fc.values.mul_(2)
        torch.testing.assert_close(fast(x), 4 * net(x) - 2 * net.last(net.fc.bias @ net.fc.weight))
    packed = fast.fc.packing()
    assert fast(x).requires_grad and fast.fc.packing() is packed, "reading a weight costs no packed form"
    fast(x).sum().backward()
    ahead, fast.fc.values.grad = fast.fc.values.grad, None
    fast.train()(x).sum().backward()
    torch.testing.assert_close(fast.fc.values.grad, ahead)
    net.fc.weight.data *= 2
    net.train()(x).sum().backward()
    kept = net.fc.weight != 0
    torch.testing.assert_close(fast.fc.values.grad, net.fc.weight.grad[kept])


class Pyramid(nn.Module):
    """One head for images of several sizes, as detectors have it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.head(F.avg_pool2d(x, k)) for k in (1, 2, 4)]


def test_a_convolution_of_several_sizes_is_packed_once_for_each() -> None:
    net, x = pruned(Pyramid()), torch.randn(2, 4, 16, 16)
    fast = vdk.sparsify(net, x, **ALL)
    with torch.no_grad():
        fast(x)
        held = fast.head.packed_bytes()
        packs = {id(made) for made in (fast.head._pack, *fast.head._packs)}
        for y, expected in zip(fast(x), net(x), strict=True):
            torch.testing.assert_close(y, expected)
        assert packs == {id(made) for made in (fast.head._pack, *fast.head._packs)} and len(packs) == 3
        assert fast.head.packed_bytes() == held > 3 * fast.head.nnz * 4
        fast.head.values.mul_(2)
        net.head.weight.mul_(2)
        for y, expected in zip(fast(x), net(x), strict=True):
            torch.testing.assert_close(y, expected)
    with torch.inference_mode():
        for size in range(3, 20):
            fast.head(torch.randn(1, 4, size, size))
    assert len(fast.head._packs) == 7
    fast.head.repack()
    assert fast.head.packed_bytes() == 0


class ByClass(nn.Module):
    """Calls what it knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if isinstance(layer, (nn.Linear, nn.ReLU)):
                x = layer(x)
        return x


@pytest.mark.parametrize("sample", [None, torch.ones(2, 4)])
def test_a_copy_that_computes_something_else_is_told(sample: Tensor | None) -> None:
    with pytest.warns(UserWarning, match="copy of ByClass computes something else than it; its"):
        vdk.sparsify(pruned(ByClass()), sample, **ALL)


@pytest.mark.parametrize("last", ["dropout", "chaos"])
def test_results_that_are_not_repeatable_are_not_told(last: str, recwarn: pytest.WarningsRecorder) -> None:
    net = pruned(nn.Sequential(nn.Linear(64, 64), Always() if last == "dropout" else Chaos()))
    vdk.shrink(net)
    fast, x = vdk.sparsify(net, torch.rand(9, 64), **ALL), torch.rand(9, 64)
    assert not torch.allclose(fast(x), net(x), atol=0.1)
    assert not recwarn.list


def test_trial_runs_draw_nothing_from_the_generator() -> None:
    state = torch.get_rng_state()
    net = pruned(nn.Sequential(nn.Linear(64, 64), Chaos()))
    torch.set_rng_state(state)
    vdk.sparsify(net, torch.ones(9, 64), **ALL)
    assert torch.equal(torch.get_rng_state(), state)


class Chaos(nn.Module):
    """Makes much of the last bit."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(2**24 * x)


class Flattening(nn.Module):
    """Needs a hook of its own, and gives a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Output:
        y = self.fc(x).relu()
        return Output(self.last(y), y)


@dataclasses.dataclass
class Output:
    y: Tensor
    hidden: Tensor
    more: Tensor | None = None


def test_dataclasses_and_hooks_that_a_model_needs() -> None:
    net, x = pruned(Flattening()), torch.randn(2, 2, 2)
    assert vdk.shrink(net, x.flatten(1))[1].difference < 1e-5
    net.register_forward_pre_hook(lambda module, args: (args[0].flatten(1),))
    with pytest.raises(ShrinkError, match=r"without its forward hooks, the model cannot run on sample_input"):
        vdk.shrink(net, x)
    fast = vdk.sparsify(net, x)
    torch.testing.assert_close((fast(x).y, fast(x).hidden), (net(x).y, net(x).hidden))


class Always(nn.Module):
    """Dropout that does not stop in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x)


class Between(nn.Module):
    """Sparse layers outside of a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)).relu())


def run_of_all() -> nn.Module:
    linear = nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), *linear)


class Named(nn.Module):
    """Two Sequentials, one with a hook, of which one is called child by child."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(8, 6), last=nn.Linear(6, 4)))
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head.register_forward_hook(lambda module, args, y: 2 * y)

    def forward(self, x: Tensor) -> Tensor:
        y = total = x.flatten(1)
        for layer in self.body:
            y = layer(y)
            total = total + y
        return self.head(y) + total[:, :4]


def test_frozen_sequentials_keep_names_hooks_and_children_called_alone() -> None:
    net, x = pruned(Named()), torch.randn(2, 2, 4)
    fast = vdk.sparsify(net, x, **ALL)
    net(x)
    torch.testing.assert_close(fast(x), net(x))
    frozen = vdk.sparse.freeze(fast, x)
    assert [*frozen.head._modules] == ["flat", "fc", "last"] and type(frozen.head.last) is nn.Identity
    torch.testing.assert_close(frozen(x), net(x))


jit = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning")


@jit
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("make", [Between, run_of_all])
def test_torch_jit_trace(make: Callable[[], nn.Module], grad: bool, tmp_path: Path) -> None:
    fast, x = vdk.sparsify(pruned(make()), **ALL), torch.randn(3, 2, 8, 8)
    with torch.set_grad_enabled(grad):
        traced = torch.jit.trace(fast, x)
    traced.save(tmp_path / "net.pt")
    for net in (traced, torch.jit.load(tmp_path / "net.pt"), torch.jit.trace(vdk.sparse.freeze(fast, x), x)):
        for batch in (3, 3, 3, 5):  # TorchScript runs another program from the second call on
            y = torch.randn(batch, 2, 8, 8)
            torch.testing.assert_close(net(y), fast(y))
    geometry = next(m for m in fast.modules() if isinstance(m, SparseConv2d))._pack.columns
    assert all(type(size) is int for size in geometry.image), "no stand-ins of the tracer"
    with pytest.raises(RuntimeError, match="packed was made for another"):
        traced(torch.randn(3, 2, 9, 9))


@jit
def test_torch_jit_script_is_told_what_to_do() -> None:
    fast, x = vdk.sparsify(pruned(run_of_all()), **ALL), torch.randn(3, 2, 8, 8)
    for net in (fast, vdk.sparse.freeze(fast, x)):
        with pytest.raises(TypeError, match=r"does not know \w+; use torch\.jit\.trace, or script"):
            torch.jit.script(net)
    torch.testing.assert_close(torch.jit.script(vdk.sparse.to_dense(fast))(x), fast(x))


@pytest.mark.parametrize("make", [nn.Linear, vnn.Linear])
def test_a_mask_of_the_bias_alone(make: type[nn.Linear]) -> None:
    net, x = pruned(nn.Sequential(make(6, 6))), torch.randn(2, 6)
    prune.random_unstructured(net[0], "bias", 0.5)
    fast = vdk.sparsify(net, x, **ALL)
    torch.testing.assert_close(fast(x), net(x))
    (row,) = vdk.plan_sparsification(net, x, **ALL)
    assert not row.changed and row.reason.startswith("its bias is computed by a hook; ")


def test_samples_that_are_no_tensors(tmp_path: Path) -> None:
    fast = vdk.sparsify(pruned(Between()), **ALL)
    calls = (
        lambda sample: vdk.sparsify(fast, sample, tune=True),
        lambda sample: vdk.shrink(fast, sample),
        lambda sample: vdk.sparse.freeze(fast, sample),
        lambda sample: vdk.sparse.to_export(fast, sample),
        lambda sample: vdk.sparse.to_onnx(fast, tmp_path / "net.onnx", sample),
    )
    for call in calls:
        for sample, got in (({"x": 1}, "dict"), ((torch.ones(1), None), "NoneType in a tuple")):
            with pytest.raises(TypeError, match=f"^sample_input must be a tensor .* tensors, got {got}$"):
                call(sample)
    with pytest.raises(ValueError, match=r"cannot run on sample_input \(1, 5, 8, 8\)"):
        vdk.sparse.freeze(fast, torch.ones(1, 5, 8, 8))
