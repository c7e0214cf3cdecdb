"""Rung 7: how long a step must take at least, ours beside torch's. ESTIMATE, NOT MEASURED.

A kernel takes at least as long as its bytes at the memory's rate, its products at the tensor cores' rate, and
its instructions at the schedulers' rate: the largest of the three. Bytes are each operand once and each
result once, times the ratio that the traffic tests hold kernels to; instructions are those of the budgets.
torch's formula is two dense products and elementwise passes, each a kernel that reads and writes whole
matrices. Caches, launches, tails and clocks are left out, on both sides, so ratios say more than times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from . import budgets

TRAFFIC = 1.15  # of the minimum: what rung 6 allows


@dataclass(frozen=True)
class Device:
    """Data sheet: memory in GB/s, dense tensor-core and float32 rates in TFLOP/s, multiprocessors, GHz.

    `mma`: the share of the tensor cores' rate that mma.sync reaches, while cuBLAS and Triton use wgmma on
    Hopper (Luo et al. 2024, arXiv 2402.13499, measured 63 % there).
    """

    name: str
    architecture: str
    memory: float
    tf32: float
    bf16: float
    fp32: float
    processors: int
    clock: float
    mma: float


DEVICES = (
    Device("A100 SXM 80 GB", "sm_80", 2039, 156, 312, 19.5, 108, 1.41, 1.0),
    Device("H100 SXM", "sm_90", 3350, 494.7, 989.4, 66.9, 132, 1.755, 0.63),
)
# batch, in, out
SHAPES = ((128, 1024, 1024), (512, 4096, 4096), (4096, 4096, 4096))
# arithmetic: bytes an element of x and mu, which rate, products a mean and a variance take, its kernels' name
ARITHMETIC = {
    "float32 (ieee)": (4, "fp32", 1, 1, "IeeeMath"),
    "float32 (tf32)": (4, "tf32", 1, 1, "Tf32Math<1,1>"),
    "bfloat16": (2, "bf16", 1, 1, "HalfMath<BFloat16>"),
}
_FLOP_OF_MMA = {"fp32": 64, "tf32": 2048, "bf16": 4096}  # of one instruction of a warp


def ours(device: Device, shape: tuple[int, int, int], arithmetic: str) -> float:
    """Microseconds of forward, KL and backward: three pairs of products and the noise's gradient."""
    batch, inp, out = shape
    size, rate, mean, variance, math = ARITHMETIC[arithmetic]
    flop = 2 * batch * inp * out * (mean + variance)
    peak = getattr(device, rate) * 1e12 * (1 if rate == "fp32" else device.mma)
    issue = device.processors * 4 * device.clock * 1e9
    x, w, log, y, std = (
        batch * inp * size,
        inp * out * size,
        inp * out * 4,
        batch * out * size,
        batch * out * 4,
    )
    passes = {
        0: x + w + log + y + std,  # forward: reads x, mu, log_sigma2, writes y, std
        1: 2 * y + w + log + 2 * x,  # dx: reads dy, g_v, mu, log_sigma2, x
        2: 2 * y + x + 2 * (w + log),  # dmu, dlog_sigma2: reads dy, g_v, x, mu, log_sigma2
    }
    total = (2 * y + std) / (device.memory * 1e9)  # g_v = dy e / (2 std)
    for number, bytes_moved in passes.items():
        instructions = flop / _FLOP_OF_MMA[rate] * _per_product(device.architecture, math, number)
        total += max(TRAFFIC * bytes_moved / (device.memory * 1e9), flop / peak, instructions / issue)
    return 1e6 * total


def _per_product(architecture: str, math: str, number: int) -> float:
    """Instructions of the main loop for each one that multiplies, at the most rows; 1 without a budget."""
    rows = budgets.read(architecture)[1].get("nvcc", {})
    pattern = rf"lrt_product<Product<{re.escape(math)},Pass {number},\d+>>"
    found = [row.instructions for name, row in sorted(rows.items()) if re.fullmatch(pattern, name)]
    return min(found, default=1.0)


def theirs(device: Device, shape: tuple[int, int, int], arithmetic: str) -> float:
    """Microseconds of the formula in eager torch: products by cuBLAS at full rate, other steps passes."""
    batch, inp, out = shape
    size, rate = ARITHMETIC[arithmetic][:2]
    x, w, y = batch * inp, inp * out, batch * out
    peak = getattr(device, rate) * 1e12
    product = max(2 * x * out / peak, (x + w + y) * size / (device.memory * 1e9))
    # reads and writes of whole matrices, in elements
    forward = 2 * w + 2 * x + 9 * y  # exp; x^2; + eps, sqrt, randn, times, plus: 2 + 2 + 1 + 2 + 2 (in place)
    kl = 19 * w  # mu^2, + eps, log, minus, softplus, sigmoid of an affine, sums
    backward = 10 * y + 6 * x + 6 * w  # through sqrt and noise; 2 x dv, plus; sigma^2 dv, plus
    kl_backward = 22 * w
    passes = forward + kl + backward + kl_backward
    return 1e6 * (6 * product + passes * size / (device.memory * 1e9))


def dense(device: Device, shape: tuple[int, int, int], arithmetic: str) -> float:
    """Microseconds of the dense layer's three products."""
    batch, inp, out = shape
    size, rate = ARITHMETIC[arithmetic][:2]
    moved = (batch * inp + inp * out + batch * out) * size
    return 3e6 * max(2 * batch * inp * out / (getattr(device, rate) * 1e12), moved / (device.memory * 1e9))


def table() -> str:
    """Markdown."""
    lines = [
        "Lower bounds from data sheets, counted bytes and instructions: **estimate, not measured**.",
        "",
        "| GPU | batch x in x out | arithmetic | dense, us | torch formula, us | ours, us | formula / ours |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for device in DEVICES:
        for shape in SHAPES:
            for arithmetic in ARITHMETIC:
                times = [f(device, shape, arithmetic) for f in (dense, theirs, ours)]
                shown = " | ".join(f"{t:.0f}" for t in times)
                sizes = " x ".join(map(str, shape))
                lines.append(
                    f"| {device.name} | {sizes} | {arithmetic} | {shown} | {times[1] / times[2]:.1f} |"
                )
    return "\n".join(lines)
