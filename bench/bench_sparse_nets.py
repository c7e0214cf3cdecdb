"""Whole pruned nets, end to end: what `sparsify` makes of them beside what else a user could pick."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern import sparse

from .gate import compare
from .sparse_peers import run_onnxruntime, run_openvino
from .specs import Contender, MissingError, PrunedNet

# zeros by layer: Molchanov et al. 2017, table 1; of the VGG-like net the paper prints the whole net's alone
_LENET_300 = (0.989, 0.972, 0.62)
_LENET_5 = (0.67, 0.98, 0.998, 0.95)
_VGG = 1 - 1 / 68
_VGG_CHANNELS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling


def _lenet_300_100() -> nn.Sequential:
    return nn.Sequential(nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def _lenet_5() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10),
    )  # fmt: skip


def _vgg() -> nn.Sequential:
    parts: list[nn.Module] = []
    channels = 3
    for out in _VGG_CHANNELS:
        if not out:
            parts.append(nn.MaxPool2d(2))
            continue
        parts += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*parts, nn.Flatten(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


_NETS: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...], Any]] = {
    "lenet-300-100": (_lenet_300_100, (784,), _LENET_300),
    "lenet-5": (_lenet_5, (1, 28, 28), _LENET_5),
    "vgg": (_vgg, (3, 32, 32), _VGG),
}


@torch.no_grad()
def _dense(spec: PrunedNet) -> nn.Sequential:
    """The net with that share of each layer's weights at zero, at random places."""
    build, _, sparsity = _NETS[spec.net]
    torch.manual_seed(1)
    net = build().eval()
    layers = [m for m in net if isinstance(m, (nn.Linear, nn.Conv2d))]
    shares = sparsity if isinstance(sparsity, tuple) else (sparsity,) * len(layers)
    for layer, share in zip(layers, shares, strict=True):
        kept = torch.rand(layer.weight.shape) >= share
        # of the size that what is left would have been trained to
        layer.weight.copy_(torch.where(kept, layer.weight / (1 - share) ** 0.5, 0.0))
    return net


def _x(spec: PrunedNet) -> Tensor:
    return torch.randn(spec.batch, *_NETS[spec.net][1], generator=torch.Generator().manual_seed(2))


def _sparse(spec: PrunedNet) -> nn.Module:
    return vdk.sparsify(_dense(spec), _x(spec))


def _timed(forward: Callable[[Tensor], object], x: Tensor, gradients: bool) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode(not gradients):
            forward(x)

    return run


def _other(run: Callable[[bytes], Callable[[Tensor], Tensor]], package: str, spec: PrunedNet) -> Any:
    """Another runtime with the dense net."""
    for name in (package, "onnxscript"):
        if importlib.util.find_spec(name) is None:
            raise MissingError(f"{name} is not installed")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of torch
        path = Path(folder) / "net.onnx"
        sparse.to_onnx(_dense(spec), path, _x(PrunedNet(spec.net, 2)))
        return run(path.read_bytes())


@functools.lru_cache(maxsize=1)  # the gate compiles it first
def _aotinductor(spec: PrunedNet) -> Any:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's compiler warns of torch
        path = Path(folder) / "net.pt2"
        try:
            sparse.to_aotinductor(_sparse(spec), path, _x(spec))
        except torch._inductor.exc.InvalidCxxCompiler as err:
            raise MissingError("no C++ compiler") from err
        return torch._inductor.aoti_load_package(str(path))


def _compiled(spec: PrunedNet) -> Any:
    return torch.compile(_dense(spec))


def _make(
    net: Callable[[PrunedNet], Callable[[Tensor], object]], spec: PrunedNet, gradients: bool = False
) -> Callable[[], None]:
    return _timed(net(spec), _x(spec), gradients)


CONTENDERS = {
    "dense": Contender("dense torch layers", partial(_make, _dense), core=True),
    "vdropkern": Contender("vdropkern.sparsify", partial(_make, _sparse), core=True),
    # what a call without no_grad costs, gradients never asked for
    "dense-graph": Contender("dense torch layers, gradients on", partial(_make, _dense, gradients=True)),
    "graph": Contender("vdropkern.sparsify, gradients on", partial(_make, _sparse, gradients=True)),
    "aotinductor": Contender("vdropkern.sparse.to_aotinductor", partial(_make, _aotinductor)),
    "compile": Contender("torch.compile of the dense net", partial(_make, _compiled)),
    "onnx": Contender(
        "ONNX Runtime, dense with zeros",
        partial(_make, partial(_other, run_onnxruntime, "onnxruntime")),
        package="onnxruntime",
    ),
    "openvino": Contender(
        "OpenVINO, dense with zeros",
        partial(_make, partial(_other, run_openvino, "openvino")),
        package="openvino",
    ),
}


def gate(spec: PrunedNet) -> list[str]:
    """The sparse net against the dense one in float64."""
    x = _x(spec)
    with torch.inference_mode():
        found = {"vdropkern": _sparse(spec)(x)}
        with contextlib.suppress(MissingError):
            found["aotinductor"] = _aotinductor(spec)(x)
        truth = _dense(spec).double()(x.double())
    lengths = (m.weight[0].numel() for m in _dense(spec) if isinstance(m, (nn.Linear, nn.Conv2d)))
    return compare(found, dict.fromkeys(found, truth), sum(lengths))


def test_sparse_nets(timed: Callable[[], None]) -> None:
    timed()
