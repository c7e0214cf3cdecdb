"""weight_noise in CUDA, on the emulated GPU, against the formula in float64, and what it moves."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from tests.tolerance import assert_close, compute_dtype

from .test_weight_noise import SEED, make, truth

gpu = emulated()
SHAPES = ((1, 1), (5, 37), (33, 64), (3, 2050), (70, 3), (0, 4), (4, 0))
Bytes = dict[str, tuple[int, int]]


def on_gpu(
    tensors: dict[str, Tensor], grad: Tensor | None, offset: int = 0
) -> tuple[dict[str, Tensor], Bytes]:
    """({value}, or gradients by the names of `truth`, bytes loaded and stored by tensor)."""
    name = "log_sigma2" if "log_sigma2" in tensors else "log_alpha"
    mu, log = tensors["mu"], tensors[name]
    (rows, cols), (log_rows, log_cols), dtype = mu.shape, log.shape, mu.dtype
    own, is_alpha, wide = log.shape == mu.shape, name == "log_alpha", compute_dtype(dtype)
    with memory(gpu) as m:
        out, to_out = m.output("out", (rows, cols), dtype, offset)
        dlog = to_dlog = sums = to_sums = to_workspace = None
        if grad is not None and own:
            dlog, to_dlog = m.output("dlog", (rows, cols), dtype, offset)
        elif grad is not None:
            sums, to_sums = m.output("dlog", (log_rows, log_cols), wide)
            needed = gpu.weight_noise_workspace(rows, cols, log_rows, log_cols)
            _, to_workspace = m.output("workspace", (needed,), wide)
        getattr(gpu, f"weight_noise_{str(dtype).removeprefix('torch.')}")(
            m.input("mu", misaligned(mu, offset)) if grad is None or is_alpha else None,
            m.input("log", misaligned(log, offset)),
            None if grad is None else m.input("grad", misaligned(grad, offset)),
            to_out if grad is None or is_alpha else None,
            rows, cols, log_rows, log_cols, is_alpha, m.input("seed", torch.tensor(SEED)), to_dlog, to_sums,
            to_workspace,
        )  # fmt: skip
        moved = m.traffic()
    if grad is None:
        return {"value": out}, moved
    found = {name: dlog if own else sums}
    return (found if not is_alpha else {"mu": out, **found}), moved


def check(tensors: dict[str, Tensor], grad: Tensor, offset: int = 0) -> None:
    expected = truth(tensors, grad)
    for found, _ in (on_gpu(tensors, None, offset), on_gpu(tensors, grad, offset)):
        for name, t in found.items():
            value, magnitude, length = expected[name]
            assert_close(t, value.detach(), magnitude, length, name)


@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("dtypes", ["fp32", "fp64", "bf16", "fp16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_own_parameters(shape: tuple[int, int], dtypes: str, offset: int) -> None:
    gpu.configure(SCHEDULES[offset % len(SCHEDULES)])
    check(*make(shape, None, dtypes), offset)
    check(*make(shape, shape, dtypes), offset)


# rows of several parts, columns of several, ragged and whole groups
@pytest.mark.parametrize("dtypes", ["fp32", "fp64", "bf16", "fp16"])
@pytest.mark.parametrize("shape", [(1, 1), (5, 37), (33, 64), (3, 2050), (70, 3), (2, 4100)], ids=str)
def test_shared_log_alpha(shape: tuple[int, int], dtypes: str) -> None:
    rows, cols = shape
    for place, alpha in enumerate(((1, 1), (rows, 1), (1, cols))):
        gpu.configure(SCHEDULES[place])
        for offset in (0, 1):  # whole vectors where rows are whole groups, and none
            check(*make(shape, alpha, dtypes), offset)


def test_schedules_change_nothing() -> None:
    for alpha in ((1, 1), (40, 1), (1, 2100)):
        tensors, grad = make((40, 2100), alpha, "fp32")
        found = []
        for seed in SCHEDULES:
            gpu.configure(seed)
            found.append(on_gpu(tensors, grad)[0])
        assert all(torch.equal(found[0][name], other[name]) for other in found for name in found[0])


@pytest.mark.parametrize("shape", [(64, 128), (33, 50)], ids=str)
def test_every_weight_is_moved_once(shape: tuple[int, int]) -> None:
    rows, cols = shape
    n, groups = 4 * rows * cols, rows * -(-cols // 4)
    once = {"mu": (n, 0), "out": (0, n), "grad": (n, 0), "seed": (8, 0)}
    tensors, grad = make(shape, None, "fp32")
    assert on_gpu(tensors, None)[1] == {"mu": (n, 0), "out": (0, n), "log": (n, 0), "seed": (8, 0)}
    moved = on_gpu(tensors, grad)[1]
    assert moved == {"out": (0, 0), "grad": (n, 0), "log": (n, 0), "dlog": (0, n), "seed": (8, 0)}
    # a row's parameter with each group of four, where nothing is summed, else once a row; a column's with
    # every 32 rows, after which its sums are written
    parts = -(-rows // 32)
    tensors, grad = make(shape, (rows, 1), "fp32")
    assert on_gpu(tensors, None)[1]["log"] == (4 * groups, 0)
    moved = on_gpu(tensors, grad)[1]
    assert moved.pop("workspace") == (0, 0)
    assert moved == {**once, "log": (4 * rows, 0), "dlog": (0, 4 * rows)}
    tensors, grad = make(shape, (1, cols), "fp32")
    assert on_gpu(tensors, None)[1]["log"] == (4 * parts * cols, 0)
    moved = on_gpu(tensors, grad)[1]
    assert moved.pop("workspace") == (4 * parts * cols,) * 2
    assert moved == {**once, "log": (4 * parts * cols, 0), "dlog": (0, 4 * cols)}
