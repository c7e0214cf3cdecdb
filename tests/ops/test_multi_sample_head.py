"""multi_sample_head: the loss and gradients of M explicit passes with the same masks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as TF
from torch import Tensor

from tests.cases import lay_out
from tests.tolerance import assert_close, tolerance
from vdropkern import functional as F
from vdropkern.ops.multi_sample_head import keep_masks

SEED = 0x1234_5678_9ABC_DEF1

# rows, features, classes, samples: within one tile and beyond it, ragged everywhere, several blocks
SHAPES = [
    (4, 5, 3, 1),
    (5, 37, 11, 2),
    (7, 64, 10, 8),
    (3, 130, 1, 5),
    (1, 1, 2, 3),
    (13, 33, 70, 9),
    (9, 20, 4, 50),
    (70, 129, 33, 4),
    (2, 1100, 17, 7),
    (40, 513, 260, 16),
]
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16, "fp16": torch.float16}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothed": {"label_smoothing": 0.1},
    "ignoring": {"ignore_index": 0, "reduction": "mean"},
    "weighted": {"class_weight": True, "label_smoothing": 0.2, "p": 0.3},
    "weighted-none": {"class_weight": True, "reduction": "none", "ignore_index": 0},
}


def made(rows: int, features: int, classes: int, dtype: torch.dtype) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(rows * features)
    shapes = {"h": (rows, features), "weight": (classes, features), "bias": (classes,)}
    tensors = {k: torch.randn(s, generator=g, dtype=torch.float64) for k, s in shapes.items()}
    tensors["h"] = tensors["h"].relu()  # kept zeros are not dropped ones
    tensors["weight"] = tensors["weight"] / features**0.5
    return {k: t.to(dtype) for k, t in tensors.items()} | {
        "target": torch.randint(classes, (rows,), generator=g)
    }


def classes_of(options: dict[str, Any], classes: int, dtype: torch.dtype) -> dict[str, Any]:
    if not options.get("class_weight"):
        return options
    return {**options, "class_weight": torch.linspace(0.5, 2, classes, dtype=dtype)}


def results(
    tensors: dict[str, Tensor], samples: int, upstream: Tensor, options: dict[str, Any]
) -> dict[str, Tensor]:
    leaves = {k: tensors[k].detach().requires_grad_() for k in ("h", "weight", "bias") if k in tensors}
    call = {"bias": None, **leaves, "target": tensors["target"], "samples": samples, "seed": SEED, **options}
    loss = F.multi_sample_head(**call)
    d = torch.autograd.grad(loss, list(leaves.values()), upstream.to(loss.dtype))
    return {"loss": loss.detach()} | {f"d_{k}": g for k, g in zip(leaves, d, strict=True)}


def explicit(
    tensors: dict[str, Tensor], samples: int, upstream: Tensor, options: dict[str, Any]
) -> dict[str, Tensor]:
    """M passes through torch's own functions, in float64."""
    leaves = {
        k: tensors[k].detach().double().requires_grad_() for k in ("h", "weight", "bias") if k in tensors
    }
    h, p = leaves["h"], options.get("p", 0.5)
    masks = keep_masks(torch.tensor(SEED), samples, h.shape[0], h.shape[1], p)
    rest = {k: v for k, v in options.items() if k not in ("p", "class_weight")}
    weight = options.get("class_weight")
    losses = [
        TF.cross_entropy(
            TF.linear(h * mask / (1 - p), leaves["weight"], leaves.get("bias")),
            tensors["target"],
            None if weight is None else weight.double(),
            **rest,
        )
        for mask in masks
    ]
    loss = torch.stack(losses).mean(0)
    d = torch.autograd.grad(loss, list(leaves.values()), upstream.double())
    return {"loss": loss.detach()} | {f"d_{k}": g for k, g in zip(leaves, d, strict=True)}


def check(
    tensors: dict[str, Tensor], samples: int, options: dict[str, Any], device: str | torch.device = "cpu"
) -> None:
    """Against the truth on the CPU; `device`: where the op runs."""
    upstream = upstream_of(tensors, options)
    there = {k: t.to(device) for k, t in tensors.items()}
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in options.items()}
    actual = {k: t.cpu() for k, t in results(there, samples, upstream.to(device), moved).items()}
    compare(actual, tensors, samples, options)


def upstream_of(tensors: dict[str, Tensor], options: dict[str, Any]) -> Tensor:
    none = options.get("reduction") == "none"
    return torch.linspace(-1, 2, tensors["h"].shape[0]) if none else torch.tensor(-0.75)


def compare(
    actual: dict[str, Tensor],
    tensors: dict[str, Tensor],
    samples: int,
    options: dict[str, Any],
    roundoff: float = 0.0,
) -> None:
    """Hold results of `upstream_of` to the truth; `roundoff`: the unit one of operands that are rounded."""
    upstream = upstream_of(tensors, options)
    expected = explicit(tensors, samples, upstream, options)
    rows, features = tensors["h"].shape
    classes = tensors["weight"].shape[0]
    length = features + classes + rows * samples
    assert actual.keys() == expected.keys()
    p = options.get("p", 0.5)
    h, w = tensors["h"].double().abs() / (1 - p), tensors["weight"].double().abs()
    logit = (h @ w.T).max() + 1  # what errors of all that follows scale with
    upstream = upstream.double().abs().max() * (2 if "class_weight" in options else 1)
    wider = 1 + 2 * roundoff * (1 + roundoff) / tolerance(torch.float32, length)
    for name, value in expected.items():
        size = {
            "loss": logit.expand_as(value) * 2,
            "d_h": (upstream * logit * w.sum(0) / (1 - p)).expand_as(value) if name == "d_h" else value,
            "d_weight": (upstream * logit * h.sum(0)).expand_as(value) if name == "d_weight" else value,
            "d_bias": (upstream * logit * rows).expand_as(value) if name == "d_bias" else value,
        }[name]
        assert torch.isfinite(actual[name]).all(), name
        assert_close(actual[name], value, size.abs() * wider, length, name)


@pytest.mark.parametrize("samples", [1, 4, 5])
def test_a_batch_of_nothing(samples: int, backend: str) -> None:
    """As `torch.nn.functional.cross_entropy` has it: a mean of nothing is NaN, a sum 0, gradients are 0."""
    h, weight = torch.zeros(0, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    target = torch.zeros(0, dtype=torch.int64)
    for reduction in ("mean", "sum", "none"):
        loss = F.multi_sample_head(h, weight, None, target, samples=samples, seed=SEED, reduction=reduction)
        expected = TF.cross_entropy(h @ weight.T, target, reduction=reduction)
        torch.testing.assert_close(loss, expected, equal_nan=True)
    by_h, by_weight = torch.autograd.grad(loss.sum(), (h, weight))
    assert by_h.shape == (0, 5) and (by_weight == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_explicit_passes(shape: tuple[int, ...], dtype: str, backend: str) -> None:
    *sizes, samples = shape
    check(made(*sizes, dtype=DTYPES[dtype]), samples, {})


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[5], SHAPES[7]], ids=str)
def test_options(shape: tuple[int, ...], options: dict[str, Any], backend: str) -> None:
    *sizes, samples = shape
    for dtype in (torch.float32, torch.float64):
        check(made(*sizes, dtype=dtype), samples, classes_of(options, sizes[2], dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_sample_is_dropout(dtype: torch.dtype, backend: str) -> None:
    """The mask of `mul_noise` at the same seed."""
    t = made(9, 70, 12, dtype)
    loss = F.multi_sample_head(**t, samples=1, p=0.3, seed=SEED)
    dropped = F.mul_noise(t["h"], 0.3, seed=SEED)
    expected = TF.cross_entropy(TF.linear(dropped, t["weight"], t["bias"]), t["target"])
    torch.testing.assert_close(loss, expected)


def test_no_dropout_is_one_pass(backend: str) -> None:
    t = made(9, 70, 12, torch.float64)
    expected = TF.cross_entropy(TF.linear(t["h"], t["weight"], t["bias"]), t["target"])
    for samples in (1, 8):
        torch.testing.assert_close(F.multi_sample_head(**t, samples=samples, p=0.0), expected)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.77])
def test_masks_drop_with_p_and_independently(p: float) -> None:
    masks = keep_masks(torch.tensor(3), 8, 400, 301, p).double().flatten(1)
    n = masks.shape[1]
    sigma = (p * (1 - p)) ** 0.5
    assert ((masks.mean(1) - (1 - p)).abs() < 5 * sigma / n**0.5).all()
    z = (masks - (1 - p)) / sigma
    correlation = (z @ z.T / n - torch.eye(8)).fill_diagonal_(0)
    assert correlation.abs().max() < 1 / 128 * (p != 0.5) + 5 / n**0.5


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck(reduction: str, backend: str) -> None:
    t = {k: v.requires_grad_(v.is_floating_point()) for k, v in made(4, 6, 5, torch.float64).items()}
    call = functools.partial(
        F.multi_sample_head,
        target=t["target"],
        samples=5,
        reduction=reduction,
        label_smoothing=0.1,
        seed=SEED,
    )
    assert torch.autograd.gradcheck(lambda h, w, b: call(h, w, b), (t["h"], t["weight"], t["bias"]))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "strided", "expanded"])
def test_strided(layout: str, backend: str) -> None:
    t = made(7, 40, 11, torch.float32)
    t |= {k: lay_out(v, layout) for k, v in t.items() if k != "target"}
    check(t, 3, {})


def test_leading_dimensions_and_no_bias(backend: str) -> None:
    t = made(12, 9, 5, torch.float64)
    del t["bias"]
    check(t, 4, {"reduction": "none"})
    flat = F.multi_sample_head(**t, bias=None, reduction="none", seed=SEED)
    t["h"], t["target"] = t["h"].reshape(3, 4, 9), t["target"].reshape(3, 4)
    assert torch.equal(F.multi_sample_head(**t, bias=None, reduction="none", seed=SEED), flat.reshape(3, 4))


@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
def test_extreme_logits_are_finite(scale: float, backend: str) -> None:
    t = made(6, 30, 9, torch.float32)
    t["h"] = t["h"] * scale
    assert all(torch.isfinite(r).all() for r in results(t, 8, torch.tensor(1.0), {}).values())


def test_nan_is_not_swallowed(backend: str) -> None:
    t = made(6, 30, 9, torch.float32)
    t["h"][2, 3] = torch.nan
    found = results(t, 8, torch.ones(6), {"reduction": "none"})
    assert found["loss"].isnan().tolist() == [r == 2 for r in range(6)]
    assert found["d_weight"].isnan().any()


def test_only_asked_gradients(backend: str) -> None:
    t = made(7, 40, 11, torch.float32)
    whole = results(t, 3, torch.tensor(1.0), {})
    for asked in ("h", "weight", "bias"):
        own = {k: v.detach().requires_grad_(k == asked) for k, v in t.items() if k != "target"}
        loss = F.multi_sample_head(**own, target=t["target"], samples=3, seed=SEED)
        assert torch.equal(torch.autograd.grad(loss, own[asked])[0], whole[f"d_{asked}"])


@pytest.mark.usefixtures("threads")
def test_threads_change_nothing(backend: str) -> None:
    if backend == "reference":
        pytest.skip("ATen's own affair")
    t = made(150, 260, 70, torch.float32)
    torch.set_num_threads(1)
    alone = results(t, 8, torch.tensor(1.0), {})
    for count in (2, 3, 7):
        torch.set_num_threads(count)
        for name, value in results(t, 8, torch.tensor(1.0), {}).items():
            assert torch.equal(value, alone[name]), f"{name}, {count} threads"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, backend: str) -> None:
    t = made(6, 30, 9, torch.float32)
    with torch.autocast("cpu", dtype=dtype):
        found = results(t, 8, torch.tensor(1.0), {})
    assert found["loss"].dtype == torch.float32
    assert found["d_weight"].dtype == torch.float32
    plain = results(t, 8, torch.tensor(1.0), {})
    torch.testing.assert_close(found["loss"], plain["loss"], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["none"]], ids=["mean", "none"])
def test_opcheck_and_functorch(options: dict[str, Any]) -> None:
    t = made(5, 12, 4, torch.float32)
    inputs = (t["h"], t["weight"], t["bias"], t["target"], None, torch.tensor(SEED), 6, 0.5)
    reduction = options.get("reduction", "mean")
    torch.library.opcheck(
        torch.ops.vdropkern.multi_sample_head.default, (*inputs, reduction, -100, 0.1, True, True)
    )
    torch.library.opcheck(
        torch.ops.vdropkern.multi_sample_head_backward.default,
        (torch.ones(5), *inputs, -100, 0.1, True, False),
    )

    def loss(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return F.multi_sample_head(h, w, b, t["target"], 6, seed=SEED, reduction=reduction).sum()

    d = torch.func.grad(loss, argnums=(0, 1, 2))(t["h"], t["weight"], t["bias"])
    found = results(t, 6, torch.ones(5 if reduction == "none" else ()), options)
    for name, g in zip(("h", "weight", "bias"), d, strict=True):
        torch.testing.assert_close(g, found[f"d_{name}"])


def test_gradients_of_gradients_raise() -> None:
    t = made(5, 12, 4, torch.float32)
    h = t["h"].requires_grad_()
    (d,) = torch.autograd.grad(F.multi_sample_head(**t), h, create_graph=True)
    with pytest.raises(RuntimeError, match="gradients of gradients are not implemented"):
        d.sum().backward()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"samples": 0}, "samples must be an int >= 1, got 0"),
        ({"p": 1.0}, r"p must be in \[0, 1\), got 1.0"),
        ({"label_smoothing": 1.1}, r"label_smoothing must be in \[0, 1\], got 1.1"),
        ({"reduction": "max"}, "unknown reduction 'max'; accepted: mean, sum, none"),
        ({"h": torch.ones(4, 3)}, r"h must be \[\*, D\] with D = 6"),
        ({"h": torch.ones(4, 6).double()}, r"must share one floating dtype, got torch\.float64"),
        ({"target": torch.ones(4)}, r"target must be int64 of shape \(4,\), got torch\.float32"),
        ({"bias": torch.ones(3)}, r"bias must be floating of shape \[K\] = \(5,\)"),
        ({"class_weight": torch.ones(3)}, r"class_weight must be floating of shape \[K\] = \(5,\)"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        F.multi_sample_head(**{**made(4, 6, 5, torch.float32), **changes})


def test_target_out_of_range_is_refused(backend: str) -> None:
    t = made(4, 6, 5, torch.float32)
    t["target"][2] = 5
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        F.multi_sample_head(**t)
