"""The kernels of `multi_sample_head` in Triton: three masked products and what is between them.

A row of the products is a slot, one sample of one row of h; the SHARED samples of a tile's rows read the same
random words (`reference.keep_masks`), which are drawn once for all of them. Masks meet operands, or results,
in registers. `logits` [rows * samples, ld] is the one tensor that grows with the samples: logits, which
become the gradients of the loss in place.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton import LN_2, dot, exp, log1p_reduced, split_log, weave, words_of_groups
from ..linear_lrt.triton_kernels import tile_of


@triton.jit
def kept(seed, row, rows, first, first_col, cols, below, SHARED: tl.constexpr, COLS: tl.constexpr):
    """bool [R, SHARED, COLS]: what samples first ... first + SHARED - 1 keep of `row` [R] and its columns."""
    line = (tl.zeros_like(row) + first // 4) * rows + row
    group = first_col // 4 + tl.arange(0, COLS // 4)
    w0, w1, w2, w3 = words_of_groups(seed, line[:, None] * ((cols + 3) // 4) + group[None, :])
    word = weave(w0, w1, w2, w3)[:, None, :]
    turn = (first % 4 + tl.arange(0, SHARED)).to(tl.uint32)[None, :, None] * 8
    turned = (word << turn) | (word >> ((32 - turn) & 31))  # no shift is by all of a word
    return turned >= below.to(tl.uint32)


@triton.jit
def masked(x, keep):
    """x [R, C] under its masks [R, S, C] -> [R * S, C]; what is not finite gives NaN, as times 0."""
    under = tl.where(keep, x[:, None, :], (x * 0.0)[:, None, :])
    return tl.reshape(under, (keep.shape[0] * keep.shape[1], keep.shape[2]))


@triton.jit
def slots_of(row, rows, first, samples, SHARED: tl.constexpr):
    """(rows of the logits, whether there are such) [R * SHARED] of samples from `first` on."""
    sample = first + tl.arange(0, SHARED)
    inside = (row < rows)[:, None] & (sample < samples)[None, :]
    slot = row[:, None] * samples + sample[None, :]
    many: tl.constexpr = row.shape[0] * SHARED
    return tl.reshape(slot, (many,)), tl.reshape(inside, (many,))


@triton.jit
def of_classes(class_weight, klass, classes, WEIGHTED: tl.constexpr):
    """Weights of classes [C], 0 beyond the last."""
    if WEIGHTED:
        return tl.load(class_weight + klass, klass < classes, 0.0)
    else:
        return tl.where(klass < classes, 1.0, 0.0)


@triton.jit
def wider(top, total, smooth, z, klass, classes, weight, SMOOTH: tl.constexpr):
    """(maximum, sum of e^(z - maximum), sum of weighted logits) with those of columns z [R, C] taken in.

    Also z with -inf beyond the last class.
    """
    real = (klass < classes)[None, :]
    z = tl.where(real, z, float("-inf"))
    higher = tl.maximum(top, tl.max(z, 1))
    total = total * exp(top - higher, False)
    total += tl.sum(tl.where(real, exp(z - higher[:, None], False), 0.0), 1)
    if SMOOTH:
        smooth += tl.sum(tl.where(real, z * weight[None, :], 0.0), 1)
    return z, higher, total, smooth


@triton.jit
def losses_of(
    slot, inside, of_target, top, total, smooth, all_weights, target, class_weight, norm, row_scale, samples,
    classes, share, smoothing, ignore_index,
    WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, ROW_SCALE: tl.constexpr,
):  # fmt: skip
    """(loss, and by how much softmax, class weights and the target count in its gradient) of slots.

    A target that is no class gives NaN.
    """
    y = tl.load(target + slot // samples, inside, 0)
    there = (y >= 0) & (y < classes)
    weight = tl.where(there, 1.0, float("nan"))
    if WEIGHTED:
        weight = tl.load(class_weight + y, there, float("nan"))
    ignored = y == ignore_index
    scale = tl.full(y.shape, share, tl.float32) / tl.load(norm)
    if ROW_SCALE:
        scale *= tl.load(row_scale + slot // samples, inside, 0.0)
    exponent, f = split_log(total)
    log_total = tl.where(total == total, log1p_reduced(f) + exponent * LN_2, total)
    sharp = (1.0 - smoothing) * weight
    loss = sharp * (top + log_total - of_target)
    soft = sharp
    even = smoothing / classes
    if SMOOTH:
        loss += even * (all_weights * (top + log_total) - smooth)
        soft += even * all_weights
    loss = tl.where(ignored, 0.0, loss)
    return (
        loss,
        tl.where(ignored, 0.0, scale * soft / total),
        tl.where(ignored, 0.0, scale * even),
        tl.where(ignored, 0.0, scale * sharp),
    )


@triton.jit
def gradient(z, top, y, klass, weight, of_soft, of_even, of_target, SMOOTH: tl.constexpr):
    """By logits z [R, C] with -inf beyond the last class."""
    g = exp(z - top[:, None], False) * of_soft[:, None]
    if SMOOTH:
        g -= of_even[:, None] * weight[None, :]
    return g - tl.where(klass[None, :] == y[:, None], of_target[:, None], 0.0)


@triton.jit(do_not_specialize=["band"])
def head_logits_kernel(
    h, weight, bias, target, class_weight, norm, row_scale, seed, logits, losses, rows, features, classes,
    samples, ld, band, below, keep_scale, share, smoothing, ignore_index,
    BIAS: tl.constexpr, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, ROW_SCALE: tl.constexpr,
    GRAD: tl.constexpr, WHOLE: tl.constexpr, PRECISION: tl.constexpr, SHARED: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Logits; where a tile has all classes (WHOLE), at once their losses, and with GRAD their gradients."""
    quads = tl.cdiv(samples, SHARED)
    tile_m, tile_n = tile_of(tl.cdiv(rows, ROWS) * quads, classes, 1, COLS, band)
    row = (tile_m // quads).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tile_m % quads * SHARED
    klass = tile_n * COLS + tl.arange(0, COLS)
    z = tl.zeros((ROWS * SHARED, COLS), tl.float32)
    for d0 in range(0, features, DEPTH):
        d = d0 + tl.arange(0, DEPTH)
        inside = (row < rows)[:, None] & (d < features)[None, :]
        x = tl.load(h + row[:, None] * features + d[None, :], inside, 0.0)
        inside = (klass < classes)[None, :] & (d < features)[:, None]
        w = tl.load(weight + klass.to(tl.int64)[None, :] * features + d[:, None], inside, 0.0)
        keep = kept(seed, row, rows, first, d0, features, below, SHARED, DEPTH)
        z = dot(masked(x, keep), w, z, PRECISION)
    z *= keep_scale
    if BIAS:
        z += tl.load(bias + klass, klass < classes, 0.0).to(tl.float32)[None, :]
    slot, inside = slots_of(row, rows, first, samples, SHARED)
    at = slot[:, None] * ld + klass[None, :]
    there = inside[:, None] & (klass < classes)[None, :]
    if WHOLE:
        none = tl.zeros((ROWS * SHARED,), tl.float32)
        own = of_classes(class_weight, klass, classes, WEIGHTED)
        z, top, total, smooth = wider(none + float("-inf"), none, none, z, klass, classes, own, SMOOTH)
        y = tl.load(target + slot // samples, inside, 0)
        of_target = tl.sum(tl.where(klass[None, :] == y[:, None], z, 0.0), 1)
        loss, of_soft, of_even, of_target = losses_of(
            slot, inside, of_target, top, total, smooth, tl.sum(own, 0), target, class_weight, norm,
            row_scale, samples, classes, share, smoothing, ignore_index, WEIGHTED, SMOOTH, ROW_SCALE,
        )  # fmt: skip
        tl.store(losses + slot, loss, inside)
        if GRAD:
            g = gradient(z, top, y, klass, own, of_soft, of_even, of_target, SMOOTH)
            tl.store(logits + at, g, there)
    else:
        tl.store(logits + at, z, there)


@triton.jit
def head_loss_kernel(
    logits, target, class_weight, norm, row_scale, losses, slots, classes, samples, ld, share, smoothing,
    ignore_index, WEIGHTED: tl.constexpr, SMOOTH: tl.constexpr, ROW_SCALE: tl.constexpr, GRAD: tl.constexpr,
    WHOLE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Losses of logits, which with GRAD become their gradients.

    WHOLE: a tile has all classes, else rows are read twice.
    """
    slot = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = slot < slots
    y = tl.load(target + slot // samples, inside, 0)
    none = tl.zeros((ROWS,), tl.float32)
    top = none + float("-inf")
    total = none
    smooth = none
    all_weights = 0.0
    of_target = none
    for c0 in range(0, classes, COLS):
        klass = c0 + tl.arange(0, COLS)
        there = inside[:, None] & (klass < classes)[None, :]
        z = tl.load(logits + slot[:, None] * ld + klass[None, :], there, 0.0)
        own = of_classes(class_weight, klass, classes, WEIGHTED)
        z, top, total, smooth = wider(top, total, smooth, z, klass, classes, own, SMOOTH)
        all_weights += tl.sum(own, 0)
        of_target += tl.sum(tl.where(klass[None, :] == y[:, None], z, 0.0), 1)
        if WHOLE:
            loss, of_soft, of_even, of_hit = losses_of(
                slot, inside, of_target, top, total, smooth, all_weights, target, class_weight, norm,
                row_scale, samples, classes, share, smoothing, ignore_index, WEIGHTED, SMOOTH, ROW_SCALE,
            )  # fmt: skip
            tl.store(losses + slot, loss, inside)
            if GRAD:
                g = gradient(z, top, y, klass, own, of_soft, of_even, of_hit, SMOOTH)
                tl.store(logits + slot[:, None] * ld + klass[None, :], g, there)
    if not WHOLE:
        loss, of_soft, of_even, of_hit = losses_of(
            slot, inside, of_target, top, total, smooth, all_weights, target, class_weight, norm, row_scale,
            samples, classes, share, smoothing, ignore_index, WEIGHTED, SMOOTH, ROW_SCALE,
        )  # fmt: skip
        tl.store(losses + slot, loss, inside)
        if GRAD:
            for c0 in range(0, classes, COLS):
                klass = c0 + tl.arange(0, COLS)
                there = inside[:, None] & (klass < classes)[None, :]
                at = slot[:, None] * ld + klass[None, :]
                z = tl.load(logits + at, there, float("-inf"))
                own = of_classes(class_weight, klass, classes, WEIGHTED)
                g = gradient(z, top, y, klass, own, of_soft, of_even, of_hit, SMOOTH)
                tl.store(logits + at, g, there)


@triton.jit(do_not_specialize=["band"])
def head_input_gradient_kernel(
    g, weight, seed, dh, rows, features, classes, samples, ld, band, below, keep_scale,
    PRECISION: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEPTH: tl.constexpr,
):  # fmt: skip
    """dh = keep_scale sum_i mask_i * (g_i W), the samples one after another."""
    tile_m, tile_n = tile_of(rows, features, ROWS, COLS, band)
    row = tile_m.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tile_n * COLS + tl.arange(0, COLS)
    total = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, samples, SHARED):
        slot, inside = slots_of(row, rows, first, samples, SHARED)
        product = tl.zeros((ROWS * SHARED, COLS), tl.float32)
        for k0 in range(0, classes, DEPTH):
            k = k0 + tl.arange(0, DEPTH)
            a = tl.load(g + slot[:, None] * ld + k[None, :], inside[:, None] & (k < classes)[None, :], 0.0)
            there = (k < classes)[:, None] & (d < features)[None, :]
            w = tl.load(weight + k.to(tl.int64)[:, None] * features + d[None, :], there, 0.0)
            product = dot(a, w, product, PRECISION)
        keep = kept(seed, row, rows, first, tile_n * COLS, features, below, SHARED, COLS)
        total += tl.sum(tl.where(keep, tl.reshape(product, (ROWS, SHARED, COLS)), 0.0), 1)
    inside = (row < rows)[:, None] & (d < features)[None, :]
    tl.store(dh + row[:, None] * features + d[None, :], total * keep_scale, inside)


@triton.jit(do_not_specialize=["band"])
def head_weight_gradient_kernel(
    g, h, seed, partial, rows, features, classes, samples, ld, band, below, keep_scale,
    PRECISION: tl.constexpr, SHARED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    DEPTH: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """partial [SPLIT, classes, features]: keep_scale g^T (masked h), each of some rows, DEPTH at a time."""
    tile_m, tile_n = tile_of(classes, features, ROWS, COLS, band)
    klass = tile_m * ROWS + tl.arange(0, ROWS)
    d = tile_n * COLS + tl.arange(0, COLS)
    steps = tl.cdiv(tl.cdiv(rows, DEPTH), SPLIT)
    begin = tl.program_id(1) * steps * DEPTH
    total = tl.zeros((ROWS, COLS), tl.float32)
    for b0 in range(begin, min(rows, begin + steps * DEPTH), DEPTH):
        row = b0 + tl.arange(0, DEPTH).to(tl.int64)
        there = (row < rows)[:, None] & (d < features)[None, :]
        x = tl.load(h + row[:, None] * features + d[None, :], there, 0.0)
        for first in range(0, samples, SHARED):
            keep = kept(seed, row, rows, first, tile_n * COLS, features, below, SHARED, COLS)
            slot, inside = slots_of(row, rows, first, samples, SHARED)
            real = (klass < classes)[:, None] & inside[None, :]
            a = tl.load(g + slot[None, :] * ld + klass[:, None], real, 0.0)
            total = dot(a, masked(x, keep), total, PRECISION)
    inside = (klass < classes)[:, None] & (d < features)[None, :]
    at = (tl.program_id(1).to(tl.int64) * classes + klass)[:, None] * features + d[None, :]
    tl.store(partial + at, total * keep_scale, inside)
