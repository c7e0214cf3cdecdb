"""kl in CUDA, on the emulated GPU: values, gradients, bounds and traffic against the float64 truth."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, Case, select
from tests.emulator import SCHEDULES, emulated, memory, misaligned, prior_code
from tests.plain import truth
from tests.tolerance import assert_close, compute_dtype, tolerance
from vdropkern.functional import PRIORS
from vdropkern.ops.kl import LOG_ALPHA_PRIORS

gpu = emulated()
GRAD = -0.75
HALVES = (torch.bfloat16, torch.float16)
KL_CASES = [case for case in select("kl-") if case.id != "kl-large"]


def run(
    tensors: Mapping[str, Tensor], prior: str, *, grads: bool, offset: int = 0
) -> tuple[dict[str, Tensor], dict[str, tuple[int, int]]]:
    """(outputs under the names of `plain.truth`, bytes loaded and stored by tensor)."""
    log_name = "log_alpha" if "log_alpha" in tensors else "log_sigma2"
    log, mu = tensors[log_name], tensors.get("mu")
    n, dtype = log.numel(), log.dtype
    computed = compute_dtype(dtype)
    with memory(gpu) as m:
        value, to_value = m.output("value", (1,), computed)
        _, to_workspace = m.output("workspace", (gpu.kl_workspace(n),), computed)
        d_log, to_d_log = m.output("d_log", tuple(log.shape), dtype, offset) if grads else (None, None)
        d_mu, to_d_mu = (
            m.output("d_mu", tuple(log.shape), dtype, offset) if grads and mu is not None else (None,) * 2
        )
        getattr(gpu, f"kl_{str(dtype).removeprefix('torch.')}")(
            None if mu is None else m.input("mu", misaligned(mu, offset)),
            m.input("log", misaligned(log, offset)),
            n,
            *prior_code(prior),
            m.input("grad", torch.tensor(GRAD, dtype=computed)) if grads else None,
            to_d_mu,
            to_d_log,
            to_value,
            to_workspace,
        )
        outputs = {"kl": value[0], "d_mu": d_mu, f"d_{log_name}": d_log}
        return {name: t for name, t in outputs.items() if t is not None}, m.traffic()


def check(case: Case, dtype: torch.dtype, *, grads: bool, offset: int) -> None:
    tensors = case.make(dtype)
    found, _ = run(tensors, case.options["prior"], grads=grads, offset=offset)
    expected = truth(case, tensors, (torch.tensor(GRAD, dtype=compute_dtype(dtype)),))
    assert set(found) == (set(expected) if grads else {"kl"})
    for name, t in found.items():
        value, magnitude, length = expected[name]
        assert_close(t, value, magnitude, length, f"{case} {name}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["fp32", "fp64"])
@pytest.mark.parametrize("case", KL_CASES, ids=str)
def test_values_and_gradients(case: Case, dtype: torch.dtype) -> None:
    for seed in SCHEDULES:
        gpu.configure(seed)
        check(case, dtype, grads=True, offset=0)
    check(case, dtype, grads=False, offset=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("case", select("kl-odd", "kl-free", "kl-scalar", "kl-conv"), ids=str)
def test_half_types(case: Case, dtype: torch.dtype) -> None:
    """Read and written as they lie, computed in float, rounded once."""
    if dtype == torch.float16 and "kingma" in case.id and "log_alpha" not in case.tensors:
        pytest.skip("a cubic in alpha that float16 does not hold")
    for offset in (0, 1, 4):
        gpu.configure(SCHEDULES[offset % 3])
        check(case, dtype, grads=True, offset=offset)
        check(case, dtype, grads=False, offset=offset)


@pytest.mark.parametrize("offset", [1, 3])
@pytest.mark.parametrize("case", select("kl-odd", "kl-free", "kl-scalar", "kl-conv"), ids=str)
def test_any_alignment(case: Case, offset: int) -> None:
    check(case, torch.float32, grads=True, offset=offset)
    check(case, torch.float32, grads=False, offset=offset)


def test_two_stages() -> None:
    """More than one tile: partial sums, the last tile ragged."""
    check(CASES["kl-large"], torch.float32, grads=True, offset=0)


@pytest.mark.parametrize("prior", LOG_ALPHA_PRIORS)
def test_same_bits_under_every_schedule(prior: str) -> None:
    tensors = {"log_alpha": -torch.rand(10_001) * 6}
    values = []
    for seed in SCHEDULES:
        gpu.configure(seed)
        values.append(run(tensors, prior, grads=False)[0]["kl"])
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("n", [0, 1, 3, 4, 2047, 2048, 2049, 70_000])
def test_moves_every_byte_once(n: int, dtype: torch.dtype) -> None:
    """Operands are read once and gradients written once; the partial sums are all there is beside them."""
    tensors = {"mu": (torch.randn(n) * 0.05).to(dtype), "log_sigma2": (torch.rand(n) * 8 - 10).to(dtype)}
    partial = 4 * -(-n // 2048)
    stages = (0, 0) if n and n <= 2048 else (partial, partial)
    size = dtype.itemsize
    found, traffic = run(tensors, "log-uniform", grads=True)
    assert traffic["mu"] == traffic["log"] == (size * n, 0)
    assert traffic["d_mu"] == traffic["d_log"] == (0, size * n)
    assert traffic["value"] == (0, 4)
    assert traffic["workspace"] == stages
    assert torch.isfinite(found["d_mu"]).all()
    _, traffic = run(tensors, "log-uniform", grads=False)
    assert traffic["mu"] == traffic["log"] == (size * n, 0)


@pytest.mark.parametrize("name", ["mu", "log_sigma2"])
@pytest.mark.parametrize("prior", PRIORS)
def test_nan_is_not_swallowed(prior: str, name: str) -> None:
    tensors = CASES[f"kl-odd-{prior}"].make()
    tensors[name][3, 5] = torch.nan
    found, _ = run(tensors, prior, grads=True)
    assert found["kl"].isnan()
    assert found[f"d_{name}"][3, 5].isnan()
    assert found[f"d_{name}"].isnan().sum() == 1


def test_million_weights_sum_without_drift() -> None:
    """A million equal terms, whose roundings all go one way."""
    la = torch.full((1_000_003,), 0.3)
    one = run({"log_alpha": la[:1].double()}, "log-uniform", grads=False)[0]["kl"]
    found = run({"log_alpha": la}, "log-uniform", grads=False)[0]["kl"].double()
    assert abs(found / (one * la.numel()) - 1) < tolerance(torch.float32, 512)
