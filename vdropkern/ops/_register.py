"""Registration of an op: its schema, its reference for every device, its fake kernel.

Schemas are the contract: pure, positional, tensor results, noise from a seed tensor. The reference is the
``CompositeExplicitAutograd`` kernel, so an op works on any device; the compiled library overrides it
under the ``CPU`` key. Autograd stands outside the op, in a ``torch.autograd.Function`` (about 15 us a
call, against 70 us and more through ``torch.library.custom_op``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LIBRARY = torch.library.Library("vdropkern", "FRAGMENT")


def register(schema: str, reference: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an op and return its overload, to be kept in a module constant and called directly."""
    name = schema.partition("(")[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"vdropkern::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.vdropkern, name).default


LIBRARY.define("cpu_isa(int select) -> int")
LIBRARY.define("cpu_bf16_variance(int select) -> int")


def functorch_active() -> bool:
    """True inside torch.func transforms (grad, jvp, vmap), which need `setup_context` Functions."""
    return bool(torch._C._are_functorch_transforms_active())


class _Once(torch.autograd.Function):
    """A backward op whose results know that they cannot be differentiated."""

    @staticmethod
    def forward(op: str, implementation: Callable[..., Any], *args: Any) -> Any:
        return implementation(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.op = inputs[0]

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
