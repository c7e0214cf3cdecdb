"""Rung 6 in numbers: bytes that emulated kernels move, over the least they could move."""

from __future__ import annotations

import functools
import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import torch

from .machine_code import ROOT

N = 1 << 16


@functools.cache
def _emulated() -> Any:
    """The module that runs CUDA kernels on the CPU, or None where it was not built."""
    sys.path.insert(0, str(ROOT / "build" / "host_math"))
    try:
        return importlib.import_module("emulated")
    except ImportError:
        return None
    finally:
        sys.path.pop(0)


def _moved(gpu: Any, name: str) -> int:
    """Bytes that kernels called `name` loaded and stored since the records were cleared."""
    return sum(r["loaded"] + r["stored"] for r in gpu.records() if r["kernel"].startswith(name))


class _Memory:
    """Tensors registered as global memory, as long as this lives."""

    def __init__(self, gpu: Any) -> None:
        self._gpu, self._held = gpu, list[Any]()

    def __call__(self, t: torch.Tensor) -> Any:
        buffer = self._gpu.Buffer("t", t.data_ptr(), t.numel() * t.element_size(), True)
        self._held.append((t, buffer))
        return buffer


@functools.cache
def _kl(grad: bool) -> float | None:
    gpu = _emulated()
    if gpu is None or not hasattr(gpu, "kl_float"):
        return None
    memory = _Memory(gpu)
    mu, log, dmu, dlog = (memory(torch.full((N,), -1.0)) for _ in range(4))
    one, value = memory(torch.ones(1)), memory(torch.ones(1))
    workspace = memory(torch.ones(gpu.kl_workspace(N)))
    outputs = (one, dmu, dlog) if grad else (None, None, None)
    gpu.clear_records()
    gpu.kl_float(mu, log, N, 0, *outputs, value, workspace)
    return _moved(gpu, "") / (4 * N * (4 if grad else 2))


@functools.cache
def _noise() -> float | None:
    gpu = _emulated()
    if gpu is None or not hasattr(gpu, "philox_normal_float32"):
        return None
    memory = _Memory(gpu)
    gpu.clear_records()
    gpu.philox_normal_float32(memory(torch.empty(N)), 1, N, memory(torch.ones(1, dtype=torch.int64)))
    return _moved(gpu, "") / (4 * N)


LIMIT = 1.2  # of the least
PROBLEM = 4096  # batch, inputs and outputs of the products
_PROCESSORS = {"sm_80": 108, "sm_86": 84, "sm_89": 142, "sm_90": 132, "sm_100": 148, "sm_120": 188}
_COLUMNS = 64  # kBlockN in csrc/linear_lrt


def band_height(processors: int, down: int, row: int, column: int) -> int:
    """Rows of tiles that blocks walk through column by column; `band_height` in csrc/linear_lrt/cuda.cu."""
    height = max(1, round((2 * processors * column / row) ** 0.5))
    return math.ceil(down / math.ceil(down / height))


def waves(down: int, across: int, band: int, programs: int, row: int, column: int) -> int:
    """Bytes of operands that waves of `programs` tiles load, each once a wave, in the kernels' order."""
    total = 0
    for start in range(0, down * across, programs):
        rows, columns = set(), set()
        for tile in range(start, min(start + programs, down * across)):
            first, within = tile // (band * across) * band, tile % (band * across)
            height = min(down - first, band)
            rows.add(first + within % height)
            columns.add(within // height)
        total += row * len(rows) + column * len(columns)
    return total


@functools.cache
def of_product(architecture: str, number: int, size: int, block_rows: int, blocks: int, down: int) -> float:
    """Traffic of a product `PROBLEM` wide and deep, over the least that waves of as many tiles need.

    Args:
        number: 0 forward, 1 input gradient, 2 weight gradient.
        size: bytes an element of x; the noise parameter takes 4.
        blocks: that a multiprocessor holds at once.
        down: tiles the product is high.
    """
    across, processors = PROBLEM // _COLUMNS, _PROCESSORS[architecture]
    programs = min(processors * blocks, down * across)
    row = block_rows * (size if number == 0 else 2 * size)  # of the reduction's depth
    column = _COLUMNS * (size if number == 2 else size + 4)
    result = block_rows * _COLUMNS * (size + 4, 2 * size, 2 * (size + 4))[number] * down * across
    heights = [h for h in range(1, down + 1) if programs / h <= across]
    least = PROBLEM * min(row * h + column * programs / h for h in heights) * (down * across / programs)
    loaded = PROBLEM * waves(down, across, band_height(processors, down, row, column), programs, row, column)
    return (loaded + result) / (least + result)


def reported(path: Path) -> dict[tuple[str, str, str], float]:
    """What the tests of the interpreted Triton kernels counted, by architecture, product and arithmetic."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row.get("check") == "waves"]
    return {(r["architecture"], r["kernel"], r["arithmetic"]): r["ratio"] for r in rows}


def product_of(kernel: str) -> tuple[str, str]:
    """(product, arithmetic) of a Triton kernel's name, as forward-fp32-tf32-tf32-128x64x32-w8-s3."""
    product, _, rest = kernel.partition("-")
    arithmetic = "half" if "native" in rest else rest.split("-")[1] if rest.count("-") > 1 else ""
    return product, arithmetic


def ratio(kernel: str, architecture: str, blocks: int) -> float | None:
    """Of a kernel by the name `sass.short` gives it; None where nothing is counted.

    Of noise and KL what the emulator counts, the same for every instance; of products what their tiles in
    their order need, whose requests tests/ops/test_linear_lrt_cuda.py holds to the byte.
    """
    if re.match(r"(ragged_)?noise_kernel<", kernel):
        return _noise()
    if kernel.startswith("kl_kernel<"):
        return _kl(kernel.endswith("true>"))
    if match := re.match(r"lrt_product<Product<(\w+).*,Pass (\d),(\d+)>>", kernel):
        math_, number, rows = match[1], int(match[2]), int(match[3])
        size = 2 if math_ == "HalfMath" else 4
        # tiles of 64 rows are for products with few tiles; without tensor cores there are no others
        down = 2 if rows == 64 and math_ != "IeeeMath" else PROBLEM // rows
        return of_product(architecture, number, size, rows, max(blocks, 1), down)
    return None
