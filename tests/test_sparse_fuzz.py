"""Hostile model files with right checksums: an error, or a net that runs.

That it runs within its bounds shows under `make sanitize`, where a read or write beyond them ends the run.
"""

from __future__ import annotations

import contextlib
import copy
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import vdropkern as vdk
from vdropkern.sparse import ModelFileError, SparseConv2d, SparseLinear
from vdropkern.sparse.format import Content, decode, encode

FIXTURE = HealthCheck.function_scoped_fixture
# rows in the order of the kernels' tiles, and none, and all
PATTERNS = ("random", "empty-rows", "full-rows", "one", "none", "all")


def weight(pattern: str, rows: int, columns: int, draw: random.Random) -> Tensor:
    """[rows, columns] with zeros after the pattern."""
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    w = torch.rand(rows, columns, generator=generator) + 0.1
    keep = torch.rand(rows, columns, generator=generator) < 0.2
    if pattern == "empty-rows":
        keep[torch.rand(rows, generator=generator) < 0.6] = False
    elif pattern == "full-rows":
        keep[torch.rand(rows, generator=generator) < 0.3] = True
    elif pattern == "one":
        keep[:] = False
        keep[draw.randrange(rows), draw.randrange(columns)] = True
    elif pattern != "random":
        keep[:] = pattern == "all"
    return torch.where(keep, w, 0.0)


def sparse_net(pattern: str, draw: random.Random) -> nn.Module:
    """Two sparse layers, the first perhaps held in another dtype."""
    sizes = [draw.choice([1, 3, 17, 40]) for _ in range(3)]
    first = SparseLinear.from_dense(weight(pattern, sizes[1], sizes[0], draw), torch.rand(sizes[1]))
    first.store_as(draw.choice([torch.float32, torch.bfloat16, torch.int8]))
    second = SparseLinear.from_dense(weight(pattern, sizes[2], sizes[1], draw))
    net = nn.Sequential(first, nn.ReLU(), second)
    return vdk.sparsify(net, shrink=False).eval()


def sparse_conv_net(pattern: str, draw: random.Random) -> nn.Module:
    """A sparse convolution, and a sparse layer of all of its channels and places."""
    groups, kernel = draw.choice([1, 2]), draw.choice([1, 3])
    conv = nn.Conv2d(4, 6, kernel, stride=draw.choice([1, 2]), padding=draw.choice([0, 1, 2]), groups=groups)
    rows = weight(pattern, 6, conv.weight[0].numel(), draw).reshape(conv.weight.shape)
    first = SparseConv2d.from_dense(conv, rows, activation=draw.choice(["none", "relu"]))
    first.store_as(draw.choice([torch.float32, torch.bfloat16]))
    features = conv(torch.zeros(1, 4, 5, 7)).numel()
    second = SparseLinear.from_dense(weight(pattern, 3, features, draw))
    return nn.Sequential(first, nn.Flatten(), second).eval()


def runs(net: nn.Module) -> None:
    """Whatever it computes: batches that end within a vector, one, and none."""
    first = net[0]
    shape = (first.in_channels, 5, 7) if isinstance(first, SparseConv2d) else (first.in_features,)
    with torch.no_grad():
        for batch in (0, 1, 3, 33):
            net(torch.zeros(batch, *shape))


def spoil(content: Content, draw: random.Random) -> Content:
    """One thing that is not as it was: bits, numbers, shapes, the description."""
    structure, tensors = copy.deepcopy(content.structure), {k: t.clone() for k, t in content.tensors.items()}
    name = draw.choice(sorted(tensors))
    how = draw.choice(["bits", "number", "number", "cut", "dtype", "config"])
    tensor = tensors[name]
    if how == "bits" and tensor.numel():
        raw = tensor.reshape(-1).view(torch.uint8)
        raw[draw.randrange(raw.numel())] ^= 1 << draw.randrange(8)
    elif how == "number" and tensor.numel() and not tensor.is_floating_point():
        limits = torch.iinfo(tensor.dtype)
        values = [-1, 0, 1, tensor.numel(), limits.max, limits.min, draw.randrange(64)]
        tensor.reshape(-1)[draw.randrange(tensor.numel())] = draw.choice(values)
    elif how == "cut":
        tensors[name] = tensor[: draw.randrange(tensor.shape[0] + 1)].clone()
    elif how == "dtype":
        tensors[name] = tensor.to(draw.choice([torch.int64, torch.int32, torch.int8, torch.float32]))
    else:
        config: dict[str, Any] = structure["tree"]["children"][draw.choice([0, 2])][1]["config"]
        key = draw.choice(sorted(config))
        config[key] = draw.choice([0, 1, -1, 2, 41, 2**40, None, True, "int8", "relu", 1.5])
    return Content(structure, tensors)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[FIXTURE])
def test_spoilt_files_are_refused_or_run(pattern: str, seed: int, tmp_path: Path) -> None:
    draw, path = random.Random(seed), tmp_path / "m"
    net = draw.choice([sparse_net, sparse_conv_net])(pattern, draw)
    runs(net)
    vdk.save(net, path)
    content = decode(path, path.read_bytes())
    path.write_bytes(encode(spoil(content, draw)))
    try:
        loaded = vdk.load(path)
    except ModelFileError:
        return
    # sizes that no longer fit each other are the caller's affair
    with contextlib.suppress(RuntimeError, ValueError):
        runs(loaded)


@given(seed=st.integers(0, 2**32), flips=st.integers(1, 4))
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[FIXTURE])
def test_flipped_bits_are_found(seed: int, flips: int, tmp_path: Path) -> None:
    draw, path = random.Random(seed), tmp_path / "m"
    vdk.save(sparse_net("random", draw), path)
    data = bytearray(path.read_bytes())
    before = bytes(data)
    for _ in range(flips):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    cut = draw.choice([len(data), draw.randrange(len(data))])
    path.write_bytes(data[:cut])
    if bytes(data[:cut]) != before:
        with pytest.raises(ModelFileError):
            vdk.load(path)


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=[FIXTURE])
def test_patterns_run_save_load_run(pattern: str, seed: int, tmp_path: Path) -> None:
    draw, path = random.Random(seed), tmp_path / "m"
    net = sparse_net(pattern, draw)
    conv = sparse_conv_net(pattern, draw)
    vdk.save(conv, path)
    images = torch.randn(3, 4, 5, 7)
    with torch.no_grad():
        assert torch.equal(vdk.load(path)(images), conv(images))
    x = torch.randn(draw.choice([0, 1, 5, 33]), net[0].in_features)
    vdk.save(net, path)
    loaded = vdk.load(path)
    with torch.no_grad():
        y = net(x)
        assert torch.equal(loaded(x), y)
        dense = torch.relu(x @ net[0].weight_dense().float().T + net[0].bias) @ net[2].weight_dense().T
    torch.testing.assert_close(y, dense, rtol=1e-5, atol=1e-5)
