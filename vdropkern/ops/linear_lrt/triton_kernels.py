"""The three products of `linear_lrt` in Triton, each a pair of accumulators over one load of its operands.

Mean and variance share a tile: x feeds x mu^T and, squared in registers, x^2 (sigma^2)^T; sigma^2 is made
from its parameter on the way and never stored. M, N, K are rows, columns and depth of the product at hand. A
product with too few tiles to fill the GPU is split along K: parts go to a buffer, `finish_*` adds them in
order. Bounds are masks; offsets of rows are 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .._triton import KL_EPS, dot, exp, normal_tile, square
from ..kl.triton_terms import kl_terms

# how sigma^2 is given: log_sigma2; or log_alpha in full, one an output, one an input
SIGMA2 = tl.constexpr(0)
ALPHA = tl.constexpr(1)
ALPHA_OF_OUTPUT = tl.constexpr(2)
ALPHA_OF_INPUT = tl.constexpr(3)


@triton.jit
def aligned(size, ALIGN: tl.constexpr):
    """`size` itself, a multiple of ALIGN, in a form that tells the compiler so: it then loads 16 bytes."""
    return size // ALIGN * ALIGN


@triton.jit
def tile_of(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP):
    """This program's tile, in bands of GROUP rows, so that programs at work together share operands in L2.

    Bands are walked through to and fro: programs where one ends and the next begins share columns.
    """
    down = tl.cdiv(M, BLOCK_M)
    across = tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    band = program // (GROUP * across)
    height = min(down - band * GROUP, GROUP)
    within = program % (GROUP * across)
    column = within // height
    return band * GROUP + within % height, tl.where(band % 2 == 1, across - 1 - column, column)


@triton.jit
def depth_of(K, BLOCK_K: tl.constexpr, SPLIT: tl.constexpr):
    """[begin, end) of this program's part of the depth, in whole blocks."""
    blocks = tl.cdiv(tl.cdiv(K, BLOCK_K), SPLIT)
    begin = tl.program_id(1) * blocks * BLOCK_K
    return begin, min(K, begin + blocks * BLOCK_K)


@triton.jit
def scale_of(log_parameter, VARIANCE: tl.constexpr, ONCE: tl.constexpr):
    """exp(log_parameter); its last bits matter where the variance is computed in float32.

    ONCE: the move is nothing to the hardware, but the compiler takes it for something that must happen once,
    and so computes the exponentials before it lays them out for the tensor cores. Where those read registers,
    each would else be computed in every warp that multiplies with it, eight times over.
    """
    scale = exp(log_parameter.to(tl.float32), VARIANCE == "ieee" or VARIANCE == "tf32x3")
    if ONCE:
        scale = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [scale], tl.float32, False, 1)
    return scale


@triton.jit
def weights_of(mu, scale, exp_clip, FORM: tl.constexpr, CLIP: tl.constexpr, FACTOR: tl.constexpr):
    """(mean, variance) operands of a tile of weights; `scale` = exp(log) broadcasts against it.

    FACTOR: alpha is a factor of the result and is left to the epilogue. CLIP: a mean whose alpha reaches
    exp_clip is taken for 0, its variance stays.
    """
    wide = mu.to(tl.float32)
    mu2 = wide * wide
    if FORM == SIGMA2:
        variance = scale
        dropped = scale >= exp_clip * (mu2 + KL_EPS)
    else:
        variance = mu2 if FACTOR else scale * mu2
        dropped = scale >= exp_clip
    mean = tl.where(dropped, tl.zeros_like(mu), mu) if CLIP else mu
    return mean, variance


@triton.jit
def place(tile_m, tile_n, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows, columns, offsets in a dense [M, N], and what of them exists."""
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    at = row.to(tl.int64)[:, None] * N + col[None, :]
    return row, col, at, (row[:, None] < M) & (col[None, :] < N)


@triton.jit
def halves(tile):
    """Left and right half of a tile: epilogues take them one after another to stay within registers."""
    return tl.split(tl.permute(tl.reshape(tile, (tile.shape[0], 2, tile.shape[1] // 2)), (0, 2, 1)))


@triton.jit
def sample(
    mean, variance, log, bias, seed, y, std, tile_m, tile_n, M, N, stride_out, eps,
    FORM: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """y = mean + bias + std e, std = sqrt(variance + eps): the end of the forward product."""
    row, col, at, inside = place(tile_m, tile_n, M, N, mean.shape[0], mean.shape[1])
    if FORM == ALPHA_OF_OUTPUT:
        variance *= exp(tl.load(log + col * stride_out, col < N, 0.0).to(tl.float32), True)[None, :]
    s = tl.sqrt(variance + eps)
    tl.store(std + at, s, inside)
    if BIAS:
        mean += tl.load(bias + col, col < N, 0.0).to(tl.float32)[None, :]
    mean += s * normal_tile(seed, row, tile_n * mean.shape[1], N, mean.shape[1])
    tl.store(y + at, mean.to(y.dtype.element_ty), inside)


@triton.jit
def finish_input(mean, variance, log, x, dx, tile_m, tile_n, M, N, stride_in, FORM: tl.constexpr):
    """dx = mean + x variance, where the variance side is g2 sigma^2."""
    _, col, at, inside = place(tile_m, tile_n, M, N, mean.shape[0], mean.shape[1])
    if FORM == ALPHA_OF_INPUT:
        variance *= exp(tl.load(log + col * stride_in, col < N, 0.0).to(tl.float32), True)[None, :]
    x_tile = tl.load(x + at, inside, 0.0).to(tl.float32)
    tl.store(dx + at, (mean + x_tile * variance).to(dx.dtype.element_ty), inside)


@triton.jit
def finish_weight(
    mean, variance, mu, log, grad_kl, dmu, dlog, tile_m, tile_n, M, N, stride_out, stride_in, exp_clip,
    FORM: tl.constexpr, CLIP: tl.constexpr, PRIOR: tl.constexpr,
):  # fmt: skip
    """Gradients of mu and of its noise parameter, with the KL's; the variance side is g2^T x^2.

    Of a shared log_alpha `dlog` is a buffer of partial sums: [tiles of inputs, outputs], or
    [tiles of outputs, inputs].
    """
    row, col, at, inside = place(tile_m, tile_n, M, N, mean.shape[0], mean.shape[1])
    m = tl.load(mu + at, inside, 0.0).to(tl.float32)
    if FORM == ALPHA_OF_OUTPUT:
        parameter = tl.load(log + row * stride_out, row < M, 0.0).to(tl.float32)[:, None]
    elif FORM == ALPHA_OF_INPUT:
        parameter = tl.load(log + col * stride_in, col < N, 0.0).to(tl.float32)[None, :]
    else:
        parameter = tl.load(log + at, inside, 0.0).to(tl.float32)
    scale = exp(parameter, True)
    if CLIP:
        threshold = exp_clip * (m * m + KL_EPS) if FORM == SIGMA2 else exp_clip
        mean = tl.where(scale >= threshold, 0.0, mean)
    if FORM == SIGMA2:
        d = 0.5 * variance * scale
    else:
        d_alpha = variance * scale * m
        d = 0.5 * d_alpha * m
        mean += d_alpha
    if PRIOR != "none":
        _, slope, slope_mu = kl_terms(m, parameter, FORM != SIGMA2, PRIOR)
        scale_kl = tl.load(grad_kl).to(tl.float32)
        d += slope * scale_kl
        if FORM == SIGMA2:
            mean += slope_mu * scale_kl
    tl.store(dmu + at, mean.to(dmu.dtype.element_ty), inside)
    if FORM == ALPHA_OF_OUTPUT:
        part = tl.sum(tl.where(inside, d, 0.0), 1)
        tl.store(dlog + tile_n.to(tl.int64) * M + row, part, row < M)
    elif FORM == ALPHA_OF_INPUT:
        part = tl.sum(tl.where(inside, d, 0.0), 0)
        tl.store(dlog + tile_m.to(tl.int64) * N + col, part, col < N)
    else:
        tl.store(dlog + at, d.to(dlog.dtype.element_ty), inside)


@triton.jit
def store_part(partial, mean, variance, tile_m, tile_n, M, N):
    """Both accumulators of this part of the depth, into partial [SPLIT, 2, M, N]."""
    _, _, at, inside = place(tile_m, tile_n, M, N, mean.shape[0], mean.shape[1])
    part = tl.program_id(1).to(tl.int64) * 2
    tl.store(partial + part * M * N + at, mean, inside)
    tl.store(partial + (part + 1) * M * N + at, variance, inside)


@triton.jit
def load_parts(partial, M, N, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """(mean, variance, tile_m, tile_n) of this program's tile, its parts added in order."""
    across = tl.cdiv(N, BLOCK_N)
    tile_m = tl.program_id(0) // across
    tile_n = tl.program_id(0) % across
    _, _, at, inside = place(tile_m, tile_n, M, N, BLOCK_M, BLOCK_N)
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    size = tile_m.to(tl.int64) * 0 + M
    size *= N
    for part in range(SPLIT):
        mean += tl.load(partial + 2 * part * size + at, inside, 0.0)
        variance += tl.load(partial + (2 * part + 1) * size + at, inside, 0.0)
    return mean, variance, tile_m, tile_n


@triton.jit
def forward_kernel(
    x, mu, log, bias, seed, y, std, partial, M, N, K, stride_out, stride_in, eps, exp_clip,
    FORM: tl.constexpr, BIAS: tl.constexpr, CLIP: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """y [M, N] from x [M, K] and weights [N, K]; log is read at out * stride_out + in * stride_in."""
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    begin, end = depth_of(K, BLOCK_K, SPLIT)
    stride = aligned(K, ALIGN)
    x_row = x + row.to(tl.int64)[:, None] * stride
    mu_row = mu + col.to(tl.int64)[None, :] * stride
    if FORM == ALPHA_OF_INPUT:
        log_row = log
    else:
        log_row = log + col.to(tl.int64)[None, :] * (stride if FORM != ALPHA_OF_OUTPUT else stride_out)
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FORM == ALPHA_OF_OUTPUT:
        scale = scale_of(tl.load(log_row, col[None, :] < N, 0.0), VARIANCE, ONCE)
    for k0 in range(begin, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inner = k < aligned(K, ALIGN)
        x_tile = tl.load(x_row + k[None, :], (row[:, None] < M) & inner[None, :], 0.0)
        weight = inner[:, None] & (col[None, :] < N)
        mu_tile = tl.load(mu_row + k[:, None], weight, 0.0)
        if FORM == ALPHA_OF_INPUT:
            scale = scale_of(tl.load(log_row + k * stride_in, inner, 0.0)[:, None], VARIANCE, ONCE)
        elif FORM != ALPHA_OF_OUTPUT:
            scale = scale_of(tl.load(log_row + k[:, None], weight, 0.0), VARIANCE, ONCE)
        w_mean, w_variance = weights_of(mu_tile, scale, exp_clip, FORM, CLIP, FORM == ALPHA_OF_OUTPUT)
        mean = dot(x_tile, w_mean, mean, MEAN)
        variance = dot(square(x_tile, VARIANCE), w_variance, variance, VARIANCE)
    if SPLIT == 1:
        mean_left, mean_right = halves(mean)
        left, right = halves(variance)
        sample(
            mean_left, left, log, bias, seed, y, std, tile_m, 2 * tile_n, M, N, stride_out, eps, FORM, BIAS
        )
        sample(
            mean_right,
            right,
            log,
            bias,
            seed,
            y,
            std,
            tile_m,
            2 * tile_n + 1,
            M,
            N,
            stride_out,
            eps,
            FORM,
            BIAS,
        )
    else:
        store_part(partial, mean, variance, tile_m, tile_n, M, N)


@triton.jit
def input_gradient_kernel(
    dy, g2, x, mu, log, dx, partial, M, N, K, stride_out, stride_in, exp_clip,
    FORM: tl.constexpr, CLIP: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """dx [M, N] from dy, g2 [M, K] and weights [K, N]: the depth runs over outputs."""
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    begin, end = depth_of(K, BLOCK_K, SPLIT)
    across = aligned(N, ALIGN)
    deep = aligned(K, ALIGN)
    at_row = row.to(tl.int64)[:, None] * deep
    inside_col = col[None, :] < across
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    if FORM == ALPHA_OF_INPUT:
        scale = scale_of(tl.load(log + col[None, :] * stride_in, inside_col, 0.0), VARIANCE, ONCE)
    for k0 in range(begin, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        inner = (row[:, None] < M) & (k[None, :] < deep)
        dy_tile = tl.load(dy + at_row + k[None, :], inner, 0.0)
        g2_tile = tl.load(g2 + at_row + k[None, :], inner, 0.0)
        weight = (k[:, None] < deep) & inside_col
        at_weight = k.to(tl.int64)[:, None] * across + col[None, :]
        mu_tile = tl.load(mu + at_weight, weight, 0.0)
        if FORM == ALPHA_OF_OUTPUT:
            scale = scale_of(tl.load(log + k * stride_out, k < deep, 0.0)[:, None], VARIANCE, ONCE)
        elif FORM != ALPHA_OF_INPUT:
            scale = scale_of(tl.load(log + at_weight, weight, 0.0), VARIANCE, ONCE)
        w_mean, w_variance = weights_of(mu_tile, scale, exp_clip, FORM, CLIP, FORM == ALPHA_OF_INPUT)
        mean = dot(dy_tile, w_mean, mean, MEAN)
        variance = dot(g2_tile, w_variance, variance, VARIANCE)
    if SPLIT == 1:
        finish_input(mean, variance, log, x, dx, tile_m, tile_n, M, N, stride_in, FORM)
    else:
        store_part(partial, mean, variance, tile_m, tile_n, M, N)


@triton.jit
def weight_gradient_kernel(
    dy, g2, x, mu, log, grad_kl, dmu, dlog, partial, M, N, K, stride_out, stride_in, exp_clip,
    FORM: tl.constexpr, CLIP: tl.constexpr, PRIOR: tl.constexpr, MEAN: tl.constexpr, VARIANCE: tl.constexpr,
    ALIGN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """dmu, dlog [M, N] from dy, g2 [K, M] and x [K, N]: the depth runs over the batch."""
    tile_m, tile_n = tile_of(M, N, BLOCK_M, BLOCK_N, GROUP)
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    col = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    begin, end = depth_of(K, BLOCK_K, SPLIT)
    out = aligned(M, ALIGN)
    across = aligned(N, ALIGN)
    mean = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    variance = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k0 in range(begin, end, BLOCK_K):
        k = k0 + tl.arange(0, BLOCK_K)
        at_row = k.to(tl.int64)[None, :] * out + row[:, None]
        inner = (k[None, :] < K) & (row[:, None] < out)
        dy_tile = tl.load(dy + at_row, inner, 0.0)
        g2_tile = tl.load(g2 + at_row, inner, 0.0)
        at_col = k.to(tl.int64)[:, None] * across + col[None, :]
        x_tile = tl.load(x + at_col, (k[:, None] < K) & (col[None, :] < across), 0.0)
        mean = dot(dy_tile, x_tile, mean, MEAN)
        variance = dot(g2_tile, square(x_tile, VARIANCE), variance, VARIANCE)
    if SPLIT == 1:
        mean_left, mean_right = halves(mean)
        left, right = halves(variance)
        finish_weight(
            mean_left, left, mu, log, grad_kl, dmu, dlog, tile_m, 2 * tile_n, M, N, stride_out,
            stride_in, exp_clip, FORM, CLIP, PRIOR,
        )  # fmt: skip
        finish_weight(
            mean_right, right, mu, log, grad_kl, dmu, dlog, tile_m, 2 * tile_n + 1, M, N, stride_out,
            stride_in, exp_clip, FORM, CLIP, PRIOR,
        )  # fmt: skip
    else:
        store_part(partial, mean, variance, tile_m, tile_n, M, N)


@triton.jit
def finish_forward_kernel(
    partial, log, bias, seed, y, std, M, N, stride_out, eps,
    FORM: tl.constexpr, BIAS: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    mean, variance, tile_m, tile_n = load_parts(partial, M, N, SPLIT, BLOCK_M, BLOCK_N)
    sample(mean, variance, log, bias, seed, y, std, tile_m, tile_n, M, N, stride_out, eps, FORM, BIAS)


@triton.jit
def finish_input_kernel(
    partial, log, x, dx, M, N, stride_in,
    FORM: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    mean, variance, tile_m, tile_n = load_parts(partial, M, N, SPLIT, BLOCK_M, BLOCK_N)
    finish_input(mean, variance, log, x, dx, tile_m, tile_n, M, N, stride_in, FORM)


@triton.jit
def finish_weight_kernel(
    partial, mu, log, grad_kl, dmu, dlog, M, N, stride_out, stride_in, exp_clip,
    FORM: tl.constexpr, CLIP: tl.constexpr, PRIOR: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    mean, variance, tile_m, tile_n = load_parts(partial, M, N, SPLIT, BLOCK_M, BLOCK_N)
    finish_weight(
        mean, variance, mu, log, grad_kl, dmu, dlog, tile_m, tile_n, M, N, stride_out, stride_in, exp_clip,
        FORM, CLIP, PRIOR,
    )  # fmt: skip


@triton.jit
def output_gradient_kernel(
    dy, std, seed, g2, bias_part, M, N,
    NOISE: tl.constexpr, BIAS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """g2 = dy e / std, which both gradient products read, and partial sums of dy for the bias' gradient.

    The noise is drawn here, once an output: the products meet an output once a tile.
    """
    across = tl.cdiv(N, BLOCK_N)
    tile_m = tl.program_id(0) // across
    tile_n = tl.program_id(0) % across
    row, col, at, inside = place(tile_m, tile_n, M, N, BLOCK_M, BLOCK_N)
    d = tl.load(dy + at, inside, 0.0).to(tl.float32)
    if NOISE:
        s = tl.load(std + at, inside, 1.0)
        g = d * normal_tile(seed, row, tile_n * BLOCK_N, N, BLOCK_N) / s
        tl.store(g2 + at, g.to(g2.dtype.element_ty), inside)
    if BIAS:
        tl.store(bias_part + tile_m.to(tl.int64) * N + col, tl.sum(d, 0), col < N)
