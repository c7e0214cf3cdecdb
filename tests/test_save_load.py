"""Model files: what comes back, and what is never half written."""

from __future__ import annotations

import copy
import os
import stat
import threading
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.utils import prune

import vdropkern as vdk
from vdropkern import nn as vnn
from vdropkern._files import write_whole
from vdropkern.methods import MC, METHODS, HierarchicalVD, MagnitudePruning, Method, SparseVD, VariationalB
from vdropkern.sparse import ModelFileError, SparseLinear, register_module

from .saved_nets import Net, noise, pruned_mlp

METHODS_TO_SAVE: list[Method] = [
    *(cls() for cls in METHODS.values()),
    SparseVD(init_log_sigma2=-7.0, threshold=2.5, prior="log-uniform-exact", eval_mode=MC(4)),
    VariationalB("input", p=0.2, eval_mode="sample"),
    HierarchicalVD(parameterisation="log_alpha"),
]


def everything() -> torch.nn.Sequential:
    """One of each module that a file can describe."""
    body = torch.nn.Sequential(
        torch.nn.Linear(16, 12, bias=False),
        torch.nn.LayerNorm(12),
        torch.nn.RMSNorm(12),
        torch.nn.ReLU(inplace=True),
        torch.nn.ReLU6(),
        torch.nn.LeakyReLU(0.2),
        torch.nn.ELU(0.5),
        torch.nn.CELU(0.5),
        torch.nn.SELU(),
        torch.nn.GELU(approximate="tanh"),
        torch.nn.SiLU(),
        torch.nn.Mish(),
        torch.nn.PReLU(),
        torch.nn.Sigmoid(),
        torch.nn.LogSigmoid(),
        torch.nn.Tanh(),
        torch.nn.Hardtanh(-2, 2),
        torch.nn.Hardswish(),
        torch.nn.Hardsigmoid(),
        torch.nn.Softplus(2.0),
        torch.nn.Softsign(),
        torch.nn.Dropout(0.3),
        torch.nn.AlphaDropout(0.3),
        torch.nn.Identity(),
    )
    return torch.nn.Sequential(
        OrderedDict(
            unflatten=torch.nn.Unflatten(1, (1, 8, 8)),
            conv=torch.nn.Conv2d(1, 4, 3, padding="same", bias=False),
            norm=torch.nn.BatchNorm2d(4),
            drop=torch.nn.Dropout2d(0.1),
            pool=torch.nn.MaxPool2d(2),
            average=torch.nn.AvgPool2d(2),
            adaptive=torch.nn.AdaptiveAvgPool2d((2, 2)),
            flat=torch.nn.Flatten(),
            body=body,
            glu=torch.nn.GLU(),
            sparse=SparseLinear.from_dense(torch.eye(6)[:, :6] * 2, torch.ones(6)),
            noisy=vnn.Linear(6, 4),
            soft=torch.nn.Softmax(dim=-1),
            log=torch.nn.LogSoftmax(dim=1),
        )
    )


def test_pruned_net_comes_back(tmp_path: Path) -> None:
    model, path = pruned_mlp(), tmp_path / "net.safetensors"
    assert [type(m).__name__ for m in model] == ["Flatten", "SparseLinear", "ReLU", "Linear"]
    vdk.save(model, path)
    loaded = vdk.load(path)
    assert not loaded.training and repr(loaded) == repr(model)
    x = torch.randn(5, 40)
    assert torch.equal(loaded(x), model(x))
    assert path.stat().st_size < 5_000 < 4 * (1200 + 90)
    again = tmp_path / "again.safetensors"
    vdk.save(loaded, again)
    assert again.read_bytes() == path.read_bytes()


def test_every_known_module_comes_back(tmp_path: Path) -> None:
    model = everything()
    model(torch.randn(4, 64))  # moves the running statistics
    vdk.save(model, tmp_path / "m")
    loaded = vdk.load(tmp_path / "m")
    assert repr(loaded).removeprefix("Sparse") == repr(model) and loaded.training
    x = torch.randn(3, 64)
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())
    loaded.train()(x).sum().backward()


@pytest.mark.parametrize("method", METHODS_TO_SAVE, ids=str)
def test_methods_come_back(method: Method, tmp_path: Path) -> None:
    model = torch.nn.Sequential(vnn.Linear(5, 4, method=method))
    vdk.save(model, tmp_path / "m")
    loaded = vdk.load(tmp_path / "m")
    assert loaded[0].method == method
    torch.manual_seed(0)
    y = model(torch.ones(2, 5))
    torch.manual_seed(0)
    assert torch.equal(loaded(torch.ones(2, 5)), y)
    vdk.project_(loaded)
    torch.testing.assert_close(vdk.kl_divergence(loaded), vdk.kl_divergence(model))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_dtypes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    model = pruned_mlp().to(dtype)
    vdk.save(model, tmp_path / "m")
    loaded = vdk.load(tmp_path / "m")
    x = torch.randn(2, 40, dtype=dtype)
    assert loaded(x).dtype == dtype and torch.equal(loaded(x), model(x))


def test_shared_modules_and_tied_weights_come_back(tmp_path: Path) -> None:
    shared = vnn.Linear(6, 6)
    tied = torch.nn.Linear(6, 6)
    tied.weight = shared.weight
    model = torch.nn.Sequential(OrderedDict(a=shared, b=torch.nn.Sequential(shared, tied), c=torch.nn.ReLU()))
    vdk.save(model, tmp_path / "m")
    loaded = vdk.load(tmp_path / "m")
    assert loaded.a is loaded.b[0] and loaded.b[1].weight is loaded.a.weight
    assert isinstance(loaded.a.weight, torch.nn.Parameter)
    torch.testing.assert_close(vdk.kl_divergence(loaded), vdk.kl_divergence(model))


def test_a_layer_as_the_model(tmp_path: Path) -> None:
    for model in (
        vnn.Linear(4, 3),
        torch.nn.Linear(4, 3),
        SparseLinear.from_dense(torch.eye(4)),
        torch.nn.ReLU(),
    ):
        vdk.save(model, tmp_path / "m")
        assert repr(vdk.load(tmp_path / "m")) == repr(model)


def test_views_are_saved_as_what_they_show(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    model.weight = torch.nn.Parameter(torch.randn(9, 8)[::3, 1::2])
    vdk.save(model, tmp_path / "m")
    assert torch.equal(vdk.load(tmp_path / "m").weight, model.weight)


@pytest.mark.parametrize("target", ["dense", "variational", "sparse", "same"])
def test_into_a_model_of_your_own(target: str, tmp_path: Path) -> None:
    variational = noise(vdk.convert(Net(), SparseVD()))
    variational(torch.randn(9, 40))
    saved = vdk.sparsify(variational, shrink=False, max_density=0.5, min_weights=100)
    vdk.save(saved, tmp_path / "m")
    with pytest.raises(ModelFileError, match=r"state of a Net, .*pass it as load\(path, into=model\)"):
        vdk.load(tmp_path / "m")
    own: torch.nn.Module = {
        "dense": Net,
        "variational": lambda: vdk.convert(Net(), SparseVD()),
        "sparse": lambda: vdk.sparsify(
            noise(vdk.convert(Net(), SparseVD())), shrink=False, max_density=1.0, min_weights=0
        ),
        "same": lambda: copy.deepcopy(saved),
    }[target]()
    own.double()
    norm, training = own.norm, own.training
    assert vdk.load(tmp_path / "m", into=own) is own
    assert own.norm is norm and own.training == own.fc1.training == training
    assert isinstance(own.fc1, SparseLinear) and type(own.fc2) is torch.nn.Linear
    x = torch.randn(4, 40)
    assert own.fc1.values.dtype == torch.float64  # device and dtype stay the model's
    torch.testing.assert_close(own.eval()(x.double()), saved(x).double())


def test_into_keeps_parameters_where_nothing_changes(tmp_path: Path) -> None:
    saved, own = Net(), Net()
    vdk.save(saved, tmp_path / "m")
    parameters = dict(own.named_parameters())
    vdk.load(tmp_path / "m", into=own)
    assert all(own.get_parameter(name) is p for name, p in parameters.items())
    assert torch.equal(own.fc1.weight, saved.fc1.weight)


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(20, 8)
        self.out = torch.nn.Linear(8, 20)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.embed(x))
        return y


def test_into_tied_weights_that_pruning_took_apart(tmp_path: Path) -> None:
    saved = Tied()
    saved.out = vdk.convert(saved.out, MagnitudePruning(0.5)).eval().to_dense()
    vdk.save(saved, tmp_path / "m")
    own, x = Tied(), torch.arange(20)
    vdk.load(tmp_path / "m", into=own)
    assert torch.equal(own(x), saved(x)) and own.out.weight is not own.embed.weight
    vdk.save(Tied(), tmp_path / "m")
    tied = vdk.load(tmp_path / "m", into=Tied())
    assert tied.out.weight is tied.embed.weight

    shared = torch.nn.Embedding(3, 2)
    two = torch.nn.ModuleList([shared, shared])
    vdk.save(torch.nn.ModuleList([torch.nn.Embedding(3, 2), torch.nn.Embedding(3, 2)]), tmp_path / "m")
    before = shared.weight.clone()
    with pytest.raises(ModelFileError, match=r"1\.weight is 0\.weight in the model, but not in the file"):
        vdk.load(tmp_path / "m", into=two)
    assert torch.equal(shared.weight, before)


def test_into_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    saved = vdk.sparsify(
        noise(vdk.convert(Net(), SparseVD())), shrink=False, max_density=0.5, min_weights=100
    )
    vdk.save(saved, tmp_path / "m")
    wider, other, without = Net(), Net(), Net()
    wider.fc1 = torch.nn.Linear(41, 30)
    other.norm = torch.nn.BatchNorm1d(30, affine=False)
    without.fc1 = torch.nn.Identity()  # type: ignore[assignment]
    for model, words in (
        (wider, r"fc1 must have .*\(41, 30, True\), the file's has \(40, 30, True\)"),
        (other, "needs other tensors.*left over norm.bias, norm.weight"),
        (without, "fc1 must be a linear layer, the model has a Identity there"),
        (torch.nn.Sequential(), "the model has nothing there"),
    ):
        before, kinds = copy.deepcopy(model.state_dict()), repr(model)
        with pytest.raises(ModelFileError, match=words):
            vdk.load(tmp_path / "m", into=model)
        assert repr(model) == kinds
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_describe_reads_for_people(tmp_path: Path) -> None:
    model = pruned_mlp()
    vdk.save(model, tmp_path / "m")
    text = vdk.describe(tmp_path / "m")
    assert text.startswith(f"vdropkern model, format 1, written by version {vdk.__version__}\nin eval mode")
    assert '"type": "vdropkern.SparseLinear"' in text and f'"nnz": {model[1].nnz}' in text
    assert f"1.values: F32 [{model[1].nnz}]" in text


def test_other_readers_of_safetensors_can_read_it(tmp_path: Path) -> None:
    model = pruned_mlp()
    vdk.save(model, tmp_path / "m.safetensors")
    tensors = safetensors.torch.load_file(tmp_path / "m.safetensors")
    assert torch.equal(tensors["1.values"], model[1].values)


class Gain(torch.nn.Module):
    def __init__(self, size: int, power: float) -> None:
        super().__init__()
        self.size, self.power = size, power
        self.gain = torch.nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain**self.power


def test_registered_modules(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), Gain(3, 2.0))
    vdk.save(model, tmp_path / "m")
    with pytest.raises(ModelFileError, match="state of a Sequential, which only its own code can build"):
        vdk.load(tmp_path / "m")
    register_module(Gain, ("size", "power"))
    vdk.save(model, tmp_path / "m")
    x = torch.randn(2, 3)
    assert torch.equal(vdk.load(tmp_path / "m")(x), model(x))
    with pytest.raises(TypeError, match="register_module: cls must be"):
        register_module("Gain", ())  # type: ignore[arg-type]


# how it is written


def test_a_failing_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m"
    vdk.save(pruned_mlp(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            with pytest.raises(OSError, match="No space left"):
                vdk.save(pruned_mlp(), path)
        assert path.read_bytes() == before and os.listdir(tmp_path) == ["m"]
    with pytest.raises(FileNotFoundError, match=f"no such folder; make it first: '{tmp_path / 'no'}'"):
        vdk.save(pruned_mlp(), tmp_path / "no" / "m")
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_two_threads_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first, second = tmp_path / "m", b"1" * 100, b"2" * 50
    replace = os.replace

    def interrupted(*names: Path) -> None:  # the second is whole before the first is put in its place
        monkeypatch.setattr(os, "replace", replace)
        thread = threading.Thread(target=write_whole, args=(path, second))
        thread.start()
        thread.join()
        assert path.read_bytes() == second
        replace(*names)

    monkeypatch.setattr(os, "replace", interrupted)
    write_whole(path, first)
    assert path.read_bytes() == first and os.listdir(tmp_path) == ["m"]


def test_what_cannot_be_saved_says_so(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    model.register_buffer("phase", torch.ones(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match=r"save: phase is torch\.complex64"):
        vdk.save(model, tmp_path / "m")
    assert os.listdir(tmp_path) == []


def test_weights_that_hooks_compute(tmp_path: Path) -> None:
    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(prune.l1_unstructured(torch.nn.Linear(4, 3), "weight", 0.5))

    vdk.save(model(), tmp_path / "m")
    with pytest.raises(ModelFileError, match="only its own code can build"):
        vdk.load(tmp_path / "m")
    own = model()
    torch.nn.init.zeros_(own[0].weight_orig)
    x = torch.randn(2, 4)
    assert torch.equal(vdk.load(tmp_path / "m", into=own)(x), model()(x))


def test_missing_file(tmp_path: Path) -> None:
    for read in (vdk.load, vdk.describe):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "m")
