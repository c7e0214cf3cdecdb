"""From a module to its graph: by torch.fx, what it cannot trace left whole; an input to run it with."""

from __future__ import annotations

import contextlib
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..._surgery import PLAIN, copied, weight_layers

__all__ = ["ShrinkError", "Traced", "arguments", "made_sample", "run_sample", "trace", "without_hooks"]

# sides of images and lengths of signals that nets are made for, the usual ones first
_SIDES = (28, 32, 64, 224, 16, 8, 96, 128, 256, 299)


class ShrinkError(ValueError):
    """A model that cannot be shrunk; the message names the place."""


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether the module may do something else than its class says."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


class _Tracer(fx.Tracer):
    """Traces a call with so many tensors; other arguments of forward keep their defaults."""

    def __init__(self, count: int, whole: set[str]) -> None:
        super().__init__()
        self._count, self._whole = count, whole
        self.failed: str | None = None  # the innermost module whose code could not be traced

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        inputs = [self.create_proxy("placeholder", f"input_{i + 1}", (), {}) for i in range(self._count)]
        return root_fn, [self.root, *inputs]

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        ours = type(m).__module__.startswith("vdropkern.") and not isinstance(m, torch.nn.Sequential)
        own = isinstance(m, PLAIN) or ours or module_qualified_name in self._whole or has_hooks(m)
        return own or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            if self.failed is None:
                self.failed = next((name for name, own in self.root.named_modules() if own is m), None)
            raise


@dataclass(frozen=True)
class Traced:
    """A model, its graph, and how often each of its modules is called.

    A module counts twice where something else reads its parameters too.
    """

    model: torch.nn.Module
    graph: fx.Graph
    attributes: dict[str, Any]  # what its get_attr nodes read
    uses: Counter[torch.nn.Module]
    with_hooks: frozenset[torch.nn.Module]

    def module(self, node: fx.Node) -> torch.nn.Module:
        """What a call_module node calls."""
        return self.model.get_submodule(str(node.target))

    def hooked(self, module: torch.nn.Module) -> bool:
        """Whether it does something beside what its class says."""
        return module in self.with_hooks

    def alone(self, node: fx.Node) -> bool:
        """Whether the node is all that uses its module, which does just what its class says."""
        module = self.module(node)
        return self.uses[module] == 1 and not self.hooked(module)


def _uses(model: torch.nn.Module, graph: fx.Graph, attributes: dict[str, Any]) -> Counter[torch.nn.Module]:
    holders = Counter(id(attributes[str(node.target)]) for node in graph.nodes if node.op == "get_attr")
    for module in model.modules():
        holders.update(id(p) for p in module._parameters.values() if p is not None)
    calls: Counter[torch.nn.Module] = Counter()
    for node in graph.nodes:
        if node.op == "call_module":
            # with what is inside, which may also be called from elsewhere
            calls.update(model.get_submodule(str(node.target)).modules())
    for module in calls:
        if any(holders[id(p)] > 1 for p in module.parameters()):
            calls[module] += 1
    return calls


def trace(model: torch.nn.Module, count: int) -> Traced:
    """The graph of a model in eval mode, called with so many tensors.

    Submodules whose code cannot be traced are nodes of it.

    Raises:
        ShrinkError: the model's own forward cannot be traced.
    """
    whole: set[str] = set()
    numbers = {id(t): t for t in (*model.parameters(), *model.buffers())}
    while True:
        tracer = _Tracer(count, whole)
        # what code keeps of a call, such as attention maps, is no tensor here, and must not be found later
        twin = copied(model, dict(numbers))
        try:
            graph = tracer.trace(twin)
        except Exception as err:
            if tracer.failed is None or tracer.failed in whole:
                raise ShrinkError(
                    f"shrink: {type(model).__name__}.forward cannot be traced by torch.fx: "
                    f"{str(err).splitlines()[0] if str(err) else type(err).__name__}"
                ) from err
            whole.add(tracer.failed)
            continue
        reads = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        attributes = {name: operator.attrgetter(name)(twin) for name in reads}
        hooked = frozenset(m for m in model.modules() if has_hooks(m))
        return Traced(model, graph, attributes, _uses(model, graph, attributes), hooked)


def made_sample(model: torch.nn.Module) -> tuple[Tensor, ...]:
    """A batch of two that the model takes, found from its first layer.

    Raises:
        ShrinkError: none was found.
    """
    first = next(iter(weight_layers(model)), None)
    if first is None:
        raise ShrinkError("shrink: the model has no linear or convolution layer")
    if isinstance(first, torch.nn.Linear):
        shapes: list[tuple[int, ...]] = [(first.in_features,)]
    else:
        dimensions = len(first.kernel_size)
        shapes = [(first.in_channels, *(side,) * dimensions) for side in _SIDES]
    for shape in shapes:
        x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(first.weight)
        with contextlib.suppress(Exception), torch.no_grad():
            model(x)
            return (x,)
    raise ShrinkError(
        f"shrink: the model takes none of the inputs that its first layer, a {type(first).__name__}, "
        "suggests; give sample_input"
    )


def arguments(sample: object) -> tuple[Tensor, ...]:
    arguments = sample if isinstance(sample, tuple) else (sample,)
    for x in arguments:
        if not isinstance(x, Tensor):
            within = f"{type(x).__name__} in a " if isinstance(sample, tuple) else ""
            got = f"{within}{type(sample).__name__}"
            raise TypeError(f"sample_input must be a tensor or a tuple of tensors, got {got}")
    return arguments


def run_sample(model: torch.nn.Module, sample: tuple[Tensor, ...]) -> Any:
    """The model's results on a sample that the caller gave, and keeps, whatever the model does to it."""
    try:
        return model(*(x.clone() for x in sample))
    except Exception as err:
        shapes = ", ".join(str(tuple(x.shape)) for x in sample)
        raise ValueError(f"the model cannot run on sample_input {shapes}: {err}") from err


@contextlib.contextmanager
def without_hooks(model: torch.nn.Module) -> Iterator[None]:
    """Run no forward hook of any module meanwhile: a trial run is nobody's business."""
    names = ("_forward_hooks", "_forward_pre_hooks")
    kept = [(m, name, m.__dict__[name]) for m in model.modules() for name in names]
    for module, name, hooks in kept:
        # torch.nn.utils.prune and its like compute the weight in a hook
        module.__dict__[name] = type(hooks)(
            (key, hook) for key, hook in hooks.items() if type(hook).__module__.startswith("torch.nn.utils")
        )
    try:
        yield
    finally:
        for module, name, hooks in kept:
            module.__dict__[name] = hooks
