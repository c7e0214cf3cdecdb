"""Files of shrunk nets: what comes back, into which models, and what hostile ones do."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vdropkern as vdk
from tests.random_nets import Residual, assert_same, kill, mlp
from vdropkern.sparse import ModelFileError, Select
from vdropkern.sparse.format import Content, decode, encode

FIXTURE = HealthCheck.function_scoped_fixture


class Net(nn.Module):
    """With everything that shrinking changes: all but `act` becomes smaller or goes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, bias=False)
        self.folded, self.drop, self.act = nn.BatchNorm2d(6), nn.Dropout(), nn.PReLU(6)
        self.own = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 16, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.own(self.act(self.drop(self.folded(self.conv(x)))))
        return self.last(torch.relu(self.fc(x.flatten(1))))


def dead_net(seed: int = 0) -> Net:
    net = Net().eval()
    kill(net, random.Random(seed))
    with torch.no_grad():
        net.conv.weight[2:4], net.fc.weight[:2] = 0, 0
        net.conv.weight[:, 1] = 0
    return net


@pytest.mark.parametrize("inputs", [True, False])
def test_into_a_model_of_its_own_class(inputs: bool, tmp_path: Path) -> None:
    net = dead_net()
    x = torch.randn(3, 3, 6, 6)
    small, _ = vdk.shrink(net, x, inputs=inputs)
    assert isinstance(small.conv, nn.Sequential if inputs else nn.Conv2d) and small.own.num_features < 6
    assert type(small.folded) is type(small.drop) is nn.Identity
    vdk.save(small, tmp_path / "m")
    own = Net().eval()
    assert vdk.load(tmp_path / "m", into=own) is own
    assert torch.equal(own(x), small(x)) and repr(own) == repr(small)
    vdk.save(own, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    assert torch.equal(vdk.load(tmp_path / "m", into=copy.deepcopy(small))(x), small(x))


def test_what_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    small, _ = vdk.shrink(dead_net(), torch.randn(3, 3, 6, 6), inputs=False)
    vdk.save(small, tmp_path / "m")
    kernel, less, other, missing = Net(), Net(), Net(), Net()
    kernel.conv = nn.Conv2d(3, 6, 5, bias=False)
    less.conv = nn.Conv2d(1, 1, 3, bias=False)
    other.own = nn.Flatten()  # type: ignore[assignment]
    missing.folded = nn.Linear(2, 2)  # type: ignore[assignment]
    for own, words in (
        (kernel, r"conv must have .*the file's has"),
        (less, r"conv must have .*the file's has"),
        (other, "own must be a BatchNorm2d, the model has a Flatten there"),
        (missing, "folded must be a Identity, the model has a Linear there"),
        (nn.Sequential(), "the model has nothing there"),
    ):
        before, kinds = copy.deepcopy(own.state_dict()), repr(own)
        with pytest.raises(ModelFileError, match=words):
            vdk.load(tmp_path / "m", into=own)
        assert repr(own) == kinds and all(torch.equal(before[k], v) for k, v in own.state_dict().items())


def test_selected_inputs_come_back_and_are_checked(tmp_path: Path) -> None:
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight[:, :5] = 0
    small, _ = vdk.shrink(nn.Sequential(layer, nn.ReLU()))
    path, x = tmp_path / "m", torch.randn(2, 8)
    vdk.save(small, path)
    loaded = vdk.load(path)
    assert isinstance(loaded[0][0], Select) and torch.equal(loaded(x), small(x))
    structure, tensors = decode(path, path.read_bytes())
    for bad in (
        torch.tensor([5, 6, 8]),
        torch.tensor([-1, 6, 7]),
        torch.tensor([5, 6, 7], dtype=torch.int32),
    ):
        path.write_bytes(encode(Content(structure, {**tensors, "0.0.indices": bad})))
        with pytest.raises(ModelFileError, match=r"0.0(: indices must|.indices must be)"):
            vdk.load(path)


@given(seed=st.integers(0, 2**32), density=st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[FIXTURE])
@torch.no_grad()
def test_sparsified_saved_and_loaded_again(seed: int, density: float, tmp_path: Path) -> None:
    draw = random.Random(seed)
    net = kill(nn.Sequential(nn.Flatten(), *mlp(draw, 7)).double().eval(), draw)
    x = torch.randn(4, 7, dtype=torch.float64)
    fast = vdk.sparsify(net, max_density=density, min_weights=0)
    assert_same(fast(x), net, x, "sparsified")
    path = tmp_path / "m"
    vdk.save(fast, path)
    if any(isinstance(module, Residual) for module in net.modules()):
        loaded = vdk.load(path, into=copy.deepcopy(net))
    else:
        loaded = vdk.load(path)
    assert torch.equal(loaded(x), fast(x))
