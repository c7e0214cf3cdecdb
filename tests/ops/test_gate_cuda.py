"""gate in CUDA, on the emulated GPU, against the formula in float64, and what it moves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from tests.tolerance import assert_close, compute_dtype
from vdropkern.ops.gate import KINDS

from .test_gate import DTYPES, OPTIONS, SEED, SHAPES, parameters, truth

gpu = emulated()
Bytes = dict[str, tuple[int, int]]
# x, channel_dim: lines of whole fours, in parts, and short ones of many rows; columns of whole fours, of
# several blocks across and down
OTHERS = {
    "fours": ((2, 5, 64), 1),
    "parts": ((2, 3, 5000), 1),
    "parts-odd": ((1, 2, 4099), 1),
    "short": ((70, 40, 3), 1),
    "short-fours": ((33, 35, 4), 1),
    "columns": ((70, 48), 1),
    "columns-odd": ((37, 301), 1),
}
ALL = {**SHAPES, **OTHERS}
# x [N, C, H, W] with channels last: odd ones, whole fours, more pixels than a block takes
LAST = ((3, 5, 7, 3), (2, 12, 9, 11), (2, 3, 70, 65), (9, 70, 1, 2))


def made(kind: str, sizes: tuple[int, ...], channel_dim: int, dtypes: str) -> dict[str, Tensor]:
    dtype, parameter_dtype = DTYPES[dtypes]
    x = torch.randn(sizes, generator=torch.Generator().manual_seed(1)).to(dtype)
    return {"x": x, **parameters(kind, sizes[channel_dim], parameter_dtype)}


class Run:
    """The kernels on some tensors, x as it lies or with channels last, `offset` elements off alignment."""

    def __init__(
        self,
        tensors: dict[str, Tensor],
        kind: str,
        channel_dim: int,
        per_sample: bool = True,
        last: bool = False,
        offset: int = 0,
    ) -> None:
        self.x, self.kind, self.per_sample, self.last, self.offset = (
            tensors["x"], kind, per_sample, last, offset,
        )  # fmt: skip
        d = channel_dim % self.x.ndim
        self.sizes = [self.x.shape[:d].numel(), self.x.shape[d], self.x.shape[d + 1 :].numel()]
        self.wide = compute_dtype(self.x.dtype)
        self.parameters = {k: t for k, t in tensors.items() if k != "x"}

    def _laid(self, t: Tensor) -> Tensor:
        return misaligned(t.movedim(1, -1).contiguous() if self.last else t, self.offset)

    def _launch(self, given: Tensor, x: Tensor | None, out: bool) -> tuple[dict[str, Tensor], Bytes]:
        found: dict[str, Tensor] = {}
        to_sums: dict[str, object] = {}
        with memory(gpu) as m:
            of = {k: m.input(k, t.to(self.wide)) for k, t in self.parameters.items()}
            to_out = None
            if out:
                shape = tuple(self._laid(given).shape)
                found["out"], to_out = m.output("out", shape, given.dtype, self.offset)
            if x is not None:
                for name in self.parameters:
                    found[name], to_sums[name] = m.output(f"d_{name}", (self.sizes[1],), self.wide)
                needed = gpu.gate_workspace(self.sizes, self.last, KINDS.index(self.kind))
                to_sums["workspace"] = m.output("workspace", (needed,), self.wide)[1]
            getattr(gpu, f"gate_{str(given.dtype).removeprefix('torch.')}")(
                self.sizes, self.last, KINDS.index(self.kind), of["location"], of.get("log_sigma2"),
                m.input("seed", torch.tensor(SEED)), self.per_sample, OPTIONS[self.kind],
                m.input("given", self._laid(given)), None if x is None else m.input("x", self._laid(x)),
                to_out, [to_sums.get(name) for name in ("location", "log_sigma2", "workspace")],
            )  # fmt: skip
            moved = m.traffic()
        if out and self.last:
            found["out"] = found["out"].movedim(-1, 1)
        return {k: t if k == "out" else t.to(self.parameters[k].dtype) for k, t in found.items()}, moved

    def forward(self) -> tuple[Tensor, Bytes]:
        found, moved = self._launch(self.x, None, True)
        return found["out"], moved

    def backward(
        self, dy: Tensor, needs_x: bool = True, needs_parameters: bool = True
    ) -> tuple[dict[str, Tensor], Bytes]:
        found, moved = self._launch(dy, self.x if needs_parameters else None, needs_x)
        if needs_x:
            found["x"] = found.pop("out")
        return found, moved


def check(
    tensors: dict[str, Tensor],
    kind: str,
    channel_dim: int,
    per_sample: bool = True,
    last: bool = False,
    offset: int = 0,
) -> None:
    x = tensors["x"]
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.dtype)
    run = Run(tensors, kind, channel_dim, per_sample, last, offset)
    found = {"y": run.forward()[0]}
    if x.numel():  # the binding makes zeros of sums over nothing
        found |= run.backward(dy)[0]
    for name, (value, magnitude, length) in truth(tensors, dy, kind, channel_dim, per_sample).items():
        if name in found:
            assert_close(found[name], value, magnitude, length, f"{kind} {name}")


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "batch"])
@pytest.mark.parametrize("shape", ALL)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients(kind: str, shape: str, per_sample: bool) -> None:
    sizes, channel_dim = ALL[shape]
    offset = len(shape) % 4
    gpu.configure(SCHEDULES[offset % len(SCHEDULES)])
    check(made(kind, sizes, channel_dim, "fp32"), kind, channel_dim, per_sample, offset=offset)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("shape", ["conv2d-wide", "linear-tall", "fours", "columns"])
@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_dtypes(kind: str, dtypes: str, shape: str, offset: int) -> None:
    """Whole fours at a multiple of their size, or not."""
    sizes, channel_dim = ALL[shape]
    check(made(kind, sizes, channel_dim, dtypes), kind, channel_dim, offset=offset)


@pytest.mark.parametrize("per_sample", [True, False], ids=["sample", "batch"])
@pytest.mark.parametrize("sizes", LAST, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_channels_last(kind: str, sizes: tuple[int, ...], per_sample: bool) -> None:
    check(made(kind, sizes, 1, "fp32"), kind, 1, per_sample, last=True)
    if sizes == LAST[1]:
        check(made(kind, sizes, 1, "bf16+fp32"), kind, 1, per_sample, last=True)


@pytest.mark.parametrize("kind", KINDS)
def test_extremes_are_finite(kind: str) -> None:
    """mu and logits of any size, sigma from 1e-9 to 150, drawn for rows and for lines."""
    location, log_sigma2 = torch.cartesian_prod(
        torch.tensor([-60.0, -25.0, -20.0, -19.9999, -5.0, -1e-30, 0.0, 1e-5, 3.0, 40.0]),
        torch.tensor([-40.0, -20.0, -10.0, 0.0, 4.0, 10.0]),
    ).T.contiguous()
    for dtype in (torch.float32, torch.float64):
        tensors = {"location": location.to(dtype)}
        if kind in ("normal", "log-normal"):
            tensors["log_sigma2"] = log_sigma2.to(dtype)
        for x in (torch.ones(50, 60, dtype=dtype), torch.ones(50, 60, 2, dtype=dtype)):
            run = Run({"x": x, **tensors}, kind, 1)
            y = run.forward()[0]
            assert torch.isfinite(y).all()
            if kind == "log-normal":
                assert y.min() >= 0.99 * math.exp(-20) and y.max() <= 1
            if kind == "hard-concrete":
                assert y.min() == 0 and y.max() == 1
            assert all(torch.isfinite(t).all() for t in run.backward(x)[0].values())


@pytest.mark.parametrize("name", ["x", "location", "log_sigma2"])
@pytest.mark.parametrize("kind", ["normal", "log-normal", "hard-concrete", "concrete"])
def test_nan_is_not_swallowed(kind: str, name: str) -> None:
    tensors = made(kind, (9, 37), 1, "fp32")
    if name not in tensors:
        pytest.skip("this kind has one parameter")
    tensors[name][..., 3] = torch.nan
    y = Run(tensors, kind, 1).forward()[0]
    assert y[:, 3].isnan().all() and not y[:, :3].isnan().any()


@pytest.mark.parametrize("shape", ["conv2d-wide", "short", "columns-odd"])
@pytest.mark.parametrize("kind", ["normal", "log-normal"])
def test_schedules_change_nothing(kind: str, shape: str) -> None:
    sizes, channel_dim = ALL[shape]
    tensors, found = made(kind, sizes, channel_dim, "fp32"), []
    for seed in SCHEDULES:
        gpu.configure(seed)
        run = Run(tensors, kind, channel_dim)
        found.append({"y": run.forward()[0], **run.backward(torch.ones(sizes))[0]})
    assert all(torch.equal(found[0][name], other[name]) for other in found for name in found[0])


@pytest.mark.parametrize("last", [False, True])
def test_only_asked_gradients_are_computed(last: bool) -> None:
    tensors = made("log-normal", (2, 12, 9, 11), 1, "fp32")
    run, dy = Run(tensors, "log-normal", 1, last=last), torch.randn(2, 12, 9, 11)
    every = run.backward(dy)[0]
    for needs in ((True, False), (False, True)):
        found, moved = run.backward(dy, *needs)
        assert found.keys() == ({"x"} if needs[0] else {"location", "log_sigma2"})
        assert all(torch.equal(t, every[name]) for name, t in found.items())
        assert ("x" in moved) == needs[1]


@pytest.mark.parametrize(
    "sizes, last", [((128, 512), False), ((5, 64, 12, 12), False), ((5, 64, 12, 12), True)], ids=str
)
@pytest.mark.parametrize("kind", ["normal", "log-normal"])
def test_every_element_is_moved_once(kind: str, sizes: tuple[int, ...], last: bool) -> None:
    """Parameters once a part of the sums, whose parts are written and read once."""
    tensors = made(kind, sizes, 1, "fp32")
    run, n, channels = Run(tensors, kind, 1, last=last), 4 * math.prod(sizes), sizes[1]
    parts = gpu.gate_workspace(run.sizes, last, KINDS.index(kind)) // (2 * channels)
    once = {"location": (4 * parts * channels, 0), "log_sigma2": (4 * parts * channels, 0), "seed": (8, 0)}
    assert run.forward()[1] == {**once, "given": (n, 0), "out": (0, n)}
    moved = run.backward(torch.randn(sizes))[1]
    sums = {"d_location": (0, 4 * channels), "d_log_sigma2": (0, 4 * channels)}
    assert moved == {
        **once, **sums, "given": (n, 0), "x": (n, 0), "out": (0, n), "workspace": (8 * parts * channels,) * 2,
    }  # fmt: skip
    assert parts * 32 <= math.prod(sizes) // channels + 32
