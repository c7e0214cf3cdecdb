"""Sparse nets with packed weights as constants: for torch.compile, torch.export and AOTInductor."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._surgery import carry_over, check_whole, copied, replace_
from ..ops.max_pool2d import PoolGeometry, max_pool2d_native
from ..ops.sparse_conv2d import ConvGeometry, band_of, sparse_conv2d_native
from ..ops.sparse_net import sparse_net_native
from ..ops.spmm import spmm_chain_native
from ..ops.spmm.pack import chain
from ._layer import SparseLayer
from ._packed_state import PackedState
from .conv import SparseConv2d
from .linear import SparseLinear
from .plan import Program, Run
from .sequential import SparseSequential
from .shrink import Sample
from .shrinking.trace import arguments, run_sample
from .steps import Chain, Convolution, Packing, Pool, Step, steps_of

__all__ = ["freeze", "to_aotinductor", "to_export"]


class FrozenLinear(PackedState):
    """Packed linear layers one after the other, each with or without a ReLU behind it: op ``spmm_chain``.

    Shapes: x [*, I of the first] -> y [*, O of the last].
    """

    chain: Tensor

    def __init__(self, chain: Tensor, out_features: int) -> None:
        super().__init__()
        self.register_buffer("chain", chain)
        self.out_features = out_features

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        y: Tensor = spmm_chain_native(input, self.chain, self.out_features)
        return y


class FrozenConv2d(PackedState):
    """A packed convolution of images of one size, with or without a ReLU behind it: op ``sparse_conv2d``.

    Shapes: x [N, C, H, W] -> y [N, O, H', W'], H and W as in `geometry`.
    """

    packed: Tensor

    def __init__(self, packed: Tensor, out_channels: int, geometry: ConvGeometry, relu: bool) -> None:
        super().__init__()
        self.register_buffer("packed", packed)
        self.out_channels, self.geometry, self.relu = out_channels, geometry, relu
        self.band = band_of(geometry)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        g = self.geometry
        _check_image("FrozenConv2d", input, (g.in_channels, *g.image))
        y: Tensor = sparse_conv2d_native(
            input, self.packed, self.out_channels, g.window, self.band, self.relu
        )
        return y


class FrozenMaxPool2d(torch.nn.Module):
    """Max pooling with or without a ReLU: op ``max_pool2d``."""

    def __init__(self, geometry: PoolGeometry, relu: bool) -> None:
        super().__init__()
        self.geometry, self.relu = geometry, relu

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        y: Tensor = max_pool2d_native(input, *self.geometry, self.relu)
        return y


class FrozenRun(PackedState):
    """Convolutions, pooling and at the end linear layers, for images of one size: op ``sparse_net``."""

    numbers: Tensor

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.register_buffer("numbers", program.numbers)
        for i, packed in enumerate(program.packed):
            self.register_buffer(f"packed_{i}", packed.clone())
        self.image, self.out_sizes, self.count = program.image, program.out_sizes, len(program.packed)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  the name in torch.nn
        _check_image("FrozenRun", input, self.image)
        packed = [self.get_buffer(f"packed_{i}") for i in range(self.count)]
        y: Tensor = sparse_net_native(input, packed, self.numbers, self.out_sizes)
        return y


def _check_image(name: str, x: Tensor, image: tuple[int, ...]) -> None:
    if tuple(x.shape[1:]) != image:
        expected = ", ".join(map(str, image))
        raise ValueError(f"{name}: input must be [N, {expected}], got {tuple(x.shape)}; "
                         "freeze the net with a sample of that size")  # fmt: skip


def freeze(model: torch.nn.Module, sample_input: Sample) -> torch.nn.Module:
    """A copy of a sparse net for inference alone, whose sparse layers are plain ops on packed constants.

    `SparseLinear` and `SparseConv2d` make their packed form when they are called, which a compiler or an
    exporter cannot follow: there they compute from compressed rows or, convolutions, as dense ones. A frozen
    net takes the same kernels everywhere. Children keep their places; what a neighbour took over becomes an
    Identity, but not in a Sequential of which the model's code calls children on their own. Convolutions
    that the sample does not reach, and layers whose weight code reads, stay as they are.

    Args:
        model: on the CPU; any module with sparse layers in it.
        sample_input: a batch, or a tuple of arguments: convolutions are packed for images of its size. The
            model is run on it once, in eval mode.

    Raises:
        ValueError: the model holds no sparse layer, one on another device, or a sparse convolution that
            sample_input reaches with images of several sizes, or of a size its kernel does not take; or it
            cannot run on sample_input.
        TypeError: `model` is no module, or `sample_input` no tensors.
    """
    check_whole(model, "freeze")
    sample = arguments(sample_input)
    frozen = copied(model).eval()
    layers = [m for m in frozen.modules() if isinstance(m, SparseLayer)]
    if not layers:
        raise ValueError("freeze: model holds no sparse layer; vdropkern.sparsify makes them")
    for layer in layers:
        if not layer.values.is_cpu or layer.values.dtype == torch.float64:
            what = f"{layer.values.dtype} on {layer.values.device}"
            raise ValueError(f"freeze: sparse layers must be on the CPU and not float64, got {what}")
    geometries, apart = _look(frozen, sample)
    with torch.no_grad():
        run_sample(frozen, sample)  # without the hooks that looked: `SparseSequential`s plan
    stay = {
        m for m in layers if m._dense is not None or (isinstance(m, SparseConv2d) and m not in geometries)
    }
    holder = torch.nn.Sequential(frozen)
    steps = {
        m: _steps(m, stay) for m in holder.modules() if isinstance(m, SparseSequential) and m not in apart
    }
    # those within others first: what is made of one holds what was made of them
    for fused in reversed(steps):
        replace_(holder, {fused: _sequential(fused, steps[fused], geometries, stay)})
    changes: dict[Any, torch.nn.Module] = {}
    for module in holder.modules():
        if module in stay:
            continue
        if isinstance(module, SparseLinear):
            changes[module] = carry_over(module, _linear(module))
        elif isinstance(module, SparseConv2d):
            changes[module] = carry_over(module, _conv(module, geometries, module.activation == "relu"))
    replace_(holder, changes)
    return holder[0]


def _look(
    model: torch.nn.Module, sample: tuple[Tensor, ...]
) -> tuple[dict[SparseConv2d, ConvGeometry], set[SparseSequential]]:
    """What every sparse convolution sees; the Sequentials of which code calls children on their own."""
    calls: Counter[torch.nn.Module] = Counter()
    seen: dict[SparseConv2d, list[ConvGeometry]] = {}

    def look(module: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        calls[module] += 1
        if isinstance(module, SparseConv2d):
            seen.setdefault(module, []).append(module._geometry(args[0] if args else kwargs["input"]))

    names = {module: name for name, module in model.named_modules()}
    handles = [module.register_forward_pre_hook(look, with_kwargs=True) for module in names]
    try:
        with torch.no_grad():
            run_sample(model, sample)
    finally:
        for handle in handles:
            handle.remove()
    for module, geometries in seen.items():
        sizes = " and ".join(dict.fromkeys(str(g.image) for g in geometries))
        if len(set(geometries)) > 1:
            raise ValueError(f"freeze: {names[module]} meets images of several sizes, {sizes}")
        if band_of(geometries[0]) == 0:
            raise ValueError(f"freeze: {names[module]} has no kernel for images of {sizes}")
    apart = {m for m in names if isinstance(m, SparseSequential) and any(calls[c] > calls[m] for c in m)}
    return {module: geometries[0] for module, geometries in seen.items()}, apart


def _linear(layer: SparseLinear) -> FrozenLinear:
    return FrozenLinear(chain([layer.packed()], [layer.activation == "relu"]), layer.out_features)


def _conv(layer: SparseConv2d, geometries: dict[SparseConv2d, ConvGeometry], relu: bool) -> FrozenConv2d:
    geometry = geometries[layer]
    return FrozenConv2d(layer.packed(geometry).clone(), layer.out_channels, geometry, relu)


def _sequential(
    module: SparseSequential,
    steps: list[Step],
    geometries: dict[SparseConv2d, ConvGeometry],
    stay: Collection[SparseLayer],
) -> torch.nn.Sequential:
    """What a `SparseSequential` runs as one call, as one module."""
    modules = [*module]
    at = 0
    for step in steps:
        stays = isinstance(step, Packing) and not set(step.layers).isdisjoint(stay)
        frozen = None if stays else _frozen(step, geometries)
        if frozen is not None:
            modules[at] = frozen.eval()
            for swallowed in range(at + 1, at + len(step.modules)):
                modules[swallowed] = torch.nn.Identity().eval()
        at += len(step.modules)
    sequential = torch.nn.Sequential()
    sequential.__dict__.update({k: v for k, v in module.__dict__.items() if k != "_plan"})
    sequential._modules = dict(zip(module._modules, modules, strict=True))
    return sequential


def _steps(module: SparseSequential, stay: Collection[SparseLayer]) -> list[Step]:
    """What ran on the sample; where that was no kernel, or layers stay, what would be kernels' steps."""
    plan = module._plan
    if plan is None or not plan.holds(list(module)):
        return steps_of(list(module))
    found: list[Step] = []
    for step in plan.steps:
        apart = isinstance(step, Run) and (step.made is None or not set(step.layers).isdisjoint(stay))
        found += step.steps if apart else [step]  # type: ignore[attr-defined]
    return found


def _frozen(step: Step, geometries: dict[SparseConv2d, ConvGeometry]) -> torch.nn.Module | None:
    if isinstance(step, Run):
        assert step.made is not None
        return FrozenRun(step.made)
    if isinstance(step, Chain):
        joined = step.joined()
        assert joined is not None
        return FrozenLinear(joined[1].clone(), step.out_features)
    if isinstance(step, Convolution):
        return _conv(step.layer, geometries, step.relu)
    return FrozenMaxPool2d(step.geometry, step.relu) if isinstance(step, Pool) else None


def to_export(model: torch.nn.Module, sample_input: Sample) -> torch.export.ExportedProgram:
    """The frozen net as a program of torch.export, its batch left open.

    Args:
        model: as of `freeze`.
        sample_input: as of `freeze`; the first dimension of each tensor is the batch.

    Raises:
        ValueError: as of `freeze`.
    """
    frozen = freeze(model, sample_input)
    # a batch of one would be taken for a constant
    sample = tuple(t.expand(2, *t.shape[1:]) if t.ndim and t.shape[0] == 1 else t
                   for t in arguments(sample_input))  # fmt: skip
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} if t.ndim else None for t in sample)
    with torch.no_grad():
        return torch.export.export(frozen, sample, dynamic_shapes=shapes)


def to_aotinductor(model: torch.nn.Module, path: str | os.PathLike[str], sample_input: Sample) -> None:
    """Compile the frozen net to a package of AOTInductor (``.pt2``), whole or not at all; seconds to minutes.

    ``torch._inductor.aoti_load_package`` reads it where vdropkern is imported. What stands between sparse
    layers is compiled into one library, so a call runs no Python.

    Args:
        model: as of `freeze`.
        path: the file, named ``*.pt2``. Its folder must exist.
        sample_input: as of `to_export`.

    Raises:
        ValueError: as of `freeze`, or path has another suffix.
        OSError: the file cannot be written; what was there before is still there.
        torch._inductor.exc.InvalidCxxCompiler: there is no C++ compiler.
    """
    path = Path(path)
    if path.suffix != ".pt2":
        raise ValueError(f"to_aotinductor: path must end in .pt2, got {str(path)!r}")
    program = to_export(model, sample_input)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        made = torch._inductor.aoti_compile_and_package(
            program, package_path=os.fspath(Path(folder) / "net.pt2")
        )
        os.replace(made, path)
