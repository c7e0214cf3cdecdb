"""A Triton kernel to be compiled without a GPU, and what lists of them share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from vdropkern._precision import Precision

__all__ = ["ASYNC", "MUFU", "RUNS", "TENSOR_CORE", "WIDE", "Build", "typed"]

assert os.environ.get("TRITON_INTERPRET") != "1", "compiling and interpreting need a process each"

# arithmetic -> what it is run with: dtype of x, precisions
RUNS = {
    "ieee": (("*fp32", Precision("ieee", "ieee")),),
    "tf32x3": (("*fp32", Precision("tf32x3", "tf32x3")),),
    "tf32": (("*fp32", Precision("tf32", "tf32")),),
    "half": (("*bf16", Precision("native", "bf16")), ("*fp16", Precision("native", "bf16"))),
}
WIDE, ASYNC, MUFU = r"(LDG|STG|LDGSTS)\..*128", "LDGSTS|UTMALDG", "MUFU"
TENSOR_CORE = {"sm_90": "HGMMA", "sm_100": r"UTC\w*MMA"}  # elsewhere HMMA


@dataclass(frozen=True)
class Build:
    """A kernel with its specialisation: `types` of run-time arguments, `constants`, launch options."""

    name: str
    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, int]
    outputs: int  # elements a program produces, for instructions per output
    shared: int = 1 << 30  # bytes that the choice of tiles reckons with
    must: tuple[str, ...] = ()  # opcodes' beginnings, each of which must be there
    traffic: float | None = None  # of a product with its tile: see gpu/traffic.py
    double: bool = False  # float64 is meant


def typed(text: str, x: str = "*fp32", g2: str = "*fp32") -> dict[str, str]:
    pairs = (item.split() for item in text.split(","))
    return {name: {"X": x, "G": g2}.get(kind, kind) for name, kind in pairs}
