"""Triton's interpreter, made to compute what the hardware computes and to catch what it forgives.

As it comes, it multiplies bfloat16 bit patterns as integers, ignores `input_precision`, knows no inline
assembly, reads past the end of tensors and runs programs one after another, so that races never show.
`install` repairs that for the versions in `SUPPORTED`, whose private names it replaces; test_interpreter.py
beside it holds it to account. Every launch is logged in `launches` with the bytes it asked of global memory.

Import it before any kernel: decoration decides whether a kernel is interpreted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton
import triton.language as tl
import triton.runtime.interpreter as stock

from .numbers import ASSEMBLY, narrow, tf32, widen

assert os.environ.get("TRITON_INTERPRET") == "1", "set TRITON_INTERPRET=1 before Triton is imported"

# 3.6 interprets a range() of tensors only with numpy before 2.4
SUPPORTED = ("3.6", "3.7", "3.8")

Handle = stock.TensorHandle
Builder = stock.InterpreterBuilder


class OutOfBoundsError(Exception):
    """A lane touched memory outside every tensor the kernel was given."""


class RaceError(Exception):
    """Two programs touched one address, at least one of them writing; or two lanes of one store did."""


@dataclass
class Launch:
    """One launch: global memory asked for, in bytes, before any cache; and 2 m n k of its products."""

    kernel: str
    programs: int = 0
    loaded: int = 0
    stored: int = 0
    flops: int = 0
    unique: int = 0  # bytes loaded, each address counted once
    waves: int = 0  # bytes loaded, each address counted once in every `wave` programs
    buffers: list[_Buffer] = field(default_factory=list, repr=False)


class _Buffer:
    """The memory of one argument: which program wrote, which read each element (-1 none, -2 several)."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end
        self.writer: np.ndarray | None = None
        self.reader: np.ndarray | None = None
        self.wave: np.ndarray | None = None  # the last one that read
        self.itemsize = 0

    def open(self, itemsize: int) -> None:
        if self.writer is None:
            self.itemsize = itemsize
            self.writer = np.full((self.end - self.begin) // itemsize, -1, np.int64)
            self.reader, self.wave = self.writer.copy(), self.writer.copy()
        assert self.itemsize == itemsize, "one argument, two element sizes"


launches: list[Launch] = []
wave = 1 << 30  # programs at work together, for `Launch.waves`
truncate_tf32 = False  # what tensor cores do with the 13 bits that tf32 lacks: cut them, or round to nearest
_current: Launch | None = None


# bfloat16: the stock interpreter holds bit patterns in uint16 and computes on those


def _is_bf16(handle: Any) -> bool:
    return isinstance(handle, Handle) and handle.dtype.scalar == tl.bfloat16


def _lifted(handle: Any) -> Any:
    return Handle(widen(handle.data), tl.float32) if _is_bf16(handle) else handle


def _rounding_bf16(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *args: Any) -> Any:
        if not any(_is_bf16(a) for a in args):
            return method(self, *args)
        result = method(self, *map(_lifted, args))
        if result.data.dtype == np.float32:
            return Handle(narrow(result.data), tl.bfloat16)
        return result  # of a comparison

    return run


def _cast(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, src: Any, dst: Any) -> Any:
        to = dst.scalar
        if _is_bf16(src):
            if to == tl.bfloat16:
                return src
            src = _lifted(src)
        if to == tl.bfloat16:
            return Handle(narrow(src.data.astype(np.float32)), tl.bfloat16)
        return method(self, src, to)

    return run


# products


def _dot(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, a: Any, b: Any, d: Any, precision: Any, imprecise: Any) -> Any:
        if _current is not None:
            _current.flops += 2 * a.data.shape[-2] * a.data.shape[-1] * b.data.shape[-1]
        a, b = _lifted(a), _lifted(b)
        name = str(precision).rpartition(".")[2].lower()
        if a.dtype.scalar == b.dtype.scalar == tl.float32 and name in ("tf32", "tf32x3"):
            high_a, high_b = (tf32(t.data, truncate_tf32) for t in (a, b))
            total = high_a @ high_b
            if name == "tf32x3":
                low_a = tf32(a.data - high_a, truncate_tf32)
                low_b = tf32(b.data - high_b, truncate_tf32)
                total = total + (low_a @ high_b + high_a @ low_b)
            return Handle((d.data + total).astype(np.float32), d.dtype.scalar)
        return method(self, a, b, d, precision, imprecise)

    return run


class _Results:
    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def get_result(self, index: int) -> Any:
        assert index == 0
        return self.handle


def _inline_asm(
    self: Any, assembly: str, constraints: str, values: list[Any], types: list[Any], pure: bool, pack: int
) -> Any:
    if assembly not in ASSEMBLY:
        raise NotImplementedError(f"no model of inline assembly {assembly!r}")
    return _Results(Handle(ASSEMBLY[assembly](*(v.data for v in values)), types[0].scalar))


# memory


def _locate(pointers: np.ndarray, itemsize: int, kind: str, program: int) -> list[tuple[_Buffer, np.ndarray]]:
    """Sort addresses by argument; raise if one lies in none."""
    assert _current is not None
    found, left = [], pointers
    for buffer in _current.buffers:
        mine = (left >= np.uint64(buffer.begin)) & (left + np.uint64(itemsize) <= np.uint64(buffer.end))
        if mine.any():
            buffer.open(itemsize)
            found.append(
                (buffer, ((left[mine] - np.uint64(buffer.begin)) // np.uint64(itemsize)).astype(np.int64))
            )
            left = left[~mine]
            if not left.size:
                return found
    raise OutOfBoundsError(
        f"{_current.kernel}: {kind} of {left.size} lanes outside every argument, program {program}"
    )


def _active(pointers: Any, mask: Any) -> tuple[np.ndarray, int]:
    itemsize = stock._get_np_dtype(pointers.get_element_ty()).itemsize
    shape = np.broadcast_shapes(pointers.data.shape, mask.data.shape)
    return np.broadcast_to(pointers.data, shape)[
        np.broadcast_to(mask.data.astype(bool), shape)
    ].ravel(), itemsize


def _program(builder: Any) -> int:
    (x, y, z), (_, ny, nz) = builder.grid_idx, builder.grid_dim
    return (x * ny + y) * nz + z


def _load(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        addresses, itemsize = _active(ptrs, mask)
        if _current is not None and addresses.size:
            me = _program(self)
            _current.loaded += addresses.size * itemsize
            for buffer, at in _locate(addresses, itemsize, "load", me):
                writer, reader = buffer.writer[at], buffer.reader[at]
                if ((writer != -1) & (writer != me)).any():
                    raise RaceError(f"{_current.kernel}: program {me} reads what another one wrote")
                _current.unique += itemsize * np.unique(at[reader == -1]).size
                _current.waves += itemsize * np.unique(at[buffer.wave[at] != me // wave]).size
                buffer.wave[at] = me // wave
                buffer.reader[at] = np.where((reader == -1) | (reader == me), me, -2)
        return method(self, ptrs, mask, *rest, **named)

    return run


def _store(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        addresses, itemsize = _active(ptrs, mask)
        if _current is not None and addresses.size:
            me = _program(self)
            _current.stored += addresses.size * itemsize
            for buffer, at in _locate(addresses, itemsize, "store", me):
                if np.unique(at).size != at.size:
                    raise RaceError(f"{_current.kernel}: lanes of one store in program {me} share an address")
                writer, reader = buffer.writer[at], buffer.reader[at]
                if ((writer != -1) & (writer != me)).any() or ((reader != -1) & (reader != me)).any():
                    raise RaceError(f"{_current.kernel}: program {me} writes what another one touched")
                buffer.writer[at] = me
        return method(self, ptrs, value, mask, *rest, **named)

    return run


def _atomic(*_: Any) -> Any:
    raise RaceError("atomics add in no fixed order; results would differ from run to run")


def _logged(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, *args: Any, **named: Any) -> Any:
        global _current
        _current = Launch(self.fn.__name__)
        launches.append(_current)
        try:
            result = method(self, *args, **named)
            _current.programs = int(np.prod(stock.interpreter_builder.grid_dim))
            return result
        finally:
            _current.buffers.clear()
            _current = None

    return run


def _is_dense(t: Any) -> bool:
    last = t.ndim == 4 and t.permute(0, 2, 3, 1).is_contiguous()  # channels last
    return bool(t.is_contiguous() or last)


def _noting_arguments(method: Callable[..., Any]) -> Callable[..., Any]:
    def run(self: Any, args: Any, kwargs: Any) -> Any:
        host = method(self, args, kwargs)
        assert _current is not None
        tensors = [t for t in (*host[0], *host[1].values()) if hasattr(t, "data_ptr") and t.numel()]
        spans = {(t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in tensors}
        assert all(map(_is_dense, tensors)), "kernels take dense tensors"
        _current.buffers = [_Buffer(*span) for span in sorted(spans)]
        return host

    return run


def install() -> None:
    """Replace what the stock interpreter does wrong, once a process."""
    version = ".".join(triton.__version__.split(".")[:2])
    assert version in SUPPORTED, f"Triton {triton.__version__}: this model knows {', '.join(SUPPORTED)}"
    if getattr(Builder, "vdropkern", False):
        return
    Builder.vdropkern = True
    np.seterr(all="ignore")  # hardware says nothing of overflow either
    for name in ("binary_op", "ternary_op", "unary_op", "create_fma", "create_rsqrt", "create_clampf"):
        setattr(Builder, name, _rounding_bf16(getattr(Builder, name)))
    Builder.get_bf16 = lambda self, value: Handle(narrow(np.array([value], np.float32)), tl.bfloat16)
    Builder.cast_impl = _cast(Builder.cast_impl)
    Builder.create_dot = _dot(Builder.create_dot)
    Builder.create_inline_asm = _inline_asm
    Builder.create_masked_load = _load(Builder.create_masked_load)
    Builder.create_masked_store = _store(Builder.create_masked_store)
    Builder.create_atomic_rmw = Builder.create_atomic_cas = _atomic
    stock.GridExecutor.__call__ = _logged(stock.GridExecutor.__call__)
    stock.GridExecutor._init_args_hst = _noting_arguments(stock.GridExecutor._init_args_hst)


install()
