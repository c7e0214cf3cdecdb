"""What a `SparseSequential` runs: modules taken together where one kernel does the work of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, float32, float64, is_grad_enabled

from ..ops.max_pool2d import PoolGeometry, max_pool2d_native
from ..ops.spmm import spmm_chain_eager
from ..ops.spmm.pack import MOST_LAYERS, chain, chain_parts
from ._ahead import run_ahead
from ._calls import has_gradients, may_pack_without_grad, untraced
from ._layer import SparseLayer
from ._watch import Packed, Packings
from .conv import SparseConv2d
from .linear import SparseLinear
from .pool import pool_geometry, pool_key

__all__ = [
    "IDLE",
    "JOINED",
    "Chain",
    "Convolution",
    "Flat",
    "Idle",
    "Packing",
    "Pool",
    "Step",
    "is_plain",
    "steps_of",
]

# what does nothing in eval mode
IDLE = (torch.nn.Dropout, torch.nn.Identity)
# what may be part of a step of several, or of one that is not called
JOINED = (SparseLinear, SparseConv2d, torch.nn.ReLU, torch.nn.MaxPool2d, torch.nn.Flatten, *IDLE)
Modules = Sequence[torch.nn.Module]


def is_plain(module: torch.nn.Module) -> bool:
    """In eval mode, and nothing but its own forward is to run."""
    d = module.__dict__
    return not (d["training"] or d["_forward_hooks"] or d["_forward_pre_hooks"] or "forward" in d)


class Step:
    """A module that is called, or several that are not where a kernel takes the input."""

    def __init__(self, modules: Modules) -> None:
        self.modules = tuple(modules)

    def __call__(self, x: Tensor) -> Tensor:
        for module in self.modules:
            x = module(x)
        return x

    def fits(self) -> bool:
        """Whether what was read of its modules, parameters aside, is still so."""
        return True

    def with_gradients(self, x: Tensor) -> Tensor:
        """The same where gradients are on."""
        return Step.__call__(self, x)


class Packing(Step):
    """One that runs on packed forms of its sparse layers."""

    layers: Sequence[SparseLayer]
    differentiated = False

    def with_gradients(self, x: Tensor) -> Tensor:
        if not has_gradients(x, self.layers):
            return self(x)
        ahead = not self.differentiated and all(layer.can_run_ahead() for layer in self.layers)
        if not ahead or not may_pack_without_grad(x):
            return Step.__call__(self, x)
        parameters = [p for layer in self.layers for p in layer.own_parameters()]
        return run_ahead(self._call, (self, *self.layers), x, parameters)

    def _call(self, x: Tensor) -> Tensor:
        return Step.__call__(self, x) if is_grad_enabled() else self(x)


class Idle(Step):
    """A module that does nothing."""

    def __call__(self, x: Tensor) -> Tensor:
        return x


class Flat(Step):
    """A torch.nn.Flatten."""

    def __init__(self, modules: Modules) -> None:
        super().__init__(modules)
        self.dims = self._dims()

    def _dims(self) -> tuple[int, int]:
        d = self.modules[0].__dict__
        return d["start_dim"], d["end_dim"]

    def fits(self) -> bool:
        return self._dims() == self.dims

    def __call__(self, x: Tensor) -> Tensor:
        return x.flatten(*self.dims)


class Pool(Step):
    """Max pooling, with or without a ReLU before or behind it, which comes to the same."""

    def __init__(self, modules: Modules, pool: torch.nn.MaxPool2d, geometry: PoolGeometry) -> None:
        super().__init__(modules)
        self.pool, self.key, self.geometry, self.relu = pool, pool_key(pool), geometry, len(modules) > 1
        self.arguments = (*geometry, self.relu)

    def fits(self) -> bool:
        return pool_key(self.pool) == self.key

    def with_gradients(self, x: Tensor) -> Tensor:
        return Step.__call__(self, x) if x.requires_grad else self(x)

    def __call__(self, x: Tensor) -> Tensor:
        # what is not row-major torch keeps so, and takes many channels of channels_last at a time
        if x.dtype is float32 and x.is_cpu and x.is_contiguous() and x.ndim in (3, 4):
            y: Tensor = max_pool2d_native(x, *self.arguments)
            return y
        return super().__call__(x)


class Convolution(Packing):
    """A sparse convolution, with or without a ReLU behind it."""

    def __init__(self, modules: Modules, layer: SparseConv2d) -> None:
        super().__init__(modules)
        self.layer, self.layers, self.key = layer, (layer,), self._key(layer)
        self.relu = len(modules) > 1 or layer.activation == "relu"

    @staticmethod
    def _key(layer: SparseConv2d) -> tuple[object, ...]:
        d = layer.__dict__
        return d["activation"], d["stride"], d["padding"], d["dilation"]

    def fits(self) -> bool:
        return self._key(self.layer) == self.key

    def held_for(self, x: Tensor) -> Packed | None:
        """The packed form for such images, where there is one."""
        held = self.layer._held()
        return held if held is not None and self.layer._is_for(held.columns, x) else None

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer.run(x, self.relu)


class Chain(Packing):
    """Sparse linear layers one after the other, each with or without a ReLU behind it."""

    def __init__(self, modules: Modules, layers: list[SparseLinear], relus: list[bool]) -> None:
        super().__init__(modules)
        self.layers, self.relus, self.out_features = tuple(layers), relus, layers[-1].out_features
        self.activations = [layer.activation for layer in layers]
        # the layers' packed forms, and the chain made of them: read and set as one
        self.made: tuple[Packings, Tensor] | None = None

    def fits(self) -> bool:
        return [layer.__dict__["activation"] for layer in self.layers] == self.activations

    def __call__(self, x: Tensor) -> Tensor:
        if x.dtype is float64 or not x.is_cpu or not x.is_floating_point():
            return super().__call__(x)
        joined = self.joined()
        if joined is None:
            return super().__call__(x)
        y: Tensor = spmm_chain_eager(x, joined[1], self.out_features)
        return y

    def joined(self) -> tuple[Packings, Tensor] | None:
        """The chain, made anew where a parameter changed; None where a layer cannot be packed."""
        made = self.made
        if made is not None and made[0].hold():
            return made
        if not all(layer.values.is_cpu and layer.values.dtype != float64 for layer in self.layers):
            return None
        packs = [layer.packing() for layer in self.layers]
        with untraced():
            joined = chain([p.packed for p in packs], self.relus)
            for pack, (within, _) in zip(packs, chain_parts(joined), strict=True):
                pack.packed = within  # held once, not twice
        made = self.made = (Packings(self.layers, packs), joined)
        return made


def steps_of(modules: Modules) -> list[Step]:
    """The modules in their order, those together that one kernel runs; hooks keep theirs apart."""
    steps: list[Step] = []
    at = 0
    while at < len(modules):
        steps.append(_step(modules, at))
        at += len(steps[-1].modules)
    return steps


def _step(modules: Modules, at: int) -> Step:
    module = modules[at]
    if is_plain(module):
        if type(module) is SparseLinear:
            return _chain(modules, at)
        if type(module) is SparseConv2d:
            return Convolution(modules[at : at + 1 + _is_relu(modules, at + 1)], module)
        if type(module) is torch.nn.Flatten:
            return Flat((module,))
        if type(module) in IDLE:
            return Idle((module,))
        if (step := _pool(modules, at)) is not None:
            return step
    return Step((module,))


def _is_relu(modules: Modules, at: int) -> bool:
    return at < len(modules) and type(modules[at]) is torch.nn.ReLU and is_plain(modules[at])


def _pool(modules: Modules, at: int) -> Pool | None:
    """Max pooling that begins here, or behind a ReLU that begins here."""
    before = _is_relu(modules, at)
    pool = modules[at + before] if at + before < len(modules) else None
    if type(pool) is not torch.nn.MaxPool2d or not is_plain(pool):
        return None
    geometry = pool_geometry(pool)
    if geometry is None or (before and not _may_wait(modules, at, geometry)):
        return None
    behind = not before and _is_relu(modules, at + 1)
    return Pool(modules[at : at + 1 + (before or behind)], pool, geometry)


def _may_wait(modules: Modules, at: int, geometry: PoolGeometry) -> bool:
    """Whether the ReLU here may as well follow the pooling.

    A window without inputs, which only dilation makes, is -infinity whatever comes before. And a ReLU in
    place changes what it was given, which somebody else may hold unless a convolution has just made it.
    """
    relu = modules[at]
    assert isinstance(relu, torch.nn.ReLU)
    made = at > 0 and type(modules[at - 1]) is torch.nn.Conv2d
    return geometry.dilation_h == geometry.dilation_w == 1 and (made or not relu.inplace)


def _chain(modules: Modules, begin: int) -> Chain:
    """The longest chain that begins at the sparse layer here."""
    layers: list[SparseLinear] = []
    relus: list[bool] = []
    end = begin
    for module in modules[begin:]:
        if not is_plain(module):
            break
        if type(module) is SparseLinear:
            fits = not layers or layers[-1].out_features == module.in_features
            if not fits or module in layers or len(layers) == MOST_LAYERS:
                break
            layers.append(module)
            relus.append(module.activation == "relu")
        elif type(module) is torch.nn.ReLU:
            relus[-1] = True
        elif type(module) not in IDLE:
            break
        end += 1
    return Chain(modules[begin:end], layers, relus)
