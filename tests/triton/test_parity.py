"""Rung 4 of docs/gpu.md: reference, C++ on the CPU, CUDA emulated and Triton interpreted, side by side.

All four run in this process on the same tensors and seed. Each is held to the truth elsewhere; here every two
of them are compared, element by element.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from vdropkern import _backend, functional, use_backend, use_precision
from vdropkern.ops.kl import triton as kl_triton
from vdropkern.ops.mul_noise import NOISES
from vdropkern.ops.mul_noise import triton as mul_noise_triton
from vdropkern.ops.mul_noise.reference import mul_noise as mul_noise_reference
from vdropkern.ops.mul_noise.reference import noise_of
from vdropkern.ops.philox_bits.reference import philox_bits
from vdropkern.ops.philox_normal import triton as noise_triton
from vdropkern.ops.philox_normal.reference import philox_normal
from vdropkern.ops.sign_ste.reference import pack_bits
from vdropkern.ops.spmm.csr import dense_to_csr
from vdropkern.ops.xnor import pack_weight
from vdropkern.ops.xnor import reference as xnor
from vdropkern.ops.xnor import triton as xnor_triton

from ..cases import CASES, Case
from ..plain import Truth, truth
from ..sparse_cases import CONVS, sparse_conv, weight
from ..test_generic_ops import results, upstream
from ..tolerance import bound, tolerance
from . import test_linear_lrt as lrt_triton

pytest.importorskip("emulated", reason="the emulator's module is not built")
pytestmark = pytest.mark.skipif(_backend.library_error() is not None, reason="needs the compiled library")

# after the module that they skip without
from ..ops import test_conv2d_lrt_cuda as conv_cuda  # noqa: E402
from ..ops import test_gate as gate  # noqa: E402
from ..ops import test_gate_cuda as gate_cuda  # noqa: E402
from ..ops import test_kl_cuda as kl_cuda  # noqa: E402
from ..ops import test_linear_lrt_cuda as lrt_cuda  # noqa: E402
from ..ops import test_mul_noise_cuda as mul_noise_cuda  # noqa: E402
from ..ops import test_multi_sample_head_cuda as head_cuda  # noqa: E402
from ..ops import test_philox_cuda as noise_cuda  # noqa: E402
from ..ops import test_sparse_conv2d_cuda as sparse_conv_cuda  # noqa: E402
from ..ops import test_spmm_cuda as spmm_cuda  # noqa: E402
from ..ops import test_weight_mask_cuda as weight_mask_cuda  # noqa: E402
from ..ops import test_weight_noise as weight_noise  # noqa: E402
from ..ops import test_weight_noise_cuda as weight_noise_cuda  # noqa: E402
from ..ops import test_xnor_cuda as xnor_cuda  # noqa: E402
from ..ops.test_philox_normal import MAX_ULP, ulp  # noqa: E402

SHAPES = [(1, 1), (5, 7), (33, 130), (3, 2050)]
SEEDS = [0, -1, 2**62 + 3]
Results = dict[str, Tensor]


def agree(by_backend: dict[str, Results], known: dict[str, Truth]) -> None:
    """Every two within twice the distance that each may have from the truth."""
    for (one, a), (other, b) in itertools.combinations(by_backend.items(), 2):
        for name in a.keys() & b.keys():
            expected, magnitude, length = known[name]
            allowed = 2 * bound(expected, magnitude.expand_as(expected), a[name].dtype, length)
            error = (a[name].detach().double() - b[name].detach().double()).abs()
            assert (error <= allowed).all(), f"{name}: {one} and {other} are {error.max():.3g} apart"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rows, cols", SHAPES)
def test_noise(rows: int, cols: int, seed: int) -> None:
    """Integers to the bit; normals within what two of them may be off."""
    key, op = torch.tensor(seed), torch.ops.vdropkern
    bits = philox_bits(key, rows, cols)
    assert torch.equal(bits, op.philox_bits(key, rows, cols))
    assert torch.equal(bits, noise_triton.philox_bits(key, rows, cols))
    assert torch.equal(bits, noise_cuda.run(noise_cuda.gpu.philox_bits, seed, rows, cols, torch.int64))
    normals = [
        philox_normal(key, rows, cols, torch.float32),
        op.philox_normal(key, rows, cols, torch.float32),
        noise_triton.philox_normal(key, rows, cols, torch.float32),
        noise_cuda.run(noise_cuda.gpu.philox_normal_float32, seed, rows, cols, torch.float32),
    ]
    for a, b in itertools.combinations(normals, 2):
        assert ((a - b).abs() <= 2 * MAX_ULP * ulp(a)).all()


@pytest.mark.parametrize("noise", NOISES)
def test_mul_noise(noise: str) -> None:
    """The same elements dropped; factors as near to each other as the normals are."""
    x, seed, strength = torch.randn(33, 70), mul_noise_cuda.SEED, 0.3
    found = [
        mul_noise_reference(x, seed, noise, strength),
        mul_noise_triton.mul_noise(x, seed, noise, strength),
        mul_noise_cuda.on_gpu(x, noise, strength),
    ]
    if _backend._devices.has_kernel("mul_noise", "CPU"):
        found.append(torch.ops.vdropkern.mul_noise(x, seed, noise, strength))
    size = (x * noise_of(x, seed, noise, strength)).abs() + x.abs()
    for a, b in itertools.combinations(found, 2):
        assert torch.equal(a == 0, b == 0)
        assert ((a - b).abs() <= 4 * MAX_ULP * ulp(size)).all()


NOISY: dict[str, tuple[Callable[..., Tensor], dict[str, tuple[int, ...]]]] = {
    "weight_noise": (functional.weight_noise, {"mu": (9, 37), "log_sigma2": (9, 37)}),
    "weight_noise-shared": (functional.weight_noise, {"mu": (9, 37), "log_alpha": (9, 1)}),
    "mul_out_noise": (functional.mul_out_noise, {"z": (9, 37), "log_alpha": (37,), "bias": (37,)}),
    "gate-normal": (
        partial(functional.gate, kind="normal"),
        {"x": (9, 37), "location": (37,), "log_sigma2": (37,)},
    ),
    "gate-log-normal": (
        partial(functional.gate, kind="log-normal"),
        {"x": (9, 37), "location": (37,), "log_sigma2": (37,)},
    ),
    "gate-hard-concrete": (partial(functional.gate, kind="hard-concrete"), {"x": (9, 37), "location": (37,)}),
    "gate-concrete": (
        partial(functional.gate, kind="concrete", temperature=1.0),
        {"x": (9, 37), "location": (37,)},
    ),
}


@pytest.mark.parametrize("name", NOISY)
def test_noise_of_weights_and_units(name: str) -> None:
    """The same noise, element by element, and the same gradients: |e| < 7, and sums of 333 terms at most."""
    call, shapes = NOISY[name]
    tensors = {k: torch.randn(shape) for k, shape in shapes.items()}
    by_backend: dict[str, list[Tensor]] = {}
    for backend in ("reference", "cpu", "triton"):
        leaves = {k: t.clone().requires_grad_() for k, t in tensors.items()}
        with use_backend(backend):
            y = call(**leaves, seed=5)
            by_backend[backend] = [y, *torch.autograd.grad(y.square().sum(), list(leaves.values()))]
    for a, b in itertools.combinations(by_backend.values(), 2):
        for one, other in zip(a, b, strict=True):
            length = max(y.numel() // one.numel(), 1)
            size = one.abs() + one.abs().mean() * 8 * length**0.5
            assert ((one - other).abs() <= size * tolerance(torch.float32, length)).all()


@pytest.mark.parametrize("alpha", [None, (9, 1), (1, 37)], ids=str)
def test_weight_noise(alpha: tuple[int, int] | None) -> None:
    """In CUDA the same noise: |e| < 7, and sums of 37 terms at most."""
    tensors, grad = weight_noise.make((9, 37), alpha, "fp32")
    found = {**weight_noise_cuda.on_gpu(tensors, None)[0], **weight_noise_cuda.on_gpu(tensors, grad)[0]}
    for backend in ("reference", "cpu", "triton"):
        leaves = {k: t.clone().requires_grad_() for k, t in tensors.items()}
        with use_backend(backend):
            y = functional.weight_noise(**leaves, seed=weight_noise.SEED)
            gradients = torch.autograd.grad(y, list(leaves.values()), grad)
        for name, t in {"value": y, **dict(zip(leaves, gradients, strict=True))}.items():
            if name in found:
                length = max(y.numel() // t.numel(), 1)
                size = found[name].abs() + 7 * 8 * length**0.5
                assert ((found[name] - t).abs() <= size * tolerance(torch.float32, length)).all(), name


@pytest.mark.parametrize("shape", ["linear", "conv2d"])
@pytest.mark.parametrize("kind", gate.KINDS)
def test_gate(kind: str, shape: str) -> None:
    """In CUDA the same gates and the same gradients."""
    tensors, channel_dim = gate.inputs(kind, shape, "fp32"), gate.SHAPES[shape][1]
    dy = torch.randn(tensors["x"].shape)
    run = gate_cuda.Run(tensors, kind, channel_dim)
    by_backend: dict[str, Results] = {"cuda": {"y": run.forward()[0], **run.backward(dy)[0]}}
    for backend in ("reference", "cpu", "triton"):
        leaves = {k: t.clone().requires_grad_() for k, t in tensors.items()}
        with use_backend(backend):
            y = gate.call(leaves, kind, channel_dim)
            gradients = torch.autograd.grad(y, list(leaves.values()), dy)
        by_backend[backend] = {"y": y, **dict(zip(leaves, gradients, strict=True))}
    known = gate.truth(tensors, dy, kind, channel_dim, True)
    agree(by_backend, {name: Truth(*t) for name, t in known.items()})


def test_multi_sample_head() -> None:
    """The same masks: a bit of one would show in every result. Logits are below 8, sums of 70 terms."""
    h, weight, bias = torch.randn(9, 70), torch.randn(13, 70) / 8, torch.randn(13)
    target = torch.randint(13, (9,))
    by_backend: dict[str, list[Tensor]] = {}
    for backend in ("reference", "cpu", "triton"):
        leaves = [t.clone().requires_grad_() for t in (h, weight, bias)]
        with use_backend(backend):
            loss = functional.multi_sample_head(*leaves, target, samples=6, p=0.3, seed=-5)
            by_backend[backend] = [loss, *torch.autograd.grad(loss, leaves)]
    tensors = {"h": h, "weight": weight, "bias": bias, "target": target}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head_cuda, "SEED", -5)
        cuda = head_cuda.run(tensors, 6, {"p": 0.3}, head_cuda.MATHS["ieee"])[0]
    by_backend["cuda"] = [cuda[name] for name in ("loss", "dh", "dweight", "dbias")]
    for a, b in itertools.combinations(by_backend.values(), 2):
        for one, other in zip(a, b, strict=True):
            assert ((one - other).abs() <= 8 * tolerance(torch.float32, 70 + 54)).all()


@pytest.mark.parametrize("granularity", functional.GRANULARITIES)
def test_weight_mask(granularity: str) -> None:
    """The same thresholds and the same weights dropped, to the bit."""
    w, share = torch.randn(33, 70), torch.tensor(0.6, dtype=torch.float64)
    half, seed = torch.tensor(0.5, dtype=torch.float64), weight_mask_cuda.SEED
    found = [weight_mask_cuda.on_gpu(w, share, half, granularity)[:2]]
    for backend in ("reference", "cpu", "triton"):
        with use_backend(backend):
            masked = functional.weight_mask(w, 0.6, 0.5, granularity=granularity, seed=seed)
            found.append((masked, functional.weight_thresholds(w, 0.6, granularity=granularity)))
    assert 0 < (found[0][0] == 0).sum() < w.numel()
    for a, b in itertools.combinations(found, 2):
        assert all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


@pytest.mark.parametrize("prior", ["log-uniform", "log-uniform-kingma", "log-uniform-exact", "ard"])
def test_kl(prior: str) -> None:
    case = CASES[f"kl-odd-{prior}"]
    tensors, scale = case.make(), torch.tensor(kl_cuda.GRAD)
    by_backend: dict[str, Results] = {}
    for backend in ("reference", "cpu"):
        with use_backend(backend):
            by_backend[backend] = results(case, tensors, (scale,))
    by_backend["cuda"] = kl_cuda.run(tensors, prior, grads=True)[0]
    value, dmu, dlog = kl_triton.kl_grad(scale, tensors["mu"], tensors["log_sigma2"], None, prior)
    by_backend["triton"] = {"kl": value, "d_mu": dmu, "d_log_sigma2": dlog}
    agree(by_backend, truth(case, tensors, (scale,)))


LRT = ["linear_lrt-odd", "linear_lrt_kl-odd-log-uniform", "linear_lrt_kl-odd-ard"]


@pytest.mark.parametrize("name", LRT)
def test_linear_lrt(name: str) -> None:
    """Outputs, the KL and every gradient, in float32 without tensor cores."""
    case: Case = CASES[name]
    tensors = case.make()
    dy = lrt_triton.gradient(case, tensors)
    grad_kl = torch.tensor(lrt_triton.GRAD_KL)
    grads = (dy, grad_kl) if case.op == "linear_lrt_kl" else (dy,)
    by_backend: dict[str, Results] = {}
    with use_precision(mean="ieee"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrt_cuda, "GRAD_KL", lrt_triton.GRAD_KL)
        for backend in ("reference", "cpu"):
            with use_backend(backend):
                by_backend[backend] = results(case, tensors, grads)
        by_backend["cuda"] = lrt_cuda.run(case, tensors, lrt_cuda.MATHS["ieee"], dy).outputs
        by_backend["triton"] = lrt_triton.run(case, tensors, dy)
    agree(by_backend, truth(case, tensors, grads))


@pytest.mark.parametrize("name", ["odd", "stride2", "depthwise", "log_alpha[5]"])
def test_conv2d_lrt(name: str) -> None:
    """Outputs and every gradient, in float32 without tensor cores."""
    case = CASES[f"conv2d_lrt-{name}"]
    tensors = case.make()
    grads = upstream(case, tensors)
    by_backend: dict[str, Results] = {}
    with use_precision(mean="ieee"):
        for backend in ("reference", "cpu", "triton"):
            with use_backend(backend):
                by_backend[backend] = results(case, tensors, grads)
    by_backend["cuda"] = conv_cuda.Emulated(conv_cuda.MATHS["ieee"]).run(case, tensors, grads)
    agree(by_backend, truth(case, tensors, grads))


def test_packed_signs() -> None:
    """Bits and sums, to the bit: three ways to count in C++, one in Triton."""
    x, weight = torch.randn(2, 70, 6, 7), pack_weight(torch.randn(13, 70, 3, 3))
    t, flip = torch.linspace(-1, 1, 70), pack_bits(torch.arange(70) % 3 == 0)
    op = torch.ops.vdropkern
    bits = xnor.xnor_pack(x, t, flip, 1)
    for found in (
        op.xnor_pack(x, t, flip, 1),
        xnor_triton.xnor_pack(x, t, flip, 1),
        xnor_cuda.pack(x, t, flip),
    ):
        assert torch.equal(found, bits)
    alpha, bias = torch.rand(13), torch.randn(13)
    geometry = (70, 3, 3, 1, 2, 1, 1, 1, 1)
    arguments = (bits, weight, alpha, bias, *geometry, False)
    y = xnor.xnor_conv2d(*arguments)
    for found in (op.xnor_conv2d(*arguments), xnor_triton.xnor_conv2d(*arguments)):
        assert torch.equal(found, y)
    below, flips = torch.arange(13, dtype=torch.int32) - 6, pack_bits(torch.arange(13) % 2 == 0)
    packed = xnor.xnor_conv2d_bits(bits, weight, below, flips, *geometry)
    for implementation in (op.xnor_conv2d_bits, xnor_triton.xnor_conv2d_bits):
        assert torch.equal(implementation(bits, weight, below, flips, *geometry), packed)
    for count in xnor_cuda.COUNTS:
        assert torch.equal(xnor_cuda.conv2d(count, *arguments), y)
        found = xnor_cuda.conv2d(count, bits, weight, below, flips, *geometry, packed=True)
        assert torch.equal(found, packed)


@pytest.mark.parametrize("batch", [3, 40])
def test_sparse_product(batch: int) -> None:
    """Values and gradients, of which there is no Triton kernel."""
    w, bias = weight(33, 70, "ragged"), torch.randn(33)
    values, cols, rows = dense_to_csr(w)
    x, dy = torch.randn(batch, 70), torch.randn(batch, 33)
    by_backend: dict[str, Results] = {}
    for backend in ("reference", "cpu"):
        leaves = {"x": x.clone(), "values": values.clone(), "bias": bias.clone()}
        with use_backend(backend):
            y = functional.spmm(
                leaves["x"].requires_grad_(), leaves["values"].requires_grad_(), cols, rows,
                leaves["bias"].requires_grad_(),
            )  # fmt: skip
            grads = torch.autograd.grad(y, list(leaves.values()), dy)
        by_backend[backend] = {"y": y, **dict(zip(leaves, grads, strict=True))}
    grads = spmm_cuda.spmm_backward(dy, x, w)
    cuda = {"y": spmm_cuda.spmm(x, w, bias), **dict(zip(("x", "values", "bias"), grads, strict=True))}
    by_backend["cuda"] = cuda
    xd, wd, d, at = x.double(), w.double(), dy.double(), w.nonzero(as_tuple=True)
    agree(by_backend, {
        "y": Truth(xd @ wd.T + bias, xd.abs() @ wd.abs().T + bias.abs(), 71),
        "x": Truth(d @ wd, d.abs() @ wd.abs(), 33),
        "values": Truth((d.T @ xd)[at], (d.abs().T @ xd.abs())[at], batch),
        "bias": Truth(d.sum(0), d.abs().sum(0), batch),
    })  # fmt: skip


@pytest.mark.parametrize("name", ["3x3", "groups", "uneven"])
def test_sparse_convolution(name: str) -> None:
    sparse, x = sparse_conv(name), torch.randn(2, CONVS[name][0], *CONVS[name][-1])
    by_backend: dict[str, Results] = {}
    with torch.no_grad():
        for backend in ("reference", "cpu"):
            with use_backend(backend):
                by_backend[backend] = {"y": sparse(x)}
    by_backend["cuda"] = {"y": sparse_conv_cuda.conv2d(sparse, x, "one")}
    w, b = sparse.weight_dense().detach().double(), sparse.bias.detach().double()

    def conv(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(
            x, w, b, sparse.stride, sparse.padding, sparse.dilation, sparse.groups
        )

    size = conv(x.double().abs(), w.abs(), b.abs())
    agree(by_backend, {"y": Truth(conv(x.double(), w, b), size, sparse.matrix_shape[1] + 1)})
