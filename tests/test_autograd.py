"""The ops under autograd: finite differences, torch.func, checkpoint, what is saved, what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vdropkern import functional

from .cases import CASES, Case, leaves

FUSED = CASES["linear_lrt_kl-odd-log-uniform"]


def by_name(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=str)


@by_name([name for name in CASES if "odd" in name or "log_alpha[" in name or "kl-free" in name])
def test_gradcheck(case: Case, backend: str) -> None:
    """Finite differences in float64, every op and every form of its noise parameter."""
    tensors = leaves(case, torch.float64)
    tensors = {k: t.detach()[:3].requires_grad_() if k == "x" else t for k, t in tensors.items()}

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        return case.call(dict(zip(tensors, args, strict=True)))

    assert torch.autograd.gradcheck(run, tuple(tensors.values()), atol=1e-6, fast_mode=True)


def test_second_derivatives_are_refused(backend: str) -> None:
    """A clear error, also where the first gradient does not depend on anything: never a silent constant."""
    tensors = leaves(FUSED)
    mu = tensors["mu"]
    y, kl = FUSED.call(tensors)
    alone = functional.kl(mu, tensors["log_sigma2"])
    for loss in (y.sum(), (y**2).sum(), kl, alone):
        (g,) = torch.autograd.grad(loss, mu, create_graph=True, retain_graph=True)
        with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
            torch.autograd.grad(g.sum(), mu)

    def inner(m: Tensor) -> Tensor:
        return FUSED.call({**tensors, "mu": m})[0].pow(2).sum()

    with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
        torch.func.grad(lambda m: torch.func.grad(inner)(m).sum())(mu.detach())


@by_name(["linear_lrt-odd", "linear_lrt-log_alpha[37]", "kl-odd-ard", "kl-free-ard", FUSED.id])
def test_func_grad_equals_autograd(case: Case, backend: str) -> None:
    tensors = leaves(case)
    expected = torch.autograd.grad([t.sum() for t in case.call(tensors)], list(tensors.values()))

    def loss(values: dict[str, Tensor]) -> Tensor:
        return torch.stack([t.sum() for t in case.call(values)]).sum()

    found = torch.func.grad(loss)({k: t.detach() for k, t in tensors.items()})
    for name, e in zip(tensors, expected, strict=True):
        assert torch.equal(found[name], e), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint(reentrant: bool, backend: str) -> None:
    """The recomputed forward draws the same seed, so gradients equal those without checkpointing."""
    tensors = leaves(CASES["linear_lrt-odd"])

    def run(x: Tensor) -> Tensor:
        h = functional.linear_lrt(**{**tensors, "x": x})
        return functional.linear_lrt(h, tensors["mu"][:, :11], tensors["log_sigma2"][:, :11]).relu()

    def gradients(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        torch.manual_seed(12)
        return torch.autograd.grad(function(tensors["x"]).sum(), list(tensors.values()))

    plain = gradients(run)
    if reentrant:  # works with backward() alone
        torch.manual_seed(12)
        checkpoint(run, tensors["x"], use_reentrant=True).sum().backward()
        found = [t.grad for t in tensors.values()]
    else:
        found = [*gradients(lambda x: checkpoint(run, x, use_reentrant=False))]
    for name, f, p in zip(tensors, found, plain, strict=True):
        assert f is not None and torch.equal(f, p), name


@by_name([FUSED.id, "linear_lrt-log_alpha[11x37]", "linear_lrt-blocked"])
def test_saved_for_backward(case: Case, backend: str) -> None:
    """Beyond the parameters: x, the standard deviation in float32 and the seed. No noise, no sigma^2."""
    tensors = leaves(case)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        outputs = case.call(tensors)
    known = {t.data_ptr(): k for k, t in tensors.items()}
    beyond = [t for t in saved if known.get(t.data_ptr(), "x") == "x"]
    rows, out = outputs[0].shape
    assert {known[t.data_ptr()] for t in saved if t.data_ptr() in known} == tensors.keys() - {"bias"}
    assert sorted((tuple(t.shape), t.dtype) for t in beyond) == sorted(
        [
            (tuple(tensors["x"].shape), torch.float32),
            ((rows, out), torch.float32),
            ((), torch.int64),
        ],
        key=lambda item: item[0],
    )


def test_nothing_is_saved_by_kl(backend: str) -> None:
    tensors = leaves(CASES["kl-odd-log-uniform"])
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        functional.kl(**tensors)
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in tensors.values()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_meta(dtype: torch.dtype, backend: str) -> None:
    """On meta tensors every function gives shapes and dtypes, and computes nothing."""
    for name in (FUSED.id, "linear_lrt-log_alpha[37]", "linear_lrt-empty_leading", "kl-conv"):
        case = CASES[name]
        real = case.call(case.make(dtype))
        seed = {"seed": torch.empty((), dtype=torch.int64, device="meta")} if case.noisy else {}
        for found, expected in zip(case.call(case.make(dtype, "meta"), **seed), real, strict=True):
            assert found.is_meta
            assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert functional.linear_lrt(**CASES["linear_lrt-odd"].make(dtype, "meta")).shape == (5, 11)
    seed_on_meta = torch.empty((), dtype=torch.int64, device="meta")
    assert functional.philox_normal(seed_on_meta, 3, 5).shape == (3, 5)


@by_name([name for name in CASES if "odd" in name])
def test_vmap_equals_a_loop(case: Case, backend: str) -> None:
    """Ensembles and gradients by example: a call for each slice, values and gradients to the bit."""
    names, tensors = list(leaves(case)), [t.detach() for t in leaves(case).values()]
    stacked = [torch.stack([t, t / 2, t * 1.5]) for t in tensors]

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        return case.call(dict(zip(names, args, strict=True)))

    def loss(*args: Tensor) -> Tensor:
        return torch.stack([y.square().sum() for y in run(*args)]).sum()

    gradients = torch.func.grad(loss, argnums=tuple(range(len(tensors))))
    for of in (run, gradients):
        expected = [of(*slices) for slices in zip(*stacked, strict=True)]
        for found, parts in zip(torch.vmap(of)(*stacked), zip(*expected, strict=True), strict=True):
            assert torch.equal(found, torch.stack(parts))
    shared = torch.vmap(run, in_dims=(0, *(None,) * (len(tensors) - 1)))(stacked[0], *tensors[1:])
    assert torch.equal(shared[0][1], run(stacked[0][1], *tensors[1:])[0])
