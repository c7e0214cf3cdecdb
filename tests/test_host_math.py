"""The C++ headers' math: its scalar side, of which vector kernels and GPU code are made, and the vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vdropkern._backend import cpu_isas

host_math = pytest.importorskip("vdropkern_host_math", reason="the headers' test module is not built")

ULP = 2.0  # what csrc/common/elementary.h promises


def ulps(found: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units in the last place of the correctly rounded float32 result."""
    assert found.dtype == np.float32
    return float(np.max(np.abs(found - exact) / np.spacing(np.abs(exact).astype(np.float32))))


SCALAR = ("exp_f32", "log_f32", "log1p_unit")
VECTORS = [[f"{name}_{isa}" for name in ("exp", "log", "log1p_unit")] for isa in cpu_isas()]
EXP, LOG, LOG1P = (list(names) for names in zip(SCALAR, *VECTORS, strict=True))


@pytest.mark.parametrize("name", EXP)
def test_exp(name: str):
    x = np.linspace(-87, 88, 2_000_003, dtype=np.float32)
    assert ulps(getattr(host_math, name)(x), np.exp(x.astype(np.float64))) <= ULP


@pytest.mark.parametrize("name", EXP)
def test_exp_clamps_to_normal_finite_numbers(name: str):
    exp = getattr(host_math, name)
    x = np.array([-np.inf, -1000, -87.5, 88.5, 1000, np.inf], dtype=np.float32)
    low, high = exp(np.array([-87, 88], dtype=np.float32))
    assert exp(x).tolist() == [low] * 3 + [high] * 3
    assert np.finfo(np.float32).tiny <= low < high <= np.finfo(np.float32).max


@pytest.mark.parametrize("name", LOG)
def test_log(name: str):
    x = np.exp(np.linspace(-87, 88, 2_000_003)).astype(np.float32)
    near_one = np.float32(1) + np.arange(-(2**16), 2**16).astype(np.float32) * np.float32(2**-23)
    log = getattr(host_math, name)
    for values in (x, near_one[near_one != 1]):
        assert ulps(log(values), np.log(values.astype(np.float64))) <= ULP
    assert log(np.ones(1, dtype=np.float32)) == 0


@pytest.mark.parametrize("name", LOG1P)
def test_log1p_on_the_unit_interval(name: str):
    x = np.concatenate([np.linspace(0, 1, 1_000_003), 2.0 ** -np.arange(1, 120)]).astype(np.float32)
    x = x[x > 0]
    log1p = getattr(host_math, name)
    assert ulps(log1p(x), np.log1p(x.astype(np.float64))) <= ULP
    assert log1p(np.zeros(1, dtype=np.float32)) == 0


@pytest.mark.parametrize("name", EXP + LOG)
def test_nan_stays_nan(name: str):
    payloads = np.array([0x7FC00000, 0x7FFFFFFF, 0xFFC00000, 0x7FC12345], dtype=np.uint32).view(np.float32)
    assert np.isnan(getattr(host_math, name)(payloads)).all()


# the ends, the quarters of a turn and their neighbours, the switch between both formulas, and many others
EDGES = [
    (base + step) % 2**32
    for base in (0, 1 << 29, 1 << 30, 3 << 29, 1 << 31, 3 << 30, 7 << 29, 0xB504F334)
    for step in range(-3, 4)
]
BITS = np.concatenate(
    [
        np.array(EDGES, dtype=np.uint32),
        np.random.default_rng(0).integers(0, 2**32, 1_000_000, dtype=np.uint32),
    ]
)
U = (BITS.astype(np.float64) + 0.5) * 2.0**-32


@pytest.mark.parametrize("name", ["minus_two_log", "minus_two_log_of_vector"])
def test_minus_two_log_of_a_uniform(name: str):
    exact = -2 * np.log(U)
    near_one = U > 1 - 2.0**-10  # where the logarithm of the rounded u would have lost everything
    exact[near_one] = -2 * np.log1p(-((~BITS[near_one]).astype(np.float64) + 0.5) * 2.0**-32)
    found = getattr(host_math, name)(BITS)
    assert np.all(found > 0)
    assert ulps(found, exact) <= 2 * ULP


def test_cos_and_sin_of_a_turn():
    angle = 2 * math.pi * U
    assert np.max(np.abs(host_math.cos_turn(BITS) - np.cos(angle))) <= 2.0**-23
    assert np.max(np.abs(host_math.sin_turn(BITS) - np.sin(angle))) <= 2.0**-23


def test_box_muller_pairs_radius_and_angle():
    words = np.random.default_rng(1).integers(0, 2**32, (100_000, 4), dtype=np.uint32)
    u = (words.astype(np.float64) + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2 * np.log(u[:, ::2])), 2 * math.pi * u[:, 1::2]
    exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1).reshape(-1, 4)
    assert np.max(np.abs(host_math.box_muller_f64(words) - exact)) <= 1e-14
    # the radius is at most 6.77; both factors carry a few units in the last place
    assert np.max(np.abs(host_math.box_muller(words) - exact)) <= 7 * 2.0**-22


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers of Random123's kat_vectors
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, 2**64 - 1, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            0x299F31D0_A4093822,
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter: list[int], key: int, words: list[int]):
    assert host_math.philox4x32(np.array([counter], dtype=np.uint32), key).tolist() == [words]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"words must be \[n, 4\]"):
        host_math.box_muller(np.zeros((3, 5), dtype=np.uint32))
