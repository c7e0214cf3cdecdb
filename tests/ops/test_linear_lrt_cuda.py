"""linear_lrt in CUDA, on the emulated GPU: every product, precision and form against the float64 truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.cases import CASES, SEED, Case, linear, select
from tests.emulator import SCHEDULES, emulated, memory, misaligned, prior_code
from tests.plain import Truth, truth
from tests.tolerance import assert_close, tolerance
from vdropkern.functional import PRIORS

gpu = emulated()
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
GRAD_KL = -0.75


@dataclass(frozen=True)
class Math:
    """A dtype and how it is multiplied; `mean` and `variance`: unit roundoff of the products' operands."""

    name: str
    dtype: torch.dtype
    precision: int
    mean: float
    variance: float

    def __str__(self) -> str:
        return self.name


MATHS = {
    m.name: m
    for m in (
        Math("ieee", torch.float32, 0, 0.0, 0.0),
        Math("tf32x3", torch.float32, 1, 0.0, 0.0),
        Math("tf32x3-mean", torch.float32, 2, 0.0, 2**-11),
        Math("tf32", torch.float32, 3, 2**-11, 2**-11),
        Math("bf16", torch.bfloat16, 0, 0.0, 2**-8),
        Math("fp16", torch.float16, 0, 0.0, 2**-8),
    )
}
LARGE = ("blocked", "tall_batch", "wide_out", "long_sum")
LRT_CASES = [case for case in select("linear_lrt") if not any(name in case.id for name in LARGE)]


@dataclass
class Result:
    outputs: dict[str, Tensor]
    forward: dict[str, tuple[int, int]]  # bytes loaded and stored, by tensor
    backward: dict[str, tuple[int, int]]


def log_shape(case: Case, log: Tensor, out: int, inp: int) -> tuple[int, int]:
    """[1|O, 1|I]: what functional.linear_lrt makes of the shapes it accepts."""
    if log.ndim == 2:
        return log.shape[0], log.shape[1]
    if log.numel() == 1:
        return 1, 1
    return (1, inp) if log.numel() == inp else (out, 1)


def run(
    case: Case,
    tensors: dict[str, Tensor],
    math_: Math,
    dy: Tensor,
    *,
    multiprocessors: int = 2,
    offset: int = 0,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> Result:
    """Forward and backward; `offset`: elements by which every tensor misses a multiple of 16 bytes."""
    x, mu = tensors["x"], tensors["mu"]
    name = "log_alpha" if "log_alpha" in tensors else "log_sigma2"
    log = tensors[name]
    (out, inp), lead = mu.shape, x.shape[:-1]
    rows = lead.numel()
    with_kl = case.op == "linear_lrt_kl"
    clip = case.options.get("clip_log_alpha")
    prior, prior_sd = prior_code(case.options.get("prior", "log-uniform"))
    log_rows, log_cols = log_shape(case, log, out, inp)
    with memory(gpu) as m:

        def given(name: str, t: Tensor) -> object:
            return m.input(name, misaligned(t, offset))

        shared = {
            "batch": rows, "out": out, "inp": inp, "type": TYPES[math_.dtype], "precision": math_.precision,
            "log_rows": log_rows, "log_cols": log_cols, "is_alpha": name == "log_alpha",
            "log_is_float": log.dtype == torch.float32,
            "exp_clip": math.inf if clip is None else math.exp(clip),
            "prior": prior if with_kl else -1, "prior_sd": prior_sd,
            "mu": given("mu", mu), "log": given("log", log), "x": given("x", x),
            "seed": m.input("seed", torch.tensor(case.options.get("seed", SEED))),
        }  # fmt: skip
        y, to_y = m.output("y", (rows, out), math_.dtype, offset)
        _, to_std = m.output("std", (rows, out), torch.float32, offset)
        kl, to_kl = m.output("kl", (1,), torch.float32)
        bias = m.input("bias", tensors["bias"].float()) if "bias" in tensors else None
        arguments = shared | {
            "bias": bias, "eps": case.options.get("eps", 1e-8), "y": to_y, "std": to_std,
            "kl": to_kl if with_kl else None,
        }  # fmt: skip
        size = gpu.linear_lrt_forward_workspace(arguments, multiprocessors)
        _, workspace = m.output("workspace", (size // 4,), torch.float32)
        gpu.linear_lrt_forward(arguments, multiprocessors, workspace)
        forward = m.traffic()

        dx, to_dx = m.output("dx", (rows, inp), math_.dtype, offset)
        dmu, to_dmu = m.output("dmu", (out, inp), math_.dtype, offset)
        dlog, to_dlog = m.output("dlog", (log_rows, log_cols), log.dtype, offset)
        dbias, to_dbias = m.output("dbias", (out,), torch.float32, offset)
        arguments = shared | {
            "dy": given("dy", dy), "std": to_std, "dx": to_dx if needs[0] else None,
            "dmu": to_dmu if needs[1] else None, "dlog": to_dlog if needs[1] else None,
            "dbias": to_dbias if needs[2] else None,
            "kl_scale": m.input("kl_scale", torch.tensor(GRAD_KL)),
        }  # fmt: skip
        size = gpu.linear_lrt_backward_workspace(arguments, multiprocessors)
        _, workspace = m.output("backward workspace", (size // 4,), torch.float32)
        gpu.linear_lrt_backward(arguments, multiprocessors, workspace)
        traffic = m.traffic()
        backward = {
            k: (b - forward.get(k, (0, 0))[0], s - forward.get(k, (0, 0))[1]) for k, (b, s) in traffic.items()
        }
    outputs = {"y": y.reshape(*lead, out)}
    if with_kl:
        outputs["kl"] = kl[0]
    if needs[0]:
        outputs["d_x"] = dx.reshape(x.shape)
    if needs[1]:
        outputs |= {"d_mu": dmu, f"d_{name}": dlog.reshape(log.shape)}
    if needs[2] and bias is not None:
        outputs["d_bias"] = dbias
    return Result(outputs, forward, backward)


def made(case: Case, math_: Math, log_dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Tensor]:
    """The case's tensors as autocast would give them, and a gradient of y."""
    tensors = case.make(math_.dtype, noise_dtype=log_dtype)
    shape = (*tensors["x"].shape[:-1], tensors["mu"].shape[0])
    generator = torch.Generator().manual_seed(len(case.id))
    return tensors, torch.randn(shape, generator=generator).to(math_.dtype)


def allowed_magnitude(name: str, t: Truth, math_: Math) -> Tensor:
    """`magnitude`, widened by what rounding the operands costs: one roundoff for each of two factors."""
    roundoff = math_.variance if name != "kl" else 0.0
    roundoff = 0.0 if name == "d_bias" else max(roundoff, math_.mean)
    return t.magnitude * (1 + 2 * roundoff * (1 + roundoff) / tolerance(torch.float32, t.length))


def check(case: Case, math_: Math, log_dtype: torch.dtype = torch.float32, **options: object) -> Result:
    tensors, dy = made(case, math_, log_dtype)
    grads = (dy, torch.tensor(GRAD_KL)) if case.op == "linear_lrt_kl" else (dy,)
    expected = truth(case, tensors, grads)
    result = run(case, tensors, math_, dy, **options)  # type: ignore[arg-type]
    assert result.outputs.keys() <= expected.keys()
    for name, found in result.outputs.items():
        t = expected[name]
        assert_close(found, t.expected, allowed_magnitude(name, t, math_), t.length, f"{case} {math_} {name}")
    return result


@pytest.mark.parametrize("math_", MATHS.values(), ids=str)
@pytest.mark.parametrize("case", LRT_CASES, ids=str)
def test_values_and_gradients(case: Case, math_: Math) -> None:
    half = math_.dtype != torch.float32
    if half and "extreme" in case.id:
        pytest.skip("magnitudes that half types do not hold")
    gpu.configure(SCHEDULES[len(case.id) % 3])
    check(case, math_)


@pytest.mark.parametrize("name", MATHS)
@pytest.mark.parametrize("batch", [1, 3, 17, 130])
def test_ragged_tiles(name: str, batch: int) -> None:
    """Remainders in every direction, and lines at every alignment."""
    for n, (out, inp) in enumerate(((1, 7), (5, 64), (33, 1), (129, 131), (36, 24))):
        gpu.configure(SCHEDULES[n % 3])
        check(linear(f"ragged-{batch}", (batch,), inp, out), MATHS[name])


@pytest.mark.parametrize("name", MATHS)
def test_reduction_in_parts(name: str) -> None:
    """Few tiles and a long reduction: partial sums by several blocks, added by a second kernel.

    That one loads biases and logs that rows share once a thread, so they hardly add to what it moves.
    """
    for case in (
        linear("parts", (20,), 1100, 24, op="linear_lrt_kl", prior="ard"),
        linear("parts", (600,), 40, 20, op="linear_lrt_kl", prior="ard"),
        linear("parts", (600,), 40, 20, log_alpha=(1, 40)),
        linear("parts", (600,), 40, 20, log_alpha=(20, 1)),
        linear("parts", (20,), 40, 700, log_alpha=(1, 1)),
    ):
        check(case, MATHS[name], multiprocessors=64)
        finishing = [record for record in gpu.records() if "lrt_finish" in record["kernel"]]
        assert finishing
        for record in finishing:
            assert record["loaded"] + record["stored"] <= 1.07 * record["distinct"], record


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16", "fp16"])
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_any_alignment(name: str, offset: int) -> None:
    check(linear("aligned", (20,), 48, 32, op="linear_lrt_kl"), MATHS[name], offset=offset)


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_logs(name: str, prior: str) -> None:
    """log_sigma2 of x's type, as a model cast as a whole has it."""
    math_ = MATHS[name]
    fills = {"mu": "weight>.02", "log_sigma2": "log_sigma2<-8"} if "kingma" in prior else {}
    if name == "fp16" and "kingma" in prior:
        pytest.skip("a cubic in alpha that float16 does not hold")
    case = linear("half", (20,), 40, 24, op="linear_lrt_kl", prior=prior, fills=fills)
    check(case, math_, math_.dtype)
    check(linear("half", (9,), 21, 24, log_alpha=(1, 21)), math_, math_.dtype)


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16"])
@pytest.mark.parametrize("case", [CASES["linear_lrt_kl-odd-ard"], CASES["linear_lrt-clip-blocked"]], ids=str)
def test_same_bits_under_every_schedule(case: Case, name: str) -> None:
    math_ = MATHS[name]
    tensors, dy = made(case, math_)
    results = []
    for seed in SCHEDULES:
        gpu.configure(seed)
        results.append(run(case, tensors, math_, dy, multiprocessors=8).outputs)
    for other in results[1:]:
        assert all(torch.equal(t, other[key]) for key, t in results[0].items())


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "fp16"])
def test_large(name: str) -> None:
    """Tiles of 128 rows, many of them, and more than one to a group."""
    for case in select("linear_lrt-blocked", "linear_lrt-tall_batch", "linear_lrt-wide_out"):
        check(case, MATHS[name], multiprocessors=1)
    check(CASES["linear_lrt-long_sum"], MATHS[name], multiprocessors=16)


def test_truncating_tensor_cores() -> None:
    """Cores that cut operands and sums instead of rounding them stay within the same bounds."""
    try:
        for name in ("tf32x3", "tf32", "bf16", "fp16"):
            gpu.configure(0, truncate=True)
            check(CASES["linear_lrt-odd"], MATHS[name])
            check(CASES["linear_lrt_kl-odd-log-uniform"], MATHS[name])
    finally:
        gpu.configure(0)


@pytest.mark.parametrize("name", ["ieee", "tf32x3-mean", "tf32", "bf16"])
def test_traffic(name: str) -> None:
    """What tiles of 128 (ieee: 64) by 64 demand, to the byte: an operand once for every tile that needs it, a
    result once. The KL costs nothing, and so does its gradient."""
    batch, out, inp = 256, 128, 192
    math_ = MATHS[name]
    case = linear("traffic", (batch,), inp, out, op="linear_lrt_kl", prior="ard")
    result = check(case, math_, multiprocessors=1)
    rows = 64 if name == "ieee" else 128
    size = math_.dtype.itemsize
    x, w, y = batch * inp, out * inp, batch * out  # elements
    row_tiles, across_out, across_inp, out_tiles = batch // rows, out // 64, inp // 64, out // rows
    got = result.forward
    assert got["x"] == (across_out * x * size, 0)
    assert got["mu"] == (row_tiles * w * size, 0)
    assert got["log"] == (row_tiles * w * 4, 0)
    assert (got["y"], got["std"]) == ((0, y * size), (0, y * 4))
    got = result.backward
    # g_v: dy and std once; dx: dy for every column of tiles; dmu, dlog: the same
    assert got["dy"] == ((1 + 2 * across_inp) * y * size, 0)
    assert got["std"] == (y * 4, 0)
    # dx: each row of tiles reads the weights; dmu, dlog: the epilogue reads them once
    assert got["mu"] == ((row_tiles + 1) * w * size, 0)
    assert got["log"] == ((row_tiles + 1) * w * 4, 0)
    assert got["x"] == ((1 + out_tiles) * x * size, 0)
    assert (got["dx"], got["dmu"], got["dlog"]) == ((0, x * size), (0, w * size), (0, w * 4))
    loaded, stored = got["backward workspace"]
    sums = loaded - 2 * across_inp * y * size  # what is not g_v: sums of dy over parts of the batch
    assert stored == y * size + sums and 0 < sums < 0.1 * y * size + 4 * batch * 4


@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_asked_for(needs: tuple[bool, bool, bool]) -> None:
    result = check(CASES["linear_lrt-odd"], MATHS["tf32x3"], needs=needs)
    written = {name for name in ("dx", "dmu", "dlog", "dbias") if result.backward[name][1]}
    asked = {"dx": needs[0], "dmu": needs[1], "dlog": needs[1], "dbias": needs[2]}
    assert written == {name for name, wanted in asked.items() if wanted}


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16"])
def test_nan_is_not_swallowed(name: str) -> None:
    math_ = MATHS[name]
    case = CASES["linear_lrt-odd"]
    for argument in ("x", "mu", "log_sigma2", "bias"):
        tensors, dy = made(case, math_)
        at = (2,) if argument == "bias" else (2, 5)
        tensors[argument][at] = torch.nan
        nan = run(case, tensors, math_, dy).outputs["y"].isnan()
        expected = torch.zeros_like(nan)
        expected[2 if argument == "x" else slice(None), slice(None) if argument == "x" else 2] = True
        assert torch.equal(nan, expected), argument
