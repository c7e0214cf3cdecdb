"""The emulated ldmatrix and mma.sync against the fragment tables of the PTX ISA, written out once more.

PTX ISA, "Warp-level matrix instructions": figures and formulas of section "Matrix fragments for
mma.m16n8k8" (.tf32), "... mma.m16n8k16 with floating point type" (.bf16, .f16) and "... mma.m16n8k256", and
of "ldmatrix".
groupID = laneid >> 2, threadID_in_group = laneid % 4.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from . import SCHEDULES, emulated, memory

gpu = emulated()
KINDS = {"tf32": 0, "bf16": 1, "f16": 2}
HALF = {"bf16": torch.bfloat16, "f16": torch.float16}
LANES = [(lane, lane >> 2, lane % 4) for lane in range(32)]


def elements_a(kind: str) -> list[tuple[int, int, int, int, int]]:
    """(lane, register, half, row, column) of every element of A."""
    if kind == "tf32":  # a0 .. a3: row = groupID for a0, a2, else groupID + 8; col = t for a0, a1, else t + 4
        return [
            (lane, i, 0, g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4)
            for lane, g, t in LANES
            for i in range(4)
        ]
    # a0 .. a7: row = groupID for i < 2 or 4 <= i < 6, else groupID + 8; col = 2 t + (i & 1), + 8 for i >= 4
    return [
        (lane, i // 2, i % 2, g if i < 2 or 4 <= i < 6 else g + 8, t * 2 + (i & 1) + (8 if i >= 4 else 0))
        for lane, g, t in LANES
        for i in range(8)
    ]


def elements_b(kind: str) -> list[tuple[int, int, int, int, int]]:
    """(lane, register, half, row, column) of every element of B."""
    if kind == "tf32":  # row = t for b0, t + 4 for b1; col = groupID
        return [(lane, i, 0, t + 4 * i, g) for lane, g, t in LANES for i in range(2)]
    # b0 .. b3: row = 2 t + (i & 1), + 8 for i >= 2; col = groupID
    return [
        (lane, i // 2, i % 2, t * 2 + (i & 1) + (8 if i >= 2 else 0), g)
        for lane, g, t in LANES
        for i in range(4)
    ]


# c0 .. c3: row = groupID for i < 2, else groupID + 8; col = 2 t + (i & 1)
ELEMENTS_C = [(lane, i, g if i < 2 else g + 8, t * 2 + (i & 1)) for lane, g, t in LANES for i in range(4)]


def bits(values: Tensor, kind: str) -> Tensor:
    if kind == "tf32":
        return values.float().view(torch.int32).long() & 0xFFFFFFFF
    return values.to(HALF[kind]).view(torch.int16).long() & 0xFFFF


def registers(matrix: Tensor, elements: list[tuple[int, int, int, int, int]], n: int, kind: str) -> Tensor:
    r = torch.zeros(32, n, dtype=torch.int64)
    raw = bits(matrix, kind)
    assert len({(row, col) for *_, row, col in elements}) == matrix.numel()
    for lane, i, half, row, col in elements:
        r[lane, i] |= raw[row, col] << 16 * half
    return torch.where(r >= 2**31, r - 2**32, r).int()


def multiply(kind: str, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """One mma on matrices that are taken apart and put together by the tables above."""
    with memory(gpu) as m:
        d, to_d = m.output("d", (32, 4), torch.float32)
        for lane, i, row, col in ELEMENTS_C:
            d[lane, i] = c[row, col]
        to_a = m.input("a", registers(a, elements_a(kind), 4, kind))
        gpu.mma(KINDS[kind], to_a, m.input("b", registers(b, elements_b(kind), 2, kind)), to_d)
    out = torch.full((16, 8), torch.nan)
    for lane, i, row, col in ELEMENTS_C:
        out[row, col] = d[lane, i]
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_mma(kind: str) -> None:
    k = 8 if kind == "tf32" else 16
    for seed in SCHEDULES:
        gpu.configure(seed)
        a, b, c = (torch.randint(-8, 9, shape).float() for shape in ((16, k), (k, 8), (16, 8)))
        assert torch.equal(multiply(kind, a, b, c), a @ b + c)


def test_mma_of_bits() -> None:
    """d + popcount(a ^ b). A: row = groupID for i < 32 or 64 <= i < 96, else groupID + 8; col = 32 t + i % 32
    (+ 128 for i >= 64). B: row = 32 t + i % 32, + 128 for i >= 32; col = groupID.
    """
    for seed in SCHEDULES:
        gpu.configure(seed)
        a, b = torch.randint(0, 2, (16, 256)), torch.randint(0, 2, (256, 8))
        of_a, of_b = torch.zeros(32, 4, 32, dtype=torch.int64), torch.zeros(32, 2, 32, dtype=torch.int64)
        for lane, g, t in LANES:
            for i in range(128):
                row = g if i < 32 or 64 <= i < 96 else g + 8
                of_a[lane, i // 32, i % 32] = a[row, 32 * t + i % 32 + (128 if i >= 64 else 0)]
            for i in range(64):
                of_b[lane, i // 32, i % 32] = b[32 * t + i % 32 + (128 if i >= 32 else 0), g]
        weights = 2 ** torch.arange(32)
        with memory(gpu) as m:
            d, to_d = m.output("d", (32, 4), torch.int32)
            c = torch.randint(-99, 99, (16, 8), dtype=torch.int32)
            for lane, i, row, col in ELEMENTS_C:
                d[lane, i] = c[row, col]
            words = ((of * weights).sum(-1).to(torch.int32) for of in (of_a, of_b))
            gpu.mma_bits(*(m.input(name, w) for name, w in zip("ab", words, strict=True)), to_d)
        expected = c + (a[:, :, None] != b[None]).sum(1)
        assert all(d[lane, i] == expected[row, col] for lane, i, row, col in ELEMENTS_C)


def test_tensor_cores_round_in_both_modes() -> None:
    """Operands beyond tf32's 10 bits, and sums beyond float32's 23, go to the nearest or towards zero."""
    a, b, c = torch.zeros(16, 8), torch.zeros(8, 8), torch.zeros(16, 8)
    a[0, 0], a[1, 0], a[2, 0], b[0, 0], c[2, 0] = 1 + 2**-10 + 2**-12, -1 - 3 * 2**-12, 2**-23, 1, 3
    b[0, 1], c[3, 1], a[3, 0] = 1, 2**24 - 1, 1.5
    for truncate, first, second, third in (
        (False, 1 + 2**-10, -1 - 2**-10, 2**24),
        (True, 1 + 2**-10, -1, 2**24),
    ):
        gpu.configure(0, truncate)
        d = multiply("tf32", a, b, c)
        assert d[0, 0] == first
        assert d[1, 0] == second
        assert d[2, 0] == 3
        assert d[3, 1] == third
    gpu.configure(0)


@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix(trans: bool) -> None:
    """Lane 8 i + r names row r of matrix i; a lane gets row lane / 4, columns 2 (lane % 4) + 0, 1 of each.

    With .trans: column lane / 4, rows 2 (lane % 4) + 0, 1.
    """
    rows = torch.randint(0, 2**15, (40, 8), dtype=torch.int16)  # 16 bytes each
    order = torch.randperm(40)[:32]
    with memory(gpu) as m:
        r, to_r = m.output("r", (32, 4), torch.int32)
        gpu.ldmatrix(m.input("memory", rows), m.input("offsets", (16 * order).int()), to_r, trans)
    for lane, g, t in LANES:
        for i in range(4):
            matrix = rows[order[8 * i : 8 * i + 8]]
            low, high = (
                (matrix[2 * t, g], matrix[2 * t + 1, g])
                if trans
                else (matrix[g, 2 * t], matrix[g, 2 * t + 1])
            )
            assert r[lane, i] == int(low) | int(high) << 16


def convert(what: int, x: Tensor) -> Tensor:
    with memory(gpu) as m:
        y, to_y = m.output("y", tuple(x.shape), torch.int32)
        gpu.convert(what, m.input("x", x), to_y)
    return y


def test_conversions_to_half_types() -> None:
    """Those of torch, ties to even, subnormals and overflow included."""
    sizes = torch.exp2(torch.linspace(-40, 40, 20_001))
    ties = 1 + torch.arange(64) * 2.0**-12
    edges = torch.tensor(
        [0.0, 65504, 65519.9, 65520, 1e6, 2**-24, 2**-25, 1.0001 * 2**-25, torch.inf, 3.4e38]
    )
    x = torch.cat([sizes, ties, ties * 2.0**-15, 2048 * ties, edges])
    x = torch.cat([x, -x])
    for what, dtype in ((1, torch.bfloat16), (2, torch.float16)):
        assert torch.equal(convert(what, x), x.to(dtype).view(torch.int16).int() & 0xFFFF)
        assert (convert(what, torch.tensor([torch.nan])).to(torch.int16).view(dtype)).isnan().all()
    every = torch.arange(2**16, dtype=torch.int32)
    found = convert(3, every.view(torch.float32)).view(torch.float32)
    exact = every.to(torch.int16).view(torch.float16).float()
    assert torch.equal(found.nan_to_num(7e5), exact.nan_to_num(7e5))


def test_tf32_rounds_ties_away() -> None:
    ulp = 2.0**-10
    x = torch.tensor([1.0, 1 + ulp / 2, 1 + 0.49 * ulp, -1 - ulp / 2, -1 - 1.5 * ulp, torch.inf, 2 - 2**-23])
    expected = torch.tensor([1.0, 1 + ulp, 1, -1 - ulp, -1 - 2 * ulp, torch.inf, 2])
    assert torch.equal(convert(0, x).view(torch.float32), expected)
