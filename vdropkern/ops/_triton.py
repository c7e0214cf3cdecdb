"""What the Triton kernels share: Philox, normals, exponentials, KL terms, the precision of a product.

The arithmetic is that of csrc/random/philox.h, csrc/common/elementary.h and csrc/kl/terms.h, step by step,
so that noise agrees to a few ulp and is cheap: `tl.randn` uses one Philox word of four and a sine with a
table in local memory, four times the instructions. Importing this module imports Triton.
"""

from __future__ import annotations

import triton
import triton.language as tl

NAN_STAYS = tl.constexpr(tl.PropagateNan.ALL)
KL_EPS = tl.constexpr(1e-8)  # log_alpha = log_sigma2 - log(mu^2 + KL_EPS)
LN_2 = tl.constexpr(0.6931471805599453)
LOG2_E = tl.constexpr(1.4426950216293335)  # float32's nearest, and what it lacks
LOG2_E_REST = tl.constexpr(1.9259629911266175e-8)


@triton.jit
def philox4x32(c0, c1, key0, key1):
    """Ten rounds on the counter (c0, c1, 0, 0); uint32 all."""
    c2 = tl.zeros_like(c0)
    c3 = tl.zeros_like(c0)
    for _ in tl.static_range(10):
        p0 = c0.to(tl.uint64) * 0xD2511F53
        p1 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ key0
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ key1
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        key0 = key0 + 0x9E3779B9
        key1 = key1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def log1p_reduced(f):
    """ln(1 + f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], exact relative to f near 0."""
    p = f * 7.0376836292e-2 - 1.1514610310e-1
    p = p * f + 1.1676998740e-1
    p = p * f - 1.2420140846e-1
    p = p * f + 1.4249322787e-1
    p = p * f - 1.6668057665e-1
    p = p * f + 2.0000714765e-1
    p = p * f - 2.4999993993e-1
    p = p * f + 3.3333331174e-1
    f2 = f * f
    return f + (f * f2 * p - f2 * 0.5)


@triton.jit
def split_log(x):
    """x = 2^exponent (1 + f), 1 + f in [sqrt(1/2), sqrt(2)), for normal x > 0."""
    bits = x.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    return e.to(tl.float32), (bits - (e << 23)).to(tl.float32, bitcast=True) - 1.0


@triton.jit
def log1p_unit(x):
    """ln(1 + x) for x in [0, 1], exact relative to x near 0."""
    small = x < 0.414213562
    return log1p_reduced(tl.where(small, x, x * 0.5 - 0.5)) + tl.where(small, 0.0, 0.693147181)


@triton.jit
def exp(x, EXACT: tl.constexpr):
    """e^x, x held in [-87, 88] where results are normal and finite; NaN stays NaN.

    The hardware has 2^t alone, and rounding t = x log2(e) costs |x| / 2 ulp; EXACT returns them.
    """
    x = tl.minimum(tl.maximum(x, -87.0, propagate_nan=NAN_STAYS), 88.0, propagate_nan=NAN_STAYS)
    t = x * LOG2_E
    e = tl.exp2(t)
    if EXACT:
        lost = tl.fma(x, tl.full(x.shape, LOG2_E, tl.float32), -t) + x * LOG2_E_REST
        e = tl.fma(e, lost * LN_2, e)
    return e


@triton.jit
def _minus_two_log(bits):
    """-2 ln u, u = (bits + 1/2) 2^-32 = (1 - w / 2) 2^-zeros with w in (0, 1].

    The word, moved up to its first bit, is -w / 2 as a signed fraction: exact near u = 1, and no sum cancels.
    """
    zeros = tl.inline_asm_elementwise("clz.b32 $0, $1;", "=r,r", [bits], tl.int32, True, 1)
    fraction = tl.inline_asm_elementwise(
        "shf.l.clamp.b32 $0, 0x80000000, $1, $2;", "=r,r,r", [bits, zeros], tl.int32, True, 1
    )
    w = fraction.to(tl.float32) * -4.6566128730773926e-10 - 2.3283064365386963e-10  # 2^-31, 2^-32
    p = w * 5.5255770362e-3 - 1.2809294986e-2
    p = p * w + 1.8886158360e-2
    p = p * w - 5.6547620798e-3
    p = p * w + 1.6480685194e-2
    p = p * w + 3.0460325634e-2
    p = p * w + 8.3408030205e-2
    p = p * w + 2.4999760860e-1
    return zeros.to(tl.float32) * 1.386294361 + (w * w * p + w)


@triton.jit
def log_odds(bits):
    """ln u - ln (1 - u); the complement's bits are those of 1 - u."""
    return 0.5 * (_minus_two_log(bits ^ 0xFFFFFFFF) - _minus_two_log(bits))


@triton.jit
def _cos_sin_turn(bits):
    """cos and sin of 2 pi (bits + 1/2) 2^-32: quadrant and rest are split off in exact integers."""
    place = bits + 0x20000000  # its upper two bits are the quadrant
    # the rest is what they leave when shifted out; 2 pi 2^-34, 2 pi 2^-33
    rest = (bits << 2).to(tl.int32, bitcast=True)
    t = rest.to(tl.float32) * 3.657295198167899e-10 + 7.314590396335798e-10
    t2 = t * t
    s = t2 * -1.9515295891e-4 + 8.3321608736e-3
    s = s * t2 - 1.6666654611e-1
    s = s * t2 * t + t
    c = t2 * 2.443315711809948e-5 - 1.388731625493765e-3
    c = c * t2 + 4.166664568298827e-2
    c = c * (t2 * t2) + (1.0 - t2 * 0.5)
    odd = (place << 1).to(tl.int32, bitcast=True) < 0
    plain_c = tl.where(odd, s, c)
    plain_s = tl.where(odd, c, s)
    # quadrants 1, 2 flip the cosine's sign, 2, 3 the sine's
    cosine = plain_c.to(tl.uint32, bitcast=True) ^ ((place + 0x40000000) & 0x80000000)
    sine = plain_s.to(tl.uint32, bitcast=True) ^ (place & 0x80000000)
    return cosine.to(tl.float32, bitcast=True), sine.to(tl.float32, bitcast=True)


@triton.jit
def box_muller(word0, word1):
    radius = tl.sqrt(_minus_two_log(word0))
    cosine, sine = _cos_sin_turn(word1)
    return radius * cosine, radius * sine


@triton.jit
def words_of_groups(seed, group):
    """The four Philox words of each counter in `group` (int64); `seed` points to the key."""
    key = tl.load(seed).to(tl.uint64, bitcast=True)
    c = group.to(tl.uint64)
    return philox4x32(c.to(tl.uint32), (c >> 32).to(tl.uint32), key.to(tl.uint32), (key >> 32).to(tl.uint32))


@triton.jit
def weave(a, b, c, d):
    """Four [R, G] tensors -> [R, 4 G] with elements a b c d a b c d ... along each row."""
    woven = tl.join(tl.join(a, c), tl.join(b, d))  # [R, G, 2, 2]
    return tl.reshape(woven, (a.shape[0], 4 * a.shape[1]))


@triton.jit
def normals_of_groups(seed, group):
    """group [R, G] -> normals [R, 4 G]."""
    w0, w1, w2, w3 = words_of_groups(seed, group)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return weave(z0, z1, z2, z3)


@triton.jit
def normal_tile(seed, row, first_col, cols, COLS: tl.constexpr):
    """Noise of rows `row` [R] and columns first_col (a multiple of 4) to first_col + COLS of [*, cols]."""
    groups = (cols + 3) // 4
    group = first_col // 4 + tl.arange(0, COLS // 4)
    return normals_of_groups(seed, row.to(tl.int64)[:, None] * groups + group[None, :])


@triton.jit
def operand(x, PRECISION: tl.constexpr):
    """`x` as an operand of `dot`, rounded to nearest.

    Tensor cores cut float32 to tf32's 11 bits, which shrinks every product; the variance, a sum of positive
    terms, would be too small by up to 2^-9.
    """
    if PRECISION == "tf32":
        return tl.inline_asm_elementwise(
            "cvt.rna.tf32.f32 $0, $1;", "=r,r", [x.to(tl.float32)], tl.float32, True, 1
        )
    elif PRECISION == "bf16":
        return x.to(tl.bfloat16)
    elif PRECISION == "native":
        return x
    else:
        return x.to(tl.float32)


@triton.jit
def dot(a, b, accumulator, PRECISION: tl.constexpr):
    """accumulator + a b. PRECISION: 'ieee', 'tf32', 'tf32x3' or 'bf16', or 'native' for half operands."""
    a = operand(a, PRECISION)
    b = operand(b, PRECISION)
    if PRECISION == "native" or PRECISION == "bf16":
        return tl.dot(a, b, accumulator)
    else:
        return tl.dot(a, b, accumulator, input_precision=PRECISION)


@triton.jit
def square(x, PRECISION: tl.constexpr):
    """x^2 as the operand of a product. In bfloat16 one multiplication rounds it once, as float32 would."""
    if PRECISION == "bf16" and x.dtype == tl.bfloat16:
        return x * x
    else:
        wide = x.to(tl.float32)
        return wide * wide
