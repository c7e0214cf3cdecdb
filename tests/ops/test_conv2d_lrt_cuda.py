"""conv2d_lrt in CUDA, on the emulated GPU: every product, precision and format against the float64 truth."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import vdropkern.ops.conv2d_lrt as conv_op
from tests.cases import CASES, Case, select
from tests.conv_cases import conv
from tests.emulator import SCHEDULES
from tests.plain import truth
from tests.test_generic_ops import upstream
from tests.tolerance import assert_close

from .emulated_conv import LAST, Emulated, gpu
from .test_linear_lrt_cuda import MATHS, Math, allowed_magnitude

LARGE = ("blocked", "columns", "long_sum")
CONV_CASES = [case for case in select("conv2d_lrt") if not any(name in case.id for name in LARGE)]


def check(
    case: Case,
    math_: Math,
    format_: torch.memory_format = torch.contiguous_format,
    log_dtype: torch.dtype = torch.float32,
    **options: Any,
) -> tuple[dict[str, Tensor], Emulated]:
    tensors = case.make(math_.dtype, noise_dtype=log_dtype)
    tensors["x"] = tensors["x"].contiguous(memory_format=format_)
    grads = upstream(case, tensors)
    op = Emulated(math_, **options)
    found = op.run(case, tensors, grads)
    for name, t in truth(case, tensors, grads).items():
        assert_close(
            found[name], t.expected, allowed_magnitude(name, t, math_), t.length, f"{case} {math_} {name}"
        )
    return found, op


def is_too_large(case: Case, math_: Math) -> bool:
    return math_.dtype != torch.float32 and "extreme" in case.id  # magnitudes that half types do not hold


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16"])
@pytest.mark.parametrize("case", CONV_CASES, ids=str)
def test_values_and_gradients(case: Case, name: str) -> None:
    if is_too_large(case, MATHS[name]):
        pytest.skip("magnitudes that half types do not hold")
    gpu.configure(SCHEDULES[len(case.id) % 3])
    check(case, MATHS[name], LAST if len(case.id) % 2 else torch.contiguous_format)


FEW = ("odd", "stride2-dilation2", "groups", "depthwise-x2-stride2", "log_alpha[5]")


@pytest.mark.parametrize("name", MATHS)
@pytest.mark.parametrize("few", FEW)
def test_every_arithmetic_in_both_formats(few: str, name: str) -> None:
    """The same numbers, to what other sums give, in x's format."""
    case, math_ = CASES[f"conv2d_lrt-{few}"], MATHS[name]
    check(case, math_)
    found, _ = check(case, math_, LAST)
    assert found["y"].is_contiguous(memory_format=LAST) and found["d_x"].is_contiguous(memory_format=LAST)


# channels in whole chunks of 16 bytes, and one more; strides in the input's gradient; pixels that are no
# multiple of four, and a group more
WHOLE = {
    "chunks": conv("chunks", (2, 16, 9, 6), 24, (3, 3), padding=1),
    "groups": conv("groups", (2, 32, 5, 7), 48, (3, 2), groups=2, padding=1, stride=2),
    "dilated": conv("dilated", (1, 8, 12, 12), 8, (3, 3), dilation=2, op="conv2d_lrt_kl", prior="ard"),
    "rest": conv("rest", (2, 17, 7, 8), 9, (2, 3), stride=(1, 2), padding=(0, 1)),
    "1x1": conv("1x1", (3, 24, 4, 4), 72, (1, 1)),
}


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "tf32x3-mean", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("shape", WHOLE)
def test_chunks(shape: str, name: str) -> None:
    for format_ in (LAST, torch.contiguous_format):
        gpu.configure(SCHEDULES[len(shape) % 3])
        check(WHOLE[shape], MATHS[name], format_)


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16", "fp16"])
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_any_alignment(name: str, offset: int) -> None:
    check(WHOLE["chunks"], MATHS[name], LAST, offset=offset)
    check(WHOLE["1x1"], MATHS[name], offset=offset)


@pytest.mark.parametrize("name", MATHS)
def test_reduction_in_parts(name: str) -> None:
    """Few tiles and a long reduction: partial sums by several blocks, added by a second kernel."""
    for case, format_, passes in (
        (conv("parts", (1, 130, 4, 5), 24, (3, 3), padding=1, groups=2), torch.contiguous_format,
         {"Forward"}),
        (conv("parts", (1, 96, 4, 5), 72, (3, 3), padding=1), LAST, {"Forward", "Input"}),
        (conv("parts", (9, 6, 8, 9), 130, (3, 3), groups=2, padding=1), torch.contiguous_format,
         {"Input", "Weights"}),
        (conv("parts", (9, 8, 8, 9), 16, (2, 2)), LAST, {"Weights"}),
    ):  # fmt: skip
        _, op = check(case, MATHS[name], format_, multiprocessors=64)
        finished = [kernel for kernel in op.kernels if "lrt_finish" in kernel]
        assert all(any(f"Pass::k{pass_}," in kernel for kernel in finished) for pass_ in passes), finished


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_logs(name: str) -> None:
    """log_sigma2 of x's type, as a model cast as a whole has it."""
    math_ = MATHS[name]
    check(WHOLE["dilated"], math_, LAST, math_.dtype)
    check(CASES["conv2d_lrt-odd"], math_, log_dtype=math_.dtype)


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16"])
def test_same_bits_under_every_schedule(name: str) -> None:
    found: list[dict[str, Tensor]] = []
    for seed in SCHEDULES:
        gpu.configure(seed)
        found.append(check(WHOLE["groups"], MATHS[name], LAST, multiprocessors=32)[0])
    for other in found[1:]:
        assert all(torch.equal(t, other[key]) for key, t in found[0].items())


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "tf32x3-mean", "tf32", "bf16", "fp16"])
def test_large(name: str) -> None:
    """Tiles of 128 rows, more than one to a band, in every product."""
    case = conv("large", (2, 130, 8, 16), 128, (1, 1))
    check(case, MATHS[name], LAST, multiprocessors=1)
    check(CASES["conv2d_lrt-blocked"], MATHS[name], multiprocessors=1)


@pytest.fixture
def truncating() -> Iterator[None]:
    gpu.configure(0, truncate=True)
    yield
    gpu.configure(0)


@pytest.mark.usefixtures("truncating")
@pytest.mark.parametrize("name", ["tf32x3", "tf32", "bf16", "fp16"])
def test_truncating_tensor_cores(name: str) -> None:
    """Cores that cut operands and sums instead of rounding them stay within the same bounds."""
    check(WHOLE["chunks"], MATHS[name], LAST)


@pytest.mark.parametrize("needs", [("x",), ("mu", "log_sigma2"), ("bias",)])
def test_only_what_is_asked_for(needs: tuple[str, ...]) -> None:
    case, op = CASES["conv2d_lrt-odd"], Emulated(MATHS["tf32x3"])
    tensors = case.make()
    for name in needs:
        tensors[name].requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            conv_op, "choose", lambda o, *_: op.backward if o is conv_op._backward_op else op.forward
        )
        y = case.call(tensors)[0]
        torch.autograd.grad(y, [tensors[name] for name in needs], torch.ones_like(y))
    written = {name for name in ("dx", "dmu", "dlog") if op.traffic["backward"][name][1]}
    assert written == {{"x": "dx", "mu": "dmu", "log_sigma2": "dlog"}[n] for n in needs if n != "bias"}


@pytest.mark.parametrize("format_", [LAST, torch.contiguous_format], ids=["last", "first"])
@pytest.mark.parametrize("name", ["ieee", "tf32", "bf16"])
def test_traffic(name: str, format_: torch.memory_format) -> None:
    """What tiles of 128 (ieee: 64) by 64 demand, to the byte, of a kernel of one place: an operand once for
    every tile that needs it, a result once."""
    n, c, o, pixels = 2, 192, 128, 64
    math_ = MATHS[name]
    _, op = check(conv("traffic", (n, c, 8, 8), o, (1, 1), bias=False), math_, format_, multiprocessors=1)
    rows, size = 64 if name == "ieee" else 128, math_.dtype.itemsize
    x, w, y = n * c * pixels, o * c, n * o * pixels  # elements
    tiles, out_tiles = n * pixels // rows, o // rows  # of pixels, and of outputs where they are rows
    got = op.traffic["forward"]
    assert got["x"] == (o // 64 * x * size, 0)
    assert (got["mu"], got["log"]) == ((tiles * w * size, 0), (tiles * w * 4, 0))
    assert (got["y"], got["r"]) == ((0, y * size), (0, y * 4))
    got = op.traffic["backward"]
    # g_v: dy and r once; dx: dy for every column of tiles; dmu, dlog: the same
    assert got["dy"] == ((1 + 2 * (c // 64)) * y * size, 0)
    assert got["r"] == (y * 4, 0)
    # dx: each row of tiles reads the weights; dmu, dlog: the epilogue reads them once
    assert (got["mu"], got["log"]) == (((tiles + 1) * w * size, 0), ((tiles + 1) * w * 4, 0))
    assert got["x"] == ((1 + out_tiles) * x * size, 0)
    assert (got["dx"], got["dmu"], got["dlog"]) == ((0, x * size), (0, w * size), (0, w * 4))
    assert got["workspace"] == (2 * (c // 64) * y * size, y * size)


def test_what_is_too_large_is_refused() -> None:
    sizes = [1, 1, 2**16, 2**16, 1, 1, 1, 2**16, 2**16, 1, 1, 0, 0, 1, 1, 1]
    nothing = dict.fromkeys(("mu", "log", "x", "bias", "seed", "y", "r"))
    arguments = {"sizes": sizes, "channels_last": False, "type": 0, "precision": 0, "is_alpha": False,
                 "log_is_float": True, "exp_clip": 1.0, "eps": 0.0, **nothing}  # fmt: skip
    with pytest.raises(RuntimeError, match=r"conv2d_lrt: more than 2\^31 - 2\^10 pixels"):
        gpu.conv2d_lrt_forward_workspace(arguments, 1)
