"""philox_normal: Box and Muller's transform of philox_bits, to a few units in the last place, and normal."""

from __future__ import annotations

import functools
import math

import mpmath
import pytest
import torch
from scipy import stats
from torch import Tensor

from vdropkern import functional
from vdropkern.ops.philox_normal.reference import philox_normal as reference

# Seeds whose first four words, found by trying all seeds from 0 up, hold the words at which the transform is
# hardest: 0 and 2^32 - 1 (ln of the smallest u, and of the u nearest to 1), and the quarters of a turn, where
# the cosine or the sine passes through zero. (seed, index of the word, the word)
EXTREME_WORDS = (
    (1836991927, 0, 0x00000000),
    (293046734, 1, 0x00000000),
    (627779616, 2, 0x00000000),
    (1343428, 3, 0x00000000),
    (765489146, 0, 0x3FFFFFFF),
    (3653705236, 1, 0x3FFFFFFF),
    (2985265716, 3, 0x3FFFFFFF),
    (1980432052, 1, 0x40000000),
    (599368034, 3, 0x40000000),
    (3391122501, 0, 0x7FFFFFFF),
    (822691687, 3, 0x7FFFFFFF),
    (8071768748, 0, 0x80000000),
    (3435937029, 3, 0x80000000),
    (995596506, 1, 0xBFFFFFFF),
    (1699938113, 3, 0xBFFFFFFF),
    (3415393636, 2, 0xC0000000),
    (182551708, 3, 0xC0000000),
    (1352247272, 0, 0xFFFFFFFF),
    (454088803, 1, 0xFFFFFFFF),
    (5354715589, 2, 0xFFFFFFFF),
    (3471586686, 3, 0xFFFFFFFF),
)
# Error of the float32 transform. Over all 2^32 words the radius is within 2.5 units of 2^-24 of itself and
# the cosine and sine within 3.7, so a normal is within 7.2; draws of both at their worst are rare, and the
# largest error seen in 3e7 draws is 4.4 ulp.
MAX_ULP = 5.0
# The float64 transform takes libm's log, cos and sin at an angle rounded to float64.
MAX_ABSOLUTE_F64 = 4e-15
LARGEST = math.sqrt(-2 * math.log(0.5 * 2.0**-32))  # 6.7637


def ulp(t: Tensor) -> Tensor:
    """Spacing of float32 at t."""
    exponent = torch.frexp(t).exponent
    return torch.ldexp(torch.ones_like(t), (exponent - 24).clamp(min=-149))


@functools.cache
def many(seed: int) -> Tensor:
    return reference(torch.tensor(seed), 2501, 2003, torch.float64)


def normals_by_hand(words: list[int]) -> Tensor:
    """The definition in 50 digits."""
    with mpmath.workdps(50):
        z = []
        for u0, u1 in ((words[0], words[1]), (words[2], words[3])):
            radius = mpmath.sqrt(-2 * mpmath.log((u0 + mpmath.mpf(1) / 2) / 2**32))
            angle = 2 * mpmath.pi * (u1 + mpmath.mpf(1) / 2) / 2**32
            z += [float(radius * mpmath.cos(angle)), float(radius * mpmath.sin(angle))]
    return torch.tensor(z, dtype=torch.float64)


def test_definition(backend: str) -> None:
    for seed in (0, 7, -1, 2**62):
        expected = torch.stack([normals_by_hand(row) for row in functional.philox_bits(seed, 9, 4).tolist()])
        single, double = (functional.philox_normal(seed, 9, 4, d) for d in (torch.float32, torch.float64))
        assert ((single - expected).abs() / ulp(expected)).max() <= MAX_ULP
        assert (double - expected).abs().max() <= MAX_ABSOLUTE_F64


@pytest.mark.parametrize("seed, index, word", EXTREME_WORDS, ids=lambda v: f"{v:x}" if v > 3 else str(v))
def test_extreme_words(seed: int, index: int, word: int, backend: str) -> None:
    bits = functional.philox_bits(seed, 1, 4)[0].tolist()
    assert bits[index] == word
    expected = normals_by_hand(bits)
    single, double = (functional.philox_normal(seed, 1, 4, d)[0] for d in (torch.float32, torch.float64))
    # the reference rounds the angle to float64, which near a zero of the cosine is coarser than a float32
    error = (single - expected).abs()
    allowed = MAX_ULP * ulp(expected) + (MAX_ABSOLUTE_F64 if backend == "reference" else 0)
    assert (error <= allowed).all(), f"{(error / ulp(expected)).tolist()} ulp"
    assert (double - expected).abs().max() <= MAX_ABSOLUTE_F64


@pytest.mark.parametrize("seed", [11, -3])
def test_ten_million_draws_against_float64(seed: int, backend: str) -> None:
    if backend == "reference":
        pytest.skip("it is the truth here, rounded")
    expected = many(seed)
    z = functional.philox_normal(seed, *expected.shape)
    error = (z - expected).abs() / ulp(expected)
    assert error.max() <= MAX_ULP
    assert (error > 2).double().mean() < 0.01
    double = functional.philox_normal(seed, *expected.shape, torch.float64)
    assert (double - expected).abs().max() <= MAX_ABSOLUTE_F64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_round_float32(dtype: torch.dtype, backend: str) -> None:
    z = functional.philox_normal(3, 65, 131, dtype)
    assert z.dtype == dtype
    rounded = functional.philox_normal(3, 65, 131).to(dtype)
    if backend == "reference":  # rounds once, from float64
        rounded = functional.philox_normal(3, 65, 131, torch.float64).to(dtype)
    assert torch.equal(z, rounded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "rows, cols", [(1, 1), (1, 2), (3, 5), (17, 23), (1, 1031), (1031, 1), (0, 3), (3, 0)]
)
def test_shapes(rows: int, cols: int, dtype: torch.dtype, backend: str) -> None:
    """Every element is the one of the padded matrix, and none is left unwritten."""
    z = functional.philox_normal(9, rows, cols, dtype)
    padded = functional.philox_normal(9, rows, (cols + 3) // 4 * 4, dtype)
    assert z.shape == (rows, cols)
    assert z.dtype == dtype
    assert z.is_contiguous()
    assert torch.equal(z, padded[:, :cols])
    assert torch.equal(z[: rows // 2], functional.philox_normal(9, rows // 2, cols, dtype))


class TestDistribution:
    """Statistics with fixed seeds over a million draws; no p-value below 1e-4, by Bonferroni's bound.

    On whichever backend is chosen here: the others are within ulps of it.
    """

    rows, cols = 1000, 1003

    def draw(self, seed: int) -> Tensor:
        return functional.philox_normal(seed, self.rows, self.cols).double()

    def holds(self, *scores: float) -> None:
        """Standardised scores, each N(0, 1) if the draws are what they should be."""
        p = [2 * stats.norm.sf(abs(z)) for z in scores]
        assert all(one > 1e-4 / len(p) for one in p), f"scores {[f'{z:.2f}' for z in scores]}"

    def test_moments(self) -> None:
        z = self.draw(1)
        n = z.numel()
        # E z^k = 0, 1, 0, 3 and Var z^k = 1, 2, 15, 96
        moments = ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96))
        self.holds(*[((z**k).mean().item() - mean) / math.sqrt(var / n) for k, mean, var in moments])

    def test_moments_of_every_column_of_a_group(self) -> None:
        """Cosine and sine, first and second pair: each a normal by itself."""
        z = self.draw(2)[:, :1000].reshape(-1, 4)
        n = z.shape[0]
        self.holds(*(z.mean(0) * math.sqrt(n)).tolist(), *(((z**2).mean(0) - 1) * math.sqrt(n / 2)).tolist())

    def test_kolmogorov_smirnov(self) -> None:
        z = self.draw(3).flatten().numpy()
        assert stats.kstest(z, "norm").pvalue > 1e-4

    def test_tails(self) -> None:
        z = self.draw(4).abs()
        n = z.numel()
        assert z.max() <= LARGEST * (1 + 1e-6)
        scores = []
        for threshold in (1.0, 2.0, 3.0, 4.0):
            p = 2 * stats.norm.sf(threshold)
            scores.append(((z > threshold).sum().item() - n * p) / math.sqrt(n * p * (1 - p)))
        self.holds(*scores)
        assert stats.poisson.cdf(int((z > 5).sum()), n * 2 * stats.norm.sf(5)) < 1 - 1e-4

    def test_lags(self) -> None:
        """No correlation of values or of squares with neighbours, along rows and across them."""
        z = self.draw(5)
        square = (z**2 - 1) / math.sqrt(2)
        scores = []
        for t in (z, square):
            pairs = [(t[:, :-lag], t[:, lag:]) for lag in (1, 2, 3, 4, 5, 8, 64)]
            pairs += [(t[:-lag], t[lag:]) for lag in (1, 2, 7)]
            scores += [(a * b).mean().item() * math.sqrt(a.numel()) for a, b in pairs]
        self.holds(*scores)

    @pytest.mark.parametrize("seed, other", [(6, 7), (0, 1), (6, 6 + 2**32), (6, 6 ^ 2**40), (6, -6)])
    def test_seeds_are_independent(self, seed: int, other: int) -> None:
        a, b = self.draw(seed), self.draw(other)
        n = a.numel()
        scores = [
            (x * y).mean().item() * math.sqrt(n) for x, y in ((a, b), (a[:-1], b[1:]), (a[:, 4:], b[:, :-4]))
        ]
        square = [((x**2 - 1) / math.sqrt(2)) for x in (a, b)]
        self.holds(*scores, (square[0] * square[1]).mean().item() * math.sqrt(n))

    def test_rows_of_consecutive_seeds_look_like_one_sample(self) -> None:
        """One draw a seed, as layers of one element do: seeds alone must make a sample."""
        z = torch.stack([functional.philox_normal(seed, 1, 4)[0] for seed in range(3000)]).double()
        assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
        n = z.shape[0]
        self.holds(*[(z[1:, i] * z[:-1, i]).mean().item() * math.sqrt(n - 1) for i in range(4)])


def test_largest_draw_is_finite(backend: str) -> None:
    """u = 2^-33 gives the largest radius, 6.7637."""
    z = functional.philox_normal(1836991927, 1, 4)[0, :2].double()
    assert torch.isclose(z.norm(), torch.tensor(LARGEST, dtype=torch.float64), rtol=1e-6)


def test_no_draw_is_exactly_zero(backend: str) -> None:
    """u is never 0 or 1 and the angle never a multiple of a quarter turn."""
    for seed, _, _ in EXTREME_WORDS:
        assert (functional.philox_normal(seed, 1, 4) != 0).all()
