"""multi_sample_head in CUDA, on the emulated GPU: every product and arithmetic against explicit passes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.emulator import SCHEDULES, emulated, memory, misaligned
from vdropkern.ops.multi_sample_head import keep_masks

from .test_multi_sample_head import OPTIONS, SEED, classes_of, compare, made, upstream_of

gpu = emulated()
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


class Math(NamedTuple):
    """A dtype and how it is multiplied; `roundoff`: the unit one of operands, of half types' gradients."""

    dtype: torch.dtype
    precision: int
    roundoff: float


MATHS = {
    "ieee": Math(torch.float32, 0, 0.0),
    "tf32x3": Math(torch.float32, 1, 0.0),
    "tf32": Math(torch.float32, 3, 2**-11),
    "bf16": Math(torch.bfloat16, 1, 2**-11),
    "fp16": Math(torch.float16, 1, 2**-11),
}
# one, two and four samples of a word in a tile, classes within one and beyond it, ragged everywhere
SHAPES = [
    (4, 5, 3, 1),
    (1, 1, 2, 3),
    (5, 37, 11, 2),
    (7, 64, 10, 8),
    (3, 130, 1, 5),
    (5, 20, 70, 3),
    (18, 70, 140, 4),
    (9, 20, 4, 50),
    (70, 129, 33, 1),
    (40, 68, 261, 12),
]
Results = dict[str, Tensor]


def run(
    t: dict[str, Tensor], samples: int, options: dict[str, Any], math_: Math, *, grad: Tensor | None = None,
    needs: tuple[bool, bool] = (True, True), multiprocessors: int = 2, offset: int = 0,
) -> tuple[Results, dict[str, tuple[int, int]]]:  # fmt: skip
    """(losses and gradients, bytes loaded and stored by tensor) of one call.

    `grad`: of each row's loss; `offset`: elements by which every tensor misses a multiple of 16 bytes.
    """
    rows, features = t["h"].shape
    classes, reduction = t["weight"].shape[0], options.get("reduction", "mean")
    none = reduction == "none"
    with memory(gpu) as m:

        def given(name: str, dtype: torch.dtype) -> object | None:
            tensor = {**options, **t}.get(name)
            return None if tensor is None else m.input(name, misaligned(tensor.to(dtype), offset))

        outputs, places = {}, {}
        for name, shape, wanted in (
            ("loss", (), not none),
            ("losses", (rows,), none and grad is None),
            ("dh", (rows, features), needs[0] and (not none or grad is not None)),
            ("dweight", (classes, features), needs[1] and (not none or grad is not None)),
            ("dbias", (classes,), needs[1] and "bias" in t and (not none or grad is not None)),
        ):
            places[name] = None
            if wanted:
                outputs[name], places[name] = m.output(name, shape, torch.float32, offset)  # type: ignore[arg-type]
        arguments = {
            "rows": rows, "features": features, "classes": classes, "samples": samples,
            "type": TYPES[math_.dtype], "precision": math_.precision,
            "h": given("h", math_.dtype), "weight": given("weight", math_.dtype),
            "bias": given("bias", torch.float32), "target": m.input("target", t["target"]),
            "class_weight": given("class_weight", torch.float32), "seed": m.input("seed", torch.tensor(SEED)),
            "p": options.get("p", 0.5), "ignore_index": options.get("ignore_index", -100),
            "smoothing": options.get("label_smoothing", 0.0), "mean": reduction == "mean",
            "row_scale": None if grad is None else m.input("row_scale", grad.float()), **places,
        }  # fmt: skip
        size = gpu.multi_sample_head_workspace(arguments, multiprocessors)
        _, workspace = m.output("workspace", (size // 4,), torch.float32)
        gpu.multi_sample_head(arguments, multiprocessors, workspace)
        moved = m.traffic()
    return outputs, moved


def on_gpu(
    t: dict[str, Tensor], samples: int, options: dict[str, Any], math_: Math, **how: Any
) -> dict[str, Tensor]:
    """Results of `upstream_of`, by the names of `test_multi_sample_head.results`."""
    upstream = upstream_of(t, options)
    names = {"dh": "d_h", "dweight": "d_weight", "dbias": "d_bias"}
    if options.get("reduction") == "none":
        found = run(t, samples, options, math_, **how)[0]
        found |= run(t, samples, options, math_, grad=upstream, **how)[0]
        found["loss"] = found.pop("losses")
        return {names.get(k, k): v for k, v in found.items()}
    found = run(t, samples, options, math_, **how)[0]
    return {names.get(k, k): v * upstream if k in names else v for k, v in found.items()}


def check(
    shape: tuple[int, ...], math_: Math, options: dict[str, Any] | None = None, **how: Any
) -> dict[str, Tensor]:
    *sizes, samples = shape
    t = made(*sizes, dtype=math_.dtype)
    given = classes_of(options or {}, sizes[2], torch.float32)
    found = on_gpu(t, samples, given, math_, **how)
    compare(found, t, samples, given, math_.roundoff)
    return found


@pytest.mark.parametrize("name", MATHS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_explicit_passes(shape: tuple[int, ...], name: str) -> None:
    gpu.configure(SCHEDULES[sum(shape) % 3])
    check(shape, MATHS[name])


@pytest.mark.parametrize("options", list(OPTIONS.values())[1:], ids=list(OPTIONS)[1:])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[5], (9, 33, 150, 4)], ids=str)
def test_options(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    for name in ("ieee", "tf32x3", "bf16"):
        check(shape, MATHS[name], options)


@pytest.mark.parametrize("name", MATHS)
@pytest.mark.parametrize("offset", [1, 2, 4])
def test_any_alignment(name: str, offset: int) -> None:
    check((9, 48, 20, 4), MATHS[name], offset=offset)


@pytest.mark.parametrize("name", MATHS)
def test_large_tiles_and_parts(name: str) -> None:
    """Tiles of 128 rows, where there are enough; the slots in parts, where there are few."""
    check((40, 70, 250, 8), MATHS[name], multiprocessors=1)
    check((130, 12, 10, 4), MATHS[name], multiprocessors=16)
    launched = {r["kernel"]: r["launches"] for r in gpu.records()}
    assert sum(n for kernel, n in launched.items() if "sum_parts" in kernel) == 2


def test_more_classes_than_are_held() -> None:
    """Rows of logits that a warp of four holds, that a block holds, and longer ones."""
    for classes in (2100, 8200):
        t = made(1, 4, classes, torch.float32)
        compare(on_gpu(t, 1, {}, MATHS["tf32x3"]), t, 1, {})


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1 - 2.0**-40])
@pytest.mark.parametrize("samples", range(1, 10))
def test_masks_to_the_bit(samples: int, p: float) -> None:
    """How many samples keep each feature, as each of the products has it.

    Masks of a sample do not depend on how many there are, so that each is seen alone.
    """
    rows, features, scale = 19, 21, 1 / (1 - p)
    kept = keep_masks(torch.tensor(SEED), samples, rows, features, p).sum(0)
    math_, options = MATHS["ieee"], {"p": p, "reduction": "none"}
    t = {
        "h": torch.ones(rows, features) / scale, "weight": torch.zeros(2, features),
        "target": torch.zeros(rows, dtype=torch.int64),
    }  # fmt: skip
    # equal logits: a gradient of -+1/2 a sample
    for row in (0, 7, 18):
        only = torch.zeros(rows)
        only[row] = 2.0 * samples
        found = run(t, samples, options, math_, grad=only)[0]["dweight"]
        torch.testing.assert_close(found[1], kept[row].float(), rtol=1e-6, atol=0)
    t["h"], t["weight"] = torch.zeros(rows, features), torch.tensor([[0.0], [2.0]]).expand(2, features)
    found = run(t, samples, options, math_, grad=torch.full((rows,), samples / scale))[0]["dh"]
    torch.testing.assert_close(found, kept.float(), rtol=1e-6, atol=0)
    # one feature a row: log(1 + e^2) where a sample keeps it, else log 2
    column = torch.arange(rows) % features
    t["h"] = torch.zeros(rows, features).scatter_(1, column[:, None], 1 / scale)
    found = run(t, samples, options, math_)[0]["losses"] * samples
    high, low = torch.tensor([2.0, 0.0]).exp().log1p()
    expected = kept[torch.arange(rows), column] * (high - low) + samples * low
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_same_bits_under_every_schedule() -> None:
    for name in ("ieee", "tf32x3", "bf16"):
        found = []
        for seed in SCHEDULES:
            gpu.configure(seed)
            t = made(130, 20, 70, MATHS[name].dtype)
            found.append(on_gpu(t, 4, {}, MATHS[name], multiprocessors=16))
        assert all(torch.equal(t, other[key]) for other in found[1:] for key, t in found[0].items())


def test_truncating_tensor_cores() -> None:
    """Cores that cut operands and sums instead of rounding them stay within the same bounds."""
    try:
        gpu.configure(0, truncate=True)
        for name in ("tf32x3", "tf32", "bf16", "fp16"):
            check((9, 70, 80, 4), MATHS[name])
    finally:
        gpu.configure(0)


@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4])
def test_extreme_logits_are_finite(scale: float) -> None:
    t = made(6, 30, 70, torch.float32)
    t["h"] = t["h"] * scale
    for classes in (9, 70):
        own = {
            **t,
            "weight": t["weight"][:classes],
            "bias": t["bias"][:classes],
            "target": t["target"] % classes,
        }
        for name in ("ieee", "tf32x3"):
            assert all(r.isfinite().all() for r in run(own, 8, {}, MATHS[name])[0].values())


def test_nan_is_not_swallowed() -> None:
    for place in ((2, 3), None):
        for classes in (9, 150):
            t = made(6, 30, classes, torch.float32)
            if place:
                t["h"][place] = torch.nan
            else:
                t["weight"][3, 5] = torch.inf  # kept by some samples, and times 0 in the others
            found = run(t, 8, {"reduction": "none"}, MATHS["tf32x3"])[0]["losses"]
            assert found.isnan().tolist() == [place is None or row == 2 for row in range(6)]
            found = run(t, 8, {"reduction": "none"}, MATHS["tf32x3"], grad=torch.ones(6))[0]
            assert found["dweight"].isnan().any()
            assert found["dh"].isnan().any(1).tolist() == [place is None or row == 2 for row in range(6)]


def test_padding_meets_no_weight() -> None:
    """Samples beyond the last have no gradient, and an infinite weight of theirs is not looked at."""
    t = made(3, 8, 5, torch.float32)
    t["target"] = torch.full((3,), -100)
    t["weight"][:] = torch.inf
    found = run(t, 3, {"reduction": "sum"}, MATHS["ieee"])[0]
    assert found["loss"] == 0 and (found["dweight"] == 0).all() and (found["dbias"] == 0).all()


def test_everything_ignored_no_class_and_no_row() -> None:
    """A mean of nothing is NaN, its gradients 0, as torch has it; no class, NaN in its row."""
    for classes in (5, 140):
        t = made(4, 9, classes, torch.float32)
        t["target"] = torch.full((4,), -100)
        found = run(t, 4, {}, MATHS["tf32x3"])[0]
        assert found["loss"].isnan() and all((found[k] == 0).all() for k in ("dh", "dweight", "dbias"))
        t["target"] = torch.tensor([1, classes, -1, 2])
        for weights in ({}, {"class_weight": torch.ones(classes)}):
            found = run(t, 4, {"reduction": "none", **weights}, MATHS["tf32x3"])[0]["losses"]
            assert found.isnan().tolist() == [False, True, True, False]
            assert run(t, 4, weights, MATHS["tf32x3"])[0]["loss"].isnan()
        none = {**t, "h": t["h"][:0], "target": t["target"][:0]}
        for reduction in ("mean", "sum"):
            found = run(none, 4, {"reduction": reduction}, MATHS["tf32x3"])[0]
            assert found["loss"].isnan() if reduction == "mean" else found["loss"] == 0
            assert (found["dweight"] == 0).all() and (found["dbias"] == 0).all()


def test_only_what_is_asked_for() -> None:
    t = made(7, 40, 11, torch.float32)
    whole = run(t, 3, {}, MATHS["tf32x3"])[0]
    for needs in ((True, False), (False, True), (False, False)):
        found, moved = run(t, 3, {}, MATHS["tf32x3"], needs=needs)
        assert found.keys() == {"loss"} | ({"dh"} if needs[0] else set()) | (
            {"dweight", "dbias"} if needs[1] else set()
        )
        assert all(torch.equal(value, whole[name]) for name, value in found.items())
        # without gradients no logit is stored, as one tile has all classes
        slots = 2 * 64
        assert (moved["workspace"][1] < 4 * slots * 11) == (needs == (False, False))


@pytest.mark.parametrize("name", ["ieee", "tf32x3", "bf16"])
def test_traffic(name: str) -> None:
    """What tiles demand, to the byte: an operand once for every tile that needs it, a result once.

    Rows of h once for every four samples; the logits, which become gradients, there and back.
    """
    rows, features, classes, samples = 32, 128, 256, 8
    math_ = MATHS[name]
    t = made(rows, features, classes, math_.dtype)
    moved = run(t, samples, {}, math_, multiprocessors=1)[1]
    slots, size = rows * samples, math_.dtype.itemsize
    block = 64 if name == "ieee" else 128
    h, w, g = rows * features, classes * features, slots * classes  # elements
    down, across, slot_tiles = classes // block, features // 64, slots // 64
    # logits: rows of h for every tile of classes, and for each two quads; dweight
    assert moved["h"] == ((down * samples // 4 + down * samples // 4) * h * size, 0)
    # logits: for every tile of slots; dh: for the slots of two tiles at a time
    assert moved["weight"] == ((slot_tiles + slots // block) * w * size, 0)
    # dh: samples beyond those of a tile are added to what is there
    turns = samples // 4 * 64 // block
    assert (moved["dh"], moved["dweight"]) == ((4 * h * (turns - 1), 4 * h * turns), (0, 4 * w))
    loaded, stored = moved["workspace"]
    others = 4 * (slots + rows + 1)
    # logits, and the gradients in their place; the losses of slots and of rows, the norms
    assert stored == 4 * 2 * g + others + 4 * 2
    # for the losses, for every tile of features of dh and of dweight; a norm for every slot and warp of rows
    assert loaded == 4 * (g + across * g + across * g) + others + 4 * (slots + 256 // 32)
    # by each of the eight parts of a block that finish slots
    assert moved["bias"] == (4 * slot_tiles * classes * 8, 0)
