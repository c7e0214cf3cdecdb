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


def functorch_active() -> bool:
    """True inside torch.func transforms (grad, jvp, vmap), which need `setup_context` Functions."""
    return bool(torch._C._are_functorch_transforms_active())
