"""weight_mask: which weights are candidates, which of them go, and the gradient."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.cases import LAYOUTS, lay_out
from vdropkern import functional
from vdropkern._backend import use_backend
from vdropkern.functional import GRANULARITIES

SEED = 0x1234_5678_9ABC_DEF1
SHAPES = [
    (1, 1),
    (1, 7),
    (7, 1),
    (5, 37),
    (33, 64),
    (9, 65),
    (3, 1000),
    (64, 3),
    (6, 4, 3, 3),
    (8, 5, 3),
    (9,),
]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def weights(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def by_sorting(w: Tensor, gamma: float) -> Tensor:
    """Candidates as the paper's code finds them: below the sorted row's element of index int(gamma n)."""
    magnitude = w.abs().flatten(1)
    rising, index = magnitude.sort(1).values, int(gamma * magnitude.shape[1] + 1e-9)
    if index == magnitude.shape[1]:
        return torch.ones_like(w, dtype=torch.bool)
    return (magnitude < rising[:, index : index + 1]).reshape(w.shape)


def dropped(w: Tensor, gamma: float, alpha: float = 1.0, **options: Any) -> Tensor:
    masked = functional.weight_mask(w, gamma, alpha, **options)
    gone = masked == 0
    assert torch.equal(masked, w.masked_fill(gone, 0.0))  # what stays is not rescaled
    return gone


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1], ids=str)
def test_smallest_of_each_output(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    w = weights(*shape, dtype=dtype)
    for gamma in (0.0, 0.01, 0.29, 0.5, 0.9, 0.99, 1.0):
        assert torch.equal(dropped(w, gamma), by_sorting(w, gamma) & (w != 0)), gamma


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backends_agree_to_the_bit(shape: tuple[int, ...], granularity: str, backend: str) -> None:
    for dtype in DTYPES:
        w = weights(*shape, dtype=dtype)
        found = functional.weight_mask(w, 0.6, 0.5, granularity=granularity, seed=SEED)
        thresholds = functional.weight_thresholds(w, 0.6, granularity=granularity)
        with use_backend("reference"):
            assert torch.equal(found, functional.weight_mask(w, 0.6, 0.5, granularity=granularity, seed=SEED))
            assert torch.equal(thresholds, functional.weight_thresholds(w, 0.6, granularity=granularity))
        assert found.dtype == dtype
        assert thresholds.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def far_norms() -> Tensor:
    """Rows whose squares leave float32's range; norms of neighbours differ in the last bits."""
    w = weights(40, 70) * torch.exp2(torch.arange(-110.0, 110.0, 5.5))[:, None]
    w[20:] = w[19] * (1 + torch.arange(20.0)[:, None] * 2.0**-24)
    return w


def hard_rows() -> dict[str, Tensor]:
    """Rows that mislead a search by interpolation."""
    n = 517
    g = torch.Generator().manual_seed(3)
    mostly_zero = torch.randn(n, generator=g).masked_fill(torch.rand(n, generator=g) < 0.7, 0.0)
    powers = torch.exp2(torch.randint(-149, 127, (n,), generator=g).double()).float()
    return {
        "zeros": torch.zeros(n),
        "negative zeros": torch.zeros(n).neg(),
        "one value": torch.full((n,), -0.25),
        "mostly zero": mostly_zero,
        "every power of two": powers,
        "two clusters": torch.cat([torch.full((n // 2,), 1e-30), torch.full((n - n // 2,), 1e30)]),
        "denormal": torch.arange(n) * 1.4e-45,
        "neighbours": (1.0 + torch.arange(n) * 2.0**-23)[torch.randperm(n, generator=g)],
        "few values": torch.randint(-3, 4, (n,), generator=g).float(),
        "one giant": torch.cat([torch.randn(n - 1, generator=g) * 1e-20, torch.tensor([3e38])]),
        "infinite": torch.randn(n, generator=g).masked_fill(torch.rand(n, generator=g) < 0.3, -math.inf),
        "nan": torch.randn(n, generator=g).masked_fill(torch.rand(n, generator=g) < 0.3, math.nan),
        "only nan": torch.full((n,), math.nan),
        "geometric": torch.exp(-torch.arange(n) * 0.2),
    }


@pytest.mark.parametrize("name", hard_rows())
def test_selection_is_exact(name: str, backend: str) -> None:
    """Every order statistic of a hard row, in float32 and float64."""
    for dtype in (torch.float32, torch.float64):
        row = hard_rows()[name].to(dtype)
        n = row.numel()
        rising = row.abs().nan_to_num(math.inf, math.inf).sort().values
        for k in [*range(0, n, 23), 1, 2, n - 2, n - 1, n]:
            found = functional.weight_thresholds(row[None], torch.tensor(k / n, dtype=torch.float64))
            assert found.item() == (rising[k].item() if k < n else math.inf), k


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_what_is_not_finite_stays(granularity: str, value: float, backend: str) -> None:
    """A net that diverges must be seen to, also where everything is to be dropped."""
    w = weights(5, 21)
    w[2, 3] = value
    masked = functional.weight_mask(w, 1.0, granularity=granularity)
    expected = torch.zeros_like(w)
    expected[2] = 0 if granularity == "weight" else w[2]
    expected[2, 3] = value
    torch.testing.assert_close(masked, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_nothing_to_do(granularity: str, backend: str) -> None:
    """gamma = 0 or alpha = 0 leave everything, whatever the seed."""
    w = weights(9, 33)
    for gamma, alpha in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0)):
        assert torch.equal(functional.weight_mask(w, gamma, alpha, granularity=granularity), w)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_share_that_is_kept(granularity: str, backend: str) -> None:
    """1 - gamma alpha of the weights stay; of a unit all or, element by element, a part."""
    w, gamma, alpha = weights(400, 250), 0.75, 0.4
    gone = dropped(w, gamma, alpha, granularity=granularity, seed=5)
    n = w.shape[0] if granularity == "unit" else w.numel()
    candidates = gamma * n
    deviation = math.sqrt(candidates * alpha * (1 - alpha)) / n
    assert abs(gone.double().mean() - gamma * alpha) < 3 * deviation + 1e-9
    whole = gone.all(1) | ~gone.any(1)
    assert whole.all() == (granularity == "unit")


@pytest.mark.parametrize("shape", [(31, 12), (16, 3, 3, 3)], ids=str)
def test_smallest_units(shape: tuple[int, ...], backend: str) -> None:
    w = weights(*shape)
    norms = w.double().flatten(1).square().sum(1)
    for gamma in (0.0, 0.3, 0.5, 1.0):
        expected = torch.zeros(shape[0], dtype=torch.bool)
        expected[norms.argsort()[: int(gamma * shape[0] + 1e-9)]] = True
        for granularity in GRANULARITIES[1:]:
            gone = dropped(w, gamma, granularity=granularity)
            assert torch.equal(gone.flatten(1).all(1), expected)
            assert torch.equal(gone.flatten(1).any(1), expected)


def test_ties_stay(backend: str) -> None:
    """Candidates are strictly below: among equals nobody is one."""
    w = torch.tensor([[1.0, -1.0, 1.0, 1.0], [0.5, 1.0, -1.0, 1.0]])
    assert torch.equal(dropped(w, 0.5), torch.tensor([[False] * 4, [True, False, False, False]]))
    assert not dropped(torch.ones(6, 5), 0.5, granularity="unit").any()


def test_share_is_rounded_as_people_count(backend: str) -> None:
    """0.29 of 100 are 29, though 0.29 * 100 is less in float64, and 0.53 * 100 in float32."""
    w = weights(1, 100)
    for hundredths in range(101):
        for dtype in (torch.float32, torch.float64):
            gamma = torch.tensor(hundredths / 100, dtype=dtype)
            assert functional.weight_mask(w, gamma).count_nonzero() == 100 - hundredths


def test_gamma_and_alpha_as_tensors(backend: str) -> None:
    w = weights(7, 40)
    found = functional.weight_mask(w, torch.tensor(0.3), torch.tensor([0.6]), seed=4)
    assert torch.equal(found, functional.weight_mask(w, 0.3, 0.6, seed=4))
    assert torch.equal(functional.weight_mask(w, torch.tensor(1.5), torch.tensor(7.0)), torch.zeros_like(w))
    assert torch.equal(functional.weight_mask(w, torch.tensor(-1.0), torch.tensor(1.0)), w)
    assert torch.equal(functional.weight_mask(w, torch.tensor(1.0), torch.tensor(-1.0)), w)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, backend: str) -> None:
    w = lay_out(weights(9, 30), layout)
    grad = lay_out(torch.randn(9, 30), layout)
    for granularity in GRANULARITIES:
        leaf = w.detach().requires_grad_()
        masked = functional.weight_mask(leaf, 0.5, 0.5, granularity=granularity, seed=SEED)
        dense = functional.weight_mask(w.contiguous(), 0.5, 0.5, granularity=granularity, seed=SEED)
        assert torch.equal(masked, dense)
        assert masked.is_contiguous()
        (found,) = torch.autograd.grad(masked, leaf, grad)
        assert torch.equal(found, grad.masked_fill((dense == 0) & (w != 0), 0.0))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_empty(granularity: str, shape: tuple[int, ...], backend: str) -> None:
    w = torch.empty(shape, requires_grad=True)
    masked = functional.weight_mask(w, 0.5, 0.5, granularity=granularity)
    assert masked.shape == w.shape
    assert torch.autograd.grad(masked.sum(), w)[0].shape == w.shape
    assert torch.equal(functional.weight_thresholds(w, 0.5, granularity=granularity), torch.zeros(shape[0]))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_gradients(granularity: str, backend: str) -> None:
    """The mask is a constant, drawn again: linear, so that it may be differentiated again."""
    w = weights(5, 9, dtype=torch.float64).requires_grad_()
    call = functools.partial(functional.weight_mask, gamma=0.6, alpha=0.5, granularity=granularity, seed=SEED)
    masked = call(w)
    (grad,) = torch.autograd.grad(masked.sum(), w)
    assert torch.equal(grad, (masked != 0).double())
    assert torch.equal(torch.func.grad(lambda t: call(t).sum())(w.detach()), grad)
    assert torch.autograd.gradcheck(call, (w,))
    assert torch.autograd.gradgradcheck(call, (w,))


def test_saves_no_mask(backend: str) -> None:
    saved: list[Tensor] = []
    w = weights(64, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.weight_mask(w, 0.5, 0.5)
    others = [t for t in saved if t.data_ptr() != w.data_ptr()]
    assert sorted(tuple(t.shape) for t in others) == [(), (), (64,)]


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_opcheck(granularity: str) -> None:
    w, share = weights(3, 5), torch.tensor(0.5, dtype=torch.float64)
    args = (share, torch.tensor(SEED), granularity)
    torch.library.opcheck(torch.ops.vdropkern.weight_mask.default, (w, share, *args))
    threshold = functional.weight_thresholds(w, 0.5, granularity=granularity)
    torch.library.opcheck(torch.ops.vdropkern.weight_mask_grad.default, (w, w, threshold, *args))


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(backend: str) -> None:
    w = weights(301, 257)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found += [functional.weight_mask(w, 0.5, 0.5, granularity=g, seed=1) for g in GRANULARITIES]
    assert all(torch.equal(a, b) for a, b in zip(found[:3], found[3:], strict=True))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_compile_without_recompiling_for_a_ramp() -> None:
    torch._dynamo.reset()
    w = weights(8, 30).requires_grad_()

    def run(w: Tensor, gamma: Tensor, alpha: Tensor) -> Tensor:
        return functional.weight_mask(w, gamma, alpha, seed=3)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for share in (0.1, 0.5, 0.9):
            gamma = torch.tensor(share, dtype=torch.float64)
            found, expected = compiled(w, gamma, gamma), run(w, gamma, gamma)
            assert torch.equal(found, expected)
            assert torch.equal(
                torch.autograd.grad(found.sum(), w)[0], torch.autograd.grad(expected.sum(), w)[0]
            )


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"gamma": 1.1}, r"gamma must be in \[0, 1\], got 1.1"),
        ({"gamma": -0.1}, r"gamma must be in \[0, 1\], got -0.1"),
        ({"alpha": math.nan}, r"alpha must be in \[0, 1\], got nan"),
        ({"gamma": torch.tensor([0.1, 0.2])}, "gamma must be a number or a floating tensor of one element"),
        ({"alpha": torch.tensor(1)}, "alpha must be a number or a floating tensor of one element"),
        ({"granularity": "column"}, "unknown granularity 'column'; accepted: weight, unit, unit-element"),
        ({"w": torch.ones(2, dtype=torch.int64)}, "w must be floating"),
        ({"w": torch.ones(())}, r"w must be floating \[O, ...\]"),
        ({"seed": 2**64}, "seed must fit in 64 signed bits"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"weight_mask: {said}"):
        functional.weight_mask(**{"w": torch.ones(2, 3), "gamma": 0.5, **arguments})
