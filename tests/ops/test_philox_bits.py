"""philox_bits: the published generator, addressed as documented, equal to the bit on every backend."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from vdropkern import functional
from vdropkern.ops.philox_bits.reference import philox4x32

# Random123's kat_vectors, "philox4x32 10": counter, key, result
KNOWN_ANSWERS = (
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
)
SEEDS = (0, 1, -1, 2**31, -(2**31), 2**32, 2**63 - 1, -(2**63), 0x299F31D0A4093822)
SHAPES = ((1, 1), (1, 4), (3, 5), (7, 8), (16, 33), (5, 1031), (1031, 3))


def words(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def philox_by_hand(counter: int, seed: int) -> list[int]:
    """Philox4x32-10 in Python integers, from the paper's figure: counter (128 bits), seed (64 bits)."""
    c = [counter >> 32 * i & 0xFFFFFFFF for i in range(4)]
    k = [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF]
    for _ in range(10):
        left, right = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [right >> 32 ^ c[1] ^ k[0], right & 0xFFFFFFFF, left >> 32 ^ c[3] ^ k[1], left & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


@pytest.mark.parametrize("counter, key, result", KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_known_answers(counter: str, key: str, result: str) -> None:
    k0, k1 = words(key)
    found = philox4x32(tuple(map(torch.tensor, words(counter))), (torch.tensor(k0), torch.tensor(k1)))
    assert tuple(int(word) for word in found) == words(result)
    whole = sum(word << 32 * i for i, word in enumerate(words(counter)))
    assert tuple(philox_by_hand(whole, k0 | k1 << 32)) == words(result)


@pytest.mark.parametrize("counter, key, result", KNOWN_ANSWERS, ids=["zeros", "ones", "pi"])
def test_known_answers_of_the_shared_header(counter: str, key: str, result: str) -> None:
    host_math = pytest.importorskip("vdropkern_host_math", reason="the headers' test module is not built")
    k0, k1 = words(key)
    found = host_math.philox4x32([words(counter)], k0 | k1 << 32)
    assert tuple(int(word) for word in found[0]) == words(result)


def test_first_known_answer_through_the_op(backend: str) -> None:
    assert tuple(functional.philox_bits(0, 1, 4)[0].tolist()) == words(KNOWN_ANSWERS[0][2])


@pytest.mark.parametrize("seed", SEEDS)
def test_addressing(seed: int, backend: str) -> None:
    """bits[r, c] is word c % 4 of counter r * ceil(cols / 4) + c // 4, whatever the shape."""
    for rows, cols in SHAPES:
        bits = functional.philox_bits(seed, rows, cols)
        assert bits.shape == (rows, cols)
        assert bits.dtype == torch.int64
        assert bits.is_contiguous()
        groups = math.ceil(cols / 4)
        for r, c in {(0, 0), (0, cols - 1), (rows // 2, cols // 2), (rows - 1, 0), (rows - 1, cols - 1)}:
            assert bits[r, c] == philox_by_hand(r * groups + c // 4, seed)[c % 4], f"element ({r}, {c})"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 40), st.integers(1, 40), st.data())
def test_reference_equals_hand_computation(seed: int, rows: int, cols: int, data: st.DataObject) -> None:
    r, c = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, cols - 1))
    bits = functional.philox_bits(seed, rows, cols)
    assert bits[r, c] == philox_by_hand(r * math.ceil(cols / 4) + c // 4, seed)[c % 4]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_bit_equals_the_reference(seed: int, backend: str) -> None:
    from vdropkern.ops.philox_bits.reference import philox_bits as reference

    for rows, cols in (*SHAPES, (67, 129), (2, 4096), (300, 301)):
        expected = reference(torch.tensor(seed), rows, cols)
        assert torch.equal(functional.philox_bits(seed, rows, cols), expected), f"{rows} x {cols}"


def test_prefixes(backend: str) -> None:
    """More rows, or columns inside the same group of four, leave the elements before them as they are."""
    bits = functional.philox_bits(5, 40, 20)
    assert torch.equal(functional.philox_bits(5, 11, 20), bits[:11])
    for cols in (17, 18, 19):
        assert torch.equal(functional.philox_bits(5, 40, cols), bits[:, :cols])
    # one group more: the counter's rows move, and only the first row stays
    wider = functional.philox_bits(5, 40, 21)
    assert torch.equal(wider[0, :20], bits[0])
    assert not (wider[1:, :20] == bits[1:]).any(dim=1).all()


@pytest.mark.parametrize("rows, cols", [(0, 5), (5, 0), (0, 0)])
def test_empty(rows: int, cols: int, backend: str) -> None:
    assert functional.philox_bits(1, rows, cols).shape == (rows, cols)


def test_range(backend: str) -> None:
    bits = functional.philox_bits(11, 257, 1025)
    assert bits.min() >= 0
    assert bits.max() < 2**32
    assert bits.max() >= 2**31


def two_sided(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def ones_per_position(bits: Tensor) -> Tensor:
    return torch.stack([(bits >> i & 1).sum() for i in range(32)]).double()


class TestQuality:
    """Statistics with fixed seeds. Every test looks at p-values; none may be below 1e-4 over all it tries."""

    rows, cols = 1000, 1000

    def p_values_hold(self, p: Tensor, worst: float = 1e-4) -> None:
        """No p-value of n independent ones is below worst / n (Bonferroni)."""
        assert p.min() > worst / p.numel(), f"smallest of {p.numel()} p-values: {p.min():.2e}"

    def test_bit_positions_are_fair(self) -> None:
        bits = functional.philox_bits(101, self.rows, self.cols)
        n = bits.numel()
        z = (ones_per_position(bits) - n / 2) / math.sqrt(n / 4)
        self.p_values_hold(torch.tensor([two_sided(v) for v in z.tolist()]))

    def test_bytes_are_uniform(self) -> None:
        bits = functional.philox_bits(102, self.rows, self.cols)
        counts = [torch.bincount((bits >> shift & 0xFF).flatten(), minlength=256) for shift in (0, 8, 16, 24)]
        self.p_values_hold(torch.tensor([stats.chisquare(c.numpy()).pvalue for c in counts]))

    def test_pairs_of_neighbours_are_uniform(self) -> None:
        """Top four bits of an element and of its neighbour: 256 equally likely pairs, at several lags."""
        top = functional.philox_bits(103, self.rows, self.cols) >> 28
        p = []
        for lag in (1, 2, 3, 4, 5, 8):
            pairs = top[:, :-lag].flatten() * 16 + top[:, lag:].flatten()
            p.append(stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue)
        for lag in (1, 2, 7):
            pairs = top[:-lag].flatten() * 16 + top[lag:].flatten()
            p.append(stats.chisquare(torch.bincount(pairs, minlength=256).numpy()).pvalue)
        self.p_values_hold(torch.tensor(p))

    @pytest.mark.parametrize("bit", [0, 1, 31, 32, 33, 62, 63])
    def test_seeds_one_bit_apart_share_nothing(self, bit: int) -> None:
        """Avalanche: half of the output bits differ, at every position."""
        seed = 0x0123456789ABCDEF
        other = seed ^ (1 << bit)
        other -= 2**64 if other >= 2**63 else 0
        n = 300 * 300
        flipped = functional.philox_bits(seed, 300, 300) ^ functional.philox_bits(other, 300, 300)
        z = (ones_per_position(flipped) - n / 2) / math.sqrt(n / 4)
        self.p_values_hold(torch.tensor([two_sided(v) for v in z.tolist()]))

    def test_no_word_repeats_more_than_chance(self) -> None:
        """Birthdays: a million words hold n^2 / 2^33 = 116 coinciding pairs, give or take."""
        sorted_bits = functional.philox_bits(104, self.rows, self.cols).flatten().sort().values
        pairs = int((sorted_bits[1:] == sorted_bits[:-1]).sum())
        expected = sorted_bits.numel() ** 2 / 2**33
        assert two_sided((pairs - expected) / math.sqrt(expected)) > 1e-4

    def test_no_group_repeats_across_seeds_and_counters(self) -> None:
        first_words = torch.cat(
            [functional.philox_bits(seed, 200, 400)[:, ::4].flatten() for seed in range(8)]
        )
        second_words = torch.cat(
            [functional.philox_bits(seed, 200, 400)[:, 1::4].flatten() for seed in range(8)]
        )
        both = (first_words << 32) ^ second_words
        assert both.unique().numel() == both.numel()
