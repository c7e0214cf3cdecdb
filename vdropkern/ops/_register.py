"""Registration of an op: its schema, its reference for every device, its fake kernel.

Schemas are the contract: pure, positional, tensor results, noise from a seed tensor. The reference is the
``CompositeExplicitAutograd`` kernel, so an op works on any device; the compiled library overrides it
under the ``CPU`` and ``CUDA`` keys; a Triton implementation is an op of its own, ``<op>_triton``. Autograd
stands outside the op, in a ``torch.autograd.Function`` (about 15 us a call, against 70 us and more through
``torch.library.custom_op``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .._backend import Op, has_triton

LIBRARY = torch.library.Library("vdropkern", "FRAGMENT")


def register(
    schema: str,
    reference: Callable[..., Any],
    fake: Callable[..., Any],
    *,
    of: str | None = None,
    triton: str | None = None,
) -> Op:
    """Define an op and return its implementations, among which `_backend.choose` chooses.

    Args:
        schema: name, arguments, results.
        reference: the truth, for every device.
        fake: shapes and dtypes alone.
        of: the public op that decides for this one, a backward; None: this one.
        triton: module that holds a function of the op's name and arguments in Triton; imported on first use.
    """
    name = schema.partition("(")[0]
    _define(schema, reference, fake)
    implementation = None
    if triton is not None:
        _define(schema.replace("(", "_triton(", 1), _lazy(triton, name), fake)
        implementation = getattr(torch.ops.vdropkern, f"{name}_triton").default
        has_triton(of or name)
    return Op(of or name, reference, getattr(torch.ops.vdropkern, name).default, implementation)


def _define(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> None:
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"vdropkern::{name}", fake, lib=LIBRARY)


def _lazy(module: str, name: str) -> Callable[..., Any]:
    """`module.name`, imported when it is first called: Triton is not needed to import this package."""
    found: Callable[..., Any] | None = None

    def call(*args: Any) -> Any:
        nonlocal found
        if found is None:
            found = getattr(importlib.import_module(module), name)
        return found(*args)

    return call


LIBRARY.define("cpu_isa(int select) -> int")
LIBRARY.define("cuda_build() -> str")
LIBRARY.define("float32_precision(int select) -> int")
LIBRARY.define("cpu_bf16_variance(int select) -> int")
LIBRARY.define("cpu_popcount(int select) -> int")


def functorch_active() -> bool:
    """True inside torch.func transforms (grad, jvp, vmap), which need `setup_context` Functions."""
    return bool(torch._C._are_functorch_transforms_active())


def differentiable(
    name: str,
    run: Callable[..., Any],
    save: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., tuple[Tensor | None, ...]],
) -> Callable[..., Any]:
    """`run` with gradients: two ``torch.autograd.Function``s, of which each call takes the one it needs.

    torch.func transforms demand `setup_context`, which costs 50 us more a call.

    Args:
        name: what autograd's graph and its errors call it.
        run: inputs -> output.
        save: (ctx, inputs, output), notes what `backward` needs.
        backward: (ctx, gradients) -> a gradient, or None, for each input.
    """

    class Eager(torch.autograd.Function):
        @staticmethod
        def forward(*args: Any) -> Any:
            # no parameter `ctx`: where nothing needs a gradient, torch.compile does without it if there are
            # as many parameters as inputs, and `ctx, *inputs` are two
            ctx, inputs = args[0], args[1:]
            output = run(*inputs)
            save(ctx, inputs, output)
            return output

    class Functorch(torch.autograd.Function):
        forward = staticmethod(run)
        setup_context = staticmethod(save)  # type: ignore[assignment]

        @staticmethod
        def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
            return one_by_one(Functorch.apply, info.batch_size, in_dims, inputs)

    for function in (Eager, Functorch):
        function.backward = staticmethod(backward)  # type: ignore[method-assign]
        function.__name__ = function.__qualname__ = name

    def apply(*inputs: Any) -> Any:
        return (Functorch if functorch_active() else Eager).apply(*inputs)

    return apply


def one_by_one(
    call: Callable[..., Any], count: int, in_dims: tuple[Any, ...], inputs: tuple[Any, ...]
) -> tuple[Any, Any]:
    """A rule of torch.vmap: a call for each slice; (results with the slices in front, their dimensions)."""
    results = [
        call(*[t if dim is None else t.select(dim, i) for t, dim in zip(inputs, in_dims, strict=True)])
        for i in range(count)
    ]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])


class _Once(torch.autograd.Function):
    """A backward op whose results know that they cannot be differentiated."""

    @staticmethod
    def forward(op: str, implementation: Callable[..., Any], *args: Any) -> Any:
        return implementation(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.op = inputs[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return one_by_one(_Once.apply, info.batch_size, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> None:
        raise RuntimeError(
            f"{ctx.op}: gradients of gradients are not implemented; "
            "without create_graph=True, or nested torch.func transforms, first gradients work"
        )


def run_backward(op: str, implementation: Callable[..., Any], *args: Any) -> Any:
    """Call a backward op; where autograd records it (create_graph, torch.func), let a second pass raise.

    `once_differentiable` raises only if the incoming gradient depends on a parameter, else it returns
    gradients that look constant.
    """
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return _Once.apply(op, implementation, *args)
    return implementation(*args)
