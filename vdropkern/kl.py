"""KL over a model: the sum of its variational layers', and schedules for its coefficient.

The loss of variational inference is the mean negative log likelihood of a batch plus KL / N, N being the
number of training examples:

    loss = F.cross_entropy(net(x), y) + beta(epoch) * kl_divergence(net) / n_train

KL is always a sum over all weights, and N is always the caller's: a mean inside layers, or an N guessed from
a batch, would silently change the objective with the size of a layer or of a batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ._surgery import check_module

__all__ = [
    "KLCollector",
    "KLModule",
    "LinearWarmup",
    "PolynomialWarmup",
    "collect_kl",
    "kl_divergence",
    "penalty",
]


_entering = threading.Lock()  # blocks of several threads over one model begin and end one at a time


class KLModule(torch.nn.Module):
    """Base of every module that has a KL: subclass it and define `kl`, and the functions here find it."""

    # set on the instance by `collect_kl` for as long as its block lasts, never by a forward pass
    _collectors: tuple[KLCollector, ...] = ()

    def kl(self) -> Tensor:
        """KL of this module's own weights, a scalar in nats, summed over them."""
        raise NotImplementedError(f"{type(self).__name__} must define kl()")

    def penalty(self) -> Tensor:
        """What this module adds to the mean loss as it is, a scalar; 0 unless it defines one."""
        return torch.zeros(())

    def _active_collectors(self) -> tuple[KLCollector, ...]:
        """Those of this thread: another thread's forward pass must not hand them its graph."""
        if not self._collectors or torch.compiler.is_compiling():
            return self._collectors
        here = threading.get_ident()
        return tuple(c for c in self._collectors if c.thread == here)

    def __getstate__(self) -> dict[str, Any]:
        # copies and pickles made inside a collect_kl block take no part in it
        state: dict[str, Any] = super().__getstate__().copy()
        state.pop("_collectors", None)
        return state


def _kl_modules(model: torch.nn.Module, where: str) -> list[KLModule]:
    """Each once, however often it is used in the model."""
    check_module(model, where)
    return [module for module in model.modules() if isinstance(module, KLModule)]


def _ask(module: KLModule, what: str) -> Tensor:
    """The module's ``kl`` or ``penalty``, of its whole parameters: the ops take no shards (FSDP)."""
    own = module._parameters
    sharded: dict[str, Any] = {name: p for name, p in own.items() if hasattr(p, "full_tensor")}
    if not sharded:
        value: Tensor = getattr(module, what)()
        return value
    module.__dict__["_parameters"] = own | {name: p.full_tensor() for name, p in sharded.items()}
    try:
        value = getattr(module, what)()
    finally:
        module.__dict__["_parameters"] = own
    return value


def _sum(terms: list[Tensor], model: torch.nn.Module) -> Tensor:
    """Sum on the first term's device; 0 where there is none."""
    if not terms:
        first = next(model.parameters(), None)
        return torch.zeros((), device=None if first is None else first.device)
    total = terms[0]
    for term in terms[1:]:
        total = total + term.to(total.device)
    return total


def kl_divergence(model: torch.nn.Module) -> Tensor:
    """KL divergence of all variational layers' weights from their priors, in nats.

    KL = sum over layers, sum over weights, KL(q(w) || p(w)); never a mean. A layer used twice counts once.
    Divide by the number of training examples yourself.

    Args:
        model: any module; its submodules are searched.

    Returns:
        scalar, float32 (float64 where a layer is float64), differentiable; 0 where no layer has a KL.
    """
    return _sum([_ask(module, "kl") for module in _kl_modules(model, "kl_divergence")], model)


def penalty(model: torch.nn.Module) -> Tensor:
    """Penalties of all variational layers: what their methods add to the mean loss as it is.

    Unlike the KL they are not divided by the number of training examples. Only methods that say so in their
    `says_prior` have one:

        loss = F.cross_entropy(net(x), y) + kl_divergence(net) / n_train + penalty(net)

    Args:
        model: any module; its submodules are searched.

    Returns:
        scalar, float32 (float64 where a layer is float64), differentiable; 0 where no layer has a penalty.
    """
    return _sum([_ask(module, "penalty") for module in _kl_modules(model, "penalty")], model)


class KLCollector:
    """What `collect_kl` hands out: the KL its model's layers computed during their forward passes."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.thread = threading.get_ident()
        self._model = model
        self._modules = _kl_modules(model, "collect_kl")
        self._reported: dict[KLModule, Tensor] = {}

    def report(self, module: KLModule, kl: Tensor) -> None:
        """Take a module's KL from its forward pass; of several passes the last one's counts."""
        self._reported[module] = kl

    @property
    def reported(self) -> int:
        """How many modules have reported."""
        return len(self._reported)

    def total(self) -> Tensor:
        """The same number, with the same gradients, as `kl_divergence(model)`.

        Modules that reported none (not run, run without gradients, of a method whose KL is not fused) are
        asked for it now. Call it before the optimiser's step, as it belongs to the weights of the pass.
        """
        terms = [self._reported[m] if m in self._reported else _ask(m, "kl") for m in self._modules]
        return _sum(terms, self._model)


@contextlib.contextmanager
def collect_kl(model: torch.nn.Module) -> Iterator[KLCollector]:
    """Let the forward passes inside the block compute the KL along the way.

    The fused op `functional.linear_lrt_kl` sums it while the weights are in cache for the products, and adds
    its gradient where the weights' gradient is written, so it costs no pass of its own over memory:

        with vdropkern.collect_kl(net) as kl:
            output = net(x)
        loss = F.cross_entropy(output, y) + beta * kl.total() / n_train

    Blocks nest. Activation checkpointing, autocast, `torch.compile` and forward passes in other threads give
    the same total; where the pass itself cannot deliver a gradient, `kl_divergence`'s way is taken. Output
    and total share the pass's graph: call backward on their sum, or with ``retain_graph=True`` on the first.

    Yields:
        a `KLCollector`; its `total()` may be called inside or after the block.
    """
    collector = KLCollector(model)
    with _entering:
        for module in collector._modules:
            # past Module.__setattr__, which takes 5 us to find that this is no parameter
            module.__dict__["_collectors"] = (*module._collectors, collector)
    try:
        yield collector
    finally:
        with _entering:
            for module in collector._modules:
                left = tuple(c for c in module._collectors if c is not collector)
                if left:
                    module.__dict__["_collectors"] = left
                else:
                    module.__dict__.pop("_collectors", None)


@dataclass(frozen=True)
class PolynomialWarmup:
    """KL coefficient: 0 up to epoch `start`, then final * t^power with t = (epoch - start) / (end - start),
    `final` from epoch `end` on.

    Without a warm-up the KL of a wide layer outweighs the likelihood from the first step and prunes
    everything before anything is learned; see docs/kl.md. Gale et al. 2019 (arXiv 1902.09574) ramp it so.

    Args:
        start, end: epochs (or steps: the schedule only compares what it is called with), start < end.
        final: last coefficient, >= 0; 1 is the true variational bound.
        power: > 0; 1 is linear, 3 stays low longer.

    Raises:
        ValueError: an argument out of range.
    """

    start: float
    end: float
    final: float = 1.0
    power: float = 3.0

    def __post_init__(self) -> None:
        name = type(self).__name__
        if not self.start < self.end:
            raise ValueError(f"{name}: start must lie before end, got start={self.start}, end={self.end}")
        if not self.final >= 0:
            raise ValueError(f"{name}: final must be >= 0, got {self.final}")
        if not self.power > 0:
            raise ValueError(f"{name}: power must be > 0, got {self.power}")

    def __call__(self, epoch: float) -> float:
        """The coefficient at `epoch`, which may be fractional."""
        t = (epoch - self.start) / (self.end - self.start)
        return self.final * min(max(t, 0.0), 1.0) ** self.power


@dataclass(frozen=True)
class LinearWarmup(PolynomialWarmup):
    """KL coefficient: 0 up to epoch `start`, then linear to `final` at epoch `end`, and `final` after it.

    Molchanov et al. 2017 (arXiv 1701.05369) train LeNets with LinearWarmup(5, 20).
    """

    power: float = 1.0
