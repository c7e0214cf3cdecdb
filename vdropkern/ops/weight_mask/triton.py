"""`weight_mask` in Triton: the k-th smallest magnitude by its bits, found without sorting.

Floats that are not negative rise with their bits, taken as integers. A row that fits into a program's
registers is read once: each bit of the threshold is set if no more than k magnitudes lie below what that
gives, and the row is masked where it lies. Longer rows take a launch a digit of eight bits, which counts the
digits of what agrees with the threshold so far. Integers decide, so ties, denormals and the order of
programs change nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .._launch import launch_on, refuse_double
from .._triton import weave, words_of_groups
from ..philox_normal.triton import NoiseGrid, noise_tile
from .reference import rank, word_bound

INFINITE = tl.constexpr(0x7F800000)  # the bits of infinity; those of NaN are larger
WIDEST = 8192  # columns of a row in registers
TILE = 2048  # elements of several short rows in a program's registers
BLOCK, STEPS = 4096, 4  # elements a step of a longer row, steps a program
BINS = tl.constexpr(256)
DIGITS = ((23, 8), (15, 8), (7, 8), (0, 7))  # lowest bit and width of each, from the top
EMPTY_BITS = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}  # at the end of each in float32
NORM_TILE = 1024


@triton.jit
def magnitude_bits(x):
    """int32 that rises with |x|; NaN counts as infinite."""
    return tl.minimum(x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF, INFINITE)


@triton.jit
def is_dropped(magnitude, threshold, word, bound):
    """Candidates, by their bits, whose word is below `bound`, an int64 in [0, 2^32]."""
    last = (bound - 1).to(tl.uint32)
    return (magnitude < threshold) & (word <= last) & (bound > 0)


@triton.jit
def select_kernel(
    w, rank, bound, seed, threshold, out, rows, cols, groups,
    MASK: tl.constexpr, EMPTY: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The magnitude of index `rank` in each of ROWS rows of up to COLS; MASK: rows without the dropped.

    EMPTY: so many of a magnitude's last bits are 0.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    col = tl.arange(0, COLS)
    at = row[:, None] * cols + col[None, :]
    inside = (row[:, None] < rows) & (col[None, :] < cols)
    given = tl.load(w + at, inside, 0.0)
    magnitude = magnitude_bits(given)
    counted = tl.where(inside, magnitude, 0x7FFFFFFF)  # what lies beyond the row is below nothing
    index = tl.load(rank)
    found = tl.zeros((ROWS,), tl.int32)
    bit = tl.full((ROWS,), 1 << 30, tl.int32)
    for _ in range(31 - EMPTY):
        tried = found + bit
        below = tl.sum((counted < tried[:, None]).to(tl.int32), 1)
        found = tl.where(below <= index, tried, found)
        bit = bit >> 1
    found = tl.minimum(found, INFINITE)
    tl.store(threshold + row, found.to(tl.float32, bitcast=True), row < rows)
    if MASK:
        w0, w1, w2, w3 = words_of_groups(seed, row[:, None] * groups + tl.arange(0, COLS // 4)[None, :])
        gone = is_dropped(magnitude, found[:, None], weave(w0, w1, w2, w3), tl.load(bound))
        tl.store(out + at, tl.where(gone, tl.zeros_like(given), given), inside)


@triton.jit
def count_kernel(
    w, prefix, counts, cols, spans,
    FIRST: tl.constexpr, SHIFT: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """counts [rows, spans, BINS]: how many magnitudes of a span that agree with `prefix` have each digit."""
    row = (tl.program_id(0) // spans).to(tl.int64)
    start = (tl.program_id(0) % spans).to(tl.int64) * (BLOCK * STEPS)
    agreed = 0 if FIRST else tl.load(prefix + row) >> (SHIFT + WIDTH)
    total = tl.zeros((BINS,), tl.int32)
    for step in range(STEPS):
        col = start + step * BLOCK + tl.arange(0, BLOCK)
        magnitude = magnitude_bits(tl.load(w + row * cols + col, col < cols, 0.0))
        meant = (col < cols) & (magnitude >> (SHIFT + WIDTH) == agreed)
        total += tl.histogram(magnitude >> SHIFT & (1 << WIDTH) - 1, BINS, meant)
    tl.store(counts + tl.program_id(0).to(tl.int64) * BINS + tl.arange(0, BINS), total)


@triton.jit
def digit_kernel(
    counts, rank, prefix, left, threshold, spans,
    FIRST: tl.constexpr, LAST: tl.constexpr, SHIFT: tl.constexpr, SPANS: tl.constexpr,
):  # fmt: skip
    """The next digit of a row's threshold, and the index that is `left` among what agrees with it."""
    row = tl.program_id(0).to(tl.int64)
    digit = tl.arange(0, BINS)
    total = tl.zeros((BINS,), tl.int32)
    for start in range(0, spans, SPANS):
        span = start + tl.arange(0, SPANS)
        at = (row * spans + span)[:, None] * BINS + digit[None, :]
        total += tl.sum(tl.load(counts + at, (span < spans)[:, None], 0), 0)
    if FIRST:
        index = tl.load(rank).to(tl.int32)
        found = 0
    else:
        index = tl.load(left + row)
        found = tl.load(prefix + row)
    own = tl.minimum(tl.sum((tl.cumsum(total, 0) <= index).to(tl.int32), 0), BINS - 1)
    found |= own << SHIFT
    if LAST:
        tl.store(threshold + row, tl.minimum(found, INFINITE).to(tl.float32, bitcast=True))
    else:
        tl.store(prefix + row, found)
        tl.store(left + row, index - tl.sum(tl.where(digit < own, total, 0), 0))


@triton.jit
def norm_kernel(w, norm, rows, cols, ROWS: tl.constexpr, COLS: tl.constexpr):
    """L2 norms of rows, summed in float64, so that any order of summing rounds to the same float32."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLS), tl.float64)
    for start in range(0, cols, COLS):
        col = start + tl.arange(0, COLS)
        inside = (row[:, None] < rows) & (col[None, :] < cols)
        x = tl.load(w + row[:, None] * cols + col[None, :], inside, 0.0).to(tl.float64)
        total += x * x
    tl.store(norm + row, tl.sqrt(tl.sum(total, 1)).to(tl.float32), row < rows)


@triton.jit
def mask_kernel(
    grad, w, threshold, bound, seed, out, rows, cols, groups,
    GRAD: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """grad, or where not GRAD w itself, without what is dropped; UNIT: one word a row."""
    counter, at, inside = noise_tile(rows, cols, groups, ROWS, GROUPS)
    row = (tl.program_id(0) // tl.cdiv(groups, GROUPS)).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    weight = tl.load(w + at, inside, 0.0)
    limit = magnitude_bits(tl.load(threshold + row, row < rows, 0.0))[:, None]
    if UNIT:
        w0, w1, w2, w3 = words_of_groups(seed, row[:, None] // 4)
        place = row[:, None] % 4
        word = tl.where(place < 2, tl.where(place == 0, w0, w1), tl.where(place == 2, w2, w3))
    else:
        w0, w1, w2, w3 = words_of_groups(seed, counter)
        word = weave(w0, w1, w2, w3)
    gone = is_dropped(magnitude_bits(weight), limit, word, tl.load(bound))
    given = tl.load(grad + at, inside, 0.0) if GRAD else weight
    tl.store(out + at, tl.where(gone, tl.zeros_like(given), given), inside)


def select_launch(rows: int, cols: int) -> tuple[int, dict[str, int]]:
    """(programs, constants) of `select_kernel`."""
    wide = max(4, triton.next_power_of_2(cols))
    tall = max(1, min(TILE // wide, triton.next_power_of_2(rows)))
    warps = max(4, min(16, wide // 512))
    return triton.cdiv(rows, tall), {"ROWS": tall, "COLS": wide, "num_warps": warps}


def _select_long(w: Tensor, index: Tensor, threshold: Tensor) -> None:
    """The magnitude of `index` in each row of any length, digit by digit."""
    rows, cols = w.shape
    spans = triton.cdiv(cols, BLOCK * STEPS)
    counts = torch.empty((rows, spans, BINS.value), dtype=torch.int32, device=w.device)
    prefix, left = torch.empty((2, rows), dtype=torch.int32, device=w.device).unbind()
    digits = [d for d in DIGITS if sum(d) > EMPTY_BITS[w.dtype]]
    for shift, width in digits:
        first, last = shift == digits[0][0], shift == digits[-1][0]
        count_kernel[(rows * spans,)](
            w, prefix, counts, cols, spans,
            FIRST=first, SHIFT=shift, WIDTH=width, BLOCK=BLOCK, STEPS=STEPS, num_warps=8,
        )  # fmt: skip
        digit_kernel[(rows,)](
            counts, index, prefix, left, threshold, spans,
            FIRST=first, LAST=last, SHIFT=shift, SPANS=min(16, triton.next_power_of_2(spans)), num_warps=4,
        )  # fmt: skip


def _select(w: Tensor, gamma: Tensor, masked: tuple[Tensor, Tensor, Tensor] | None = None) -> Tensor:
    """The magnitude of index int(gamma n) in each row, float32 [rows]; fills `masked`: (bound, seed, out)."""
    rows, cols = w.shape
    if cols > 2**31 - 1:
        raise ValueError("weight_mask: more than 2^31 - 1 magnitudes to select among")
    threshold = torch.empty(rows, dtype=torch.float32, device=w.device)
    index = rank(gamma, cols)
    if cols > WIDEST:
        _select_long(w, index, threshold)
        return threshold
    programs, constants = select_launch(rows, cols)
    bound, seed, out = (index, index, w) if masked is None else masked
    select_kernel[(programs,)](
        w, index, bound, seed, threshold, out, rows, cols, triton.cdiv(cols, 4),
        MASK=masked is not None, EMPTY=EMPTY_BITS[w.dtype], **constants,
    )  # fmt: skip
    return threshold


def _small_units(w: Tensor, gamma: Tensor) -> Tensor:
    """Infinity for rows whose norm is below the one of index int(gamma rows), else 0."""
    rows, cols = w.shape
    norm = torch.empty(rows, dtype=torch.float32, device=w.device)
    wide = min(NORM_TILE, triton.next_power_of_2(cols))
    tall = min(NORM_TILE // wide, triton.next_power_of_2(rows))
    norm_kernel[(triton.cdiv(rows, tall),)](w, norm, rows, cols, ROWS=tall, COLS=wide, num_warps=4)
    return torch.where(norm < _select(norm[None], gamma), torch.inf, 0.0)


def _masked(
    grad: Tensor | None, w: Tensor, threshold: Tensor, bound: Tensor, seed: Tensor, granularity: str
) -> Tensor:
    given = w if grad is None else grad
    out = torch.empty_like(given)
    rows, cols = w.shape
    grid = NoiseGrid.of(rows, cols, by_rows=True)
    mask_kernel[(grid.programs,)](
        given, w, threshold, bound, seed, out, *grid.sizes,
        GRAD=grad is not None, UNIT=granularity == "unit", **grid.tile,
    )  # fmt: skip
    return out


def weight_mask(
    w: Tensor, gamma: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> tuple[Tensor, Tensor]:
    """(w without what is dropped, thresholds float32 [rows])."""
    refuse_double("weight_mask", w)
    dense = w.contiguous()
    if dense.numel() == 0:
        return torch.empty_like(dense), dense.new_zeros(w.shape[0], dtype=torch.float32)
    with launch_on(w):
        bound = word_bound(alpha)
        if granularity == "weight" and w.shape[1] <= WIDEST:
            out = torch.empty_like(dense)
            return out, _select(dense, gamma, (bound, seed, out))
        threshold = _select(dense, gamma) if granularity == "weight" else _small_units(dense, gamma)
        return _masked(None, dense, threshold, bound, seed, granularity), threshold


def weight_mask_grad(
    grad: Tensor, w: Tensor, threshold: Tensor, alpha: Tensor, seed: Tensor, granularity: str
) -> Tensor:
    """grad, 0 where w was dropped; the words drawn again."""
    refuse_double("weight_mask", grad, w)
    dense = grad.contiguous()
    if dense.numel() == 0:
        return torch.empty_like(dense)
    with launch_on(w):
        return _masked(dense, w.contiguous(), threshold, word_bound(alpha), seed, granularity)
