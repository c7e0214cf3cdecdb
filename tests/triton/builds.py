"""Every Triton kernel as the launches specialise it, with every shipped tile, for tests/triton/aot.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from gpu import traffic
from vdropkern._precision import Precision
from vdropkern.ops import _triton_sums as sums
from vdropkern.ops.gate import triton as gate
from vdropkern.ops.kl import triton as kl
from vdropkern.ops.kl.triton_terms import prior_constant
from vdropkern.ops.linear_lrt import tiles
from vdropkern.ops.linear_lrt import triton as linear_lrt
from vdropkern.ops.linear_lrt import triton_kernels as kernels
from vdropkern.ops.mul_noise import triton as mul_noise
from vdropkern.ops.mul_noise import triton_learned as learned
from vdropkern.ops.philox_normal import triton as philox_normal
from vdropkern.ops.weight_mask import triton as weight_mask
from vdropkern.ops.weight_noise import triton as weight_noise

from .build import ASYNC, MUFU, RUNS, TENSOR_CORE, WIDE, Build, typed
from .builds_head import heads
from .builds_images import convolutions, signs

PRIORS = ("log-uniform", "log-uniform-kingma", "log-uniform-exact", "ard", "normal")
PRODUCT_TYPES = {
    "forward": "x X, mu X, log *fp32, bias *fp32, seed *i64, y X, std *fp32, partial *fp32, M i32, N i32,"
    " K i32, stride_out i32, eps fp32, exp_clip fp32",
    "input_gradient": "dy X, g2 G, x X, mu X, log *fp32, dx X, partial *fp32, M i32, N i32, K i32,"
    " stride_out i32, exp_clip fp32",
    "weight_gradient": "dy X, g2 G, x X, mu X, log *fp32, grad_kl *fp32, dmu X, dlog *fp32, partial *fp32,"
    " M i32, N i32, K i32, stride_out i32, exp_clip fp32",
}
FINISH_TYPES = {
    "forward": "partial *fp32, log *fp32, bias *fp32, seed *i64, y X, std *fp32, M i32, N i32,"
    " stride_out i32, eps fp32",
    "input_gradient": "partial *fp32, log *fp32, x X, dx X, M i32, N i32, stride_in i32",
    "weight_gradient": "partial *fp32, mu X, log *fp32, grad_kl *fp32, dmu X, dlog *fp32, M i32, N i32,"
    " stride_out i32, exp_clip fp32",
}
KERNELS = {
    "forward": (kernels.forward_kernel, kernels.finish_forward_kernel),
    "input_gradient": (kernels.input_gradient_kernel, kernels.finish_input_kernel),
    "weight_gradient": (kernels.weight_gradient_kernel, kernels.finish_weight_kernel),
}


def _epilogue(product: str, form: int = 0, prior: str = "log-uniform") -> dict[str, Any]:
    """The heaviest: with bias, clip and KL gradient."""
    of_weights = {"PRIOR": prior_constant(prior)}
    extra = {"forward": {"BIAS": True}, "input_gradient": {}, "weight_gradient": of_weights}[product]
    return {"FORM": form, "CLIP": True, **extra}


def product_build(
    architecture: str,
    product: str,
    tile: tiles.Tile,
    x: str,
    precision: Precision,
    split: int = 1,
    **epilogue: Any,
) -> Build:
    g2 = "*bf16" if precision.variance == "bf16" else "*fp32"
    capability = divmod(int(architecture.removeprefix("sm_")), 10)
    options = linear_lrt.launch_options(product, tile, split, precision, 16, capability)
    launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
    constants = {**options, "stride_in": 1, **_epilogue(product, **epilogue)}
    extra = "".join(f"-{k}{v}" for k, v in epilogue.items()) + (f"-split{split}" if split > 1 else "")
    shape = f"{tile.m}x{tile.n}x{tile.k}-w{tile.warps}-s{tile.stages}"
    name = f"{product}-{x[1:]}-{precision.mean}-{precision.variance}-{shape}{extra}"
    sizes = {"x": 4 if x == "*fp32" else 2, "log": 4, "g2": 4 if g2 == "*fp32" else 2}
    arithmetic = tiles.arithmetic_of(*precision)
    must = (WIDE, ASYNC, MUFU) + ((TENSOR_CORE.get(architecture, "HMMA"),) if arithmetic != "ieee" else ())
    meant = [e.shape for e in tiles.table(architecture)[product][arithmetic] if e.tile == tile]
    return Build(
        name, KERNELS[product][0], typed(PRODUCT_TYPES[product], x, g2), constants, launch, tile.m * tile.n,
        tiles.shared_bytes(product, tile, sizes) + 1024,  # the system's own, from sm_90 on, and vectors
        must, max((traffic.of_tile(architecture, product, arithmetic, tile, s) for s in meant), default=None),
    )  # fmt: skip


def _products(architecture: str) -> Iterator[Build]:
    table = tiles.table(architecture)
    for product in tiles.PRODUCTS:
        for arithmetic, runs in RUNS.items():
            shipped = list(dict.fromkeys(entry.tile for entry in table[product][arithmetic]))
            for tile in shipped:
                # float16 differs from bfloat16 in the opcodes' names
                for x, precision in runs if tile == shipped[-1] else runs[:1]:
                    yield product_build(architecture, product, tile, x, precision)
        largest = table[product]["tf32"][-1].tile
        yield product_build(architecture, product, largest, "*fp32", Precision("tf32", "bf16"))
        yield product_build(architecture, product, largest, "*fp32", Precision("tf32", "tf32"), split=4)
        for form in (1, 2, 3):
            prior = {"prior": "log-uniform" if form == 1 else "none"} if product == "weight_gradient" else {}
            yield product_build(
                architecture, product, largest, "*fp32", Precision("tf32", "tf32"), form=form, **prior
            )
        if product == "weight_gradient":
            for prior in PRIORS[1:]:
                yield product_build(
                    architecture, product, largest, "*fp32", Precision("tf32", "tf32"), prior=prior
                )


def _others() -> Iterator[Build]:
    down, across = linear_lrt.FINISH
    for product, (_, finish) in KERNELS.items():
        constants = {**_epilogue(product), "SPLIT": 4, "BLOCK_M": down, "BLOCK_N": across}
        if product != "weight_gradient":
            del constants["CLIP"]
        else:
            constants["stride_in"] = 1
        if product == "input_gradient":
            constants["stride_in"] = 1
        types = {k: v for k, v in typed(FINISH_TYPES[product]).items() if k not in constants}
        yield Build(
            f"finish_{product}", finish, types, constants, {"num_warps": 4}, down * across, must=(WIDE,)
        )
    down, across = linear_lrt.OUTPUT_GRADIENT
    yield Build(
        "output_gradient", kernels.output_gradient_kernel,
        typed("dy *fp32, std *fp32, seed *i64, g2 *fp32, bias_part *fp32, M i32, N i32"),
        {"NOISE": True, "BIAS": True, "BLOCK_M": down, "BLOCK_N": across}, {"num_warps": 4}, down * across,
        must=(WIDE, MUFU),
    )  # fmt: skip
    types = "seed *i64, out {}, rows i32, cols i32, groups i32"
    for name, out, bits in (("philox_normal", "*fp32", False), ("philox_bits", "*i64", True)):
        constants = {"BITS": bits, "ROWS": 1, "GROUPS": philox_normal.GROUPS, "rows": 1}
        noise_types = {k: v for k, v in typed(types.format(out)).items() if k != "rows"}
        yield Build(
            name,
            philox_normal.noise_kernel,
            noise_types,
            constants,
            {"num_warps": 4},
            4 * philox_normal.GROUPS,
            must=(WIDE,) if bits else (WIDE, MUFU),
        )
    mul_types = "x *fp32, seed *i64, y *fp32, cols i32, groups i32, below i64, factor fp32"
    for noise in ("bernoulli", "gaussian"):
        yield Build(
            f"mul_noise-{noise}", mul_noise.mul_noise_kernel, typed(mul_types),
            {"BERNOULLI": noise == "bernoulli", "ROWS": 1, "GROUPS": philox_normal.GROUPS, "rows": 1},
            {"num_warps": 4}, 4 * philox_normal.GROUPS, must=(WIDE,),
        )  # fmt: skip
    types = "mu *fp32, log_parameter *fp32, grad *fp32, dmu *fp32, dlog *fp32, partial *fp32, n i32"
    for prior in PRIORS:
        for grad in (False, True):
            constants = {
                "PRIOR": prior_constant(prior),
                "IS_ALPHA": False,
                "GRAD": grad,
                "BLOCK": kl.BLOCK,
                "STEPS": kl.STEPS,
            }
            name = f"kl{'_grad' if grad else ''}-{prior}"
            launch = {"num_warps": 8}
            yield Build(name, kl.kl_kernel, typed(types), constants, launch, kl.BLOCK, must=(WIDE, MUFU))
    yield from _sums()


def _sums() -> Iterator[Build]:
    """Of one number, and of many."""
    types = typed("partial *fp32, out *fp32, parts i32, n i32")
    one = {"PARTS": sums.TILE, "COLS": 1, "n": 1}
    many = {"PARTS": sums.TILE // sums.COLS, "COLS": sums.COLS}
    for name, constants in (("sum", one), ("sum-many", many)):
        own = {k: v for k, v in types.items() if k not in constants}
        yield Build(name, sums.sum_kernel, own, constants, {"num_warps": 4}, sums.TILE)


def _weights() -> Iterator[Build]:
    """Noise on weights, and learned noise on activations, their shapes the ones of layers."""
    types = typed("given *fp32, log_sigma2 *fp32, seed *i64, out *fp32, cols i32, groups i32")
    groups = philox_normal.GROUPS
    for grad in (False, True):
        constants = {"GRAD": grad, "ROWS": 1, "GROUPS": groups, "rows": 1}
        yield Build(
            f"weight_noise{'_grad' if grad else ''}", weight_noise.weight_noise_kernel, types, constants,
            {"num_warps": 4}, 4 * groups, must=(WIDE, MUFU),
        )  # fmt: skip
    types = typed(
        "x *fp32, dy *fp32, log_alpha *fp32, bias *fp32, seed *i64, out *fp32, dlog *fp32, dbias *fp32,"
        " outer i32, channels i32, span i32, cols i32, width i32, padded_span i32, blocks i32, steps i32"
    )
    shapes = {"units": ((512, 4096), (4096,)), "channels": ((64, 64, 56, 56), (64, 1, 1)),
              "padded": ((64, 512, 7, 7), (512, 1, 1)), "layer": ((512, 4096), ())}  # fmt: skip
    for name, (shape, parameter) in shapes.items():
        x, log = torch.empty(shape, device="meta"), torch.empty(parameter, device="meta")
        sizes, constants, *_ = learned.Spans.of(x, log).launch()
        launch = {"num_warps": constants.pop("num_warps")}
        constants |= {k: n for k, n in zip([*types][8:], sizes, strict=True) if n == 1}
        own = {k: v for k, v in types.items() if k not in constants}
        for grad in (False, True):
            one = name == "layer"
            extra = {"GRAD": grad, "BIAS": not one, "ONE_ALPHA": one}
            yield Build(
                f"mul_noise_learned{'_grad' if grad else ''}-{name}", learned.learned_kernel, own,
                {**constants, **extra}, launch, 4 * constants["ROWS"] * constants["GROUPS"],
                must=(MUFU,) if name == "padded" else (WIDE, MUFU),
            )  # fmt: skip


def _gates() -> Iterator[Build]:
    types = typed(
        "location *fp32, log_sigma2 *fp32, seed *i64, theta *fp32, by_location *fp32, by_log_sigma2 *fp32,"
        " rows i32, cols i32, groups i32, temperature fp32, low fp32, high fp32"
    )
    tile = {"ROWS": 1, "GROUPS": philox_normal.GROUPS}
    for kind in ("normal", "hard-concrete", "concrete"):
        yield Build(
            f"gate_draw-{kind}", gate.draw_kernel, types, {"KIND": kind, "GRAD": True, **tile},
            {"num_warps": 4}, 4 * philox_normal.GROUPS, must=(WIDE, MUFU),
        )  # fmt: skip
    types = typed(
        "given *fp32, x *fp32, theta *fp32, out *fp32, by_theta *fp32, lines i32, channels i32, spatial i32"
    )
    for grad in (False, True):
        for name, span in (("units", 1), ("images", gate.SPAN)):
            one = {"spatial": 1} if span == 1 else {}
            own = {k: v for k, v in types.items() if k not in one}
            constants = {"SHARED": span == 1, "OUT": True, "SUMS": grad, "WIDE": False}
            constants |= {"LINES": gate.TILE // span, "SPAN": span}
            yield Build(
                f"gate_scale{'_grad' if grad else ''}-{name}", gate.scale_kernel, own, {**constants, **one},
                {"num_warps": 4}, gate.TILE, must=(WIDE,),
            )  # fmt: skip


def _masks() -> Iterator[Build]:
    """Rows of a thousand weights and the widest in registers, longer ones by digits, units, and the masks."""
    types = typed(
        "w *fp32, rank *i64, bound *i64, seed *i64, threshold *fp32, out *fp32, rows i32, cols i32,"
        " groups i32"
    )
    for cols in (64, 1024, weight_mask.WIDEST):
        _, constants = weight_mask.select_launch(4096, cols)
        launch = {"num_warps": constants.pop("num_warps")}
        yield Build(
            f"weight_mask_select-{cols}", weight_mask.select_kernel, types,
            {"MASK": True, "EMPTY": 0, **constants}, launch, constants["ROWS"] * constants["COLS"],
            must=(WIDE,),
        )  # fmt: skip
    for first in (True, False):
        shift, width = weight_mask.DIGITS[0 if first else 1]
        constants = {"FIRST": first, "SHIFT": shift, "WIDTH": width, "BLOCK": weight_mask.BLOCK}
        yield Build(
            f"weight_mask_count{'-first' if first else ''}", weight_mask.count_kernel,
            typed("w *fp32, prefix *i32, counts *i32, cols i32, spans i32"),
            {**constants, "STEPS": weight_mask.STEPS}, {"num_warps": 8}, weight_mask.BLOCK, must=(WIDE,),
        )  # fmt: skip
    yield Build(
        "weight_mask_digit", weight_mask.digit_kernel,
        typed("counts *i32, rank *i64, prefix *i32, left *i32, threshold *fp32, spans i32"),
        {"FIRST": False, "LAST": False, "SHIFT": 7, "SPANS": 16}, {"num_warps": 4}, 16 * 256, must=(WIDE,),
    )  # fmt: skip
    yield Build(
        "weight_mask_norm", weight_mask.norm_kernel, typed("w *fp32, norm *fp32, rows i32, cols i32"),
        {"ROWS": 1, "COLS": weight_mask.NORM_TILE}, {"num_warps": 4}, weight_mask.NORM_TILE, must=(WIDE,),
        double=True,
    )  # fmt: skip
    types = typed(
        "grad *fp32, w *fp32, threshold *fp32, bound *i64, seed *i64, out *fp32, rows i32, cols i32,"
        " groups i32"
    )
    for grad, unit in ((False, True), (True, True), (True, False)):
        yield Build(
            f"weight_mask{'_grad' if grad else ''}{'-unit' if unit else ''}", weight_mask.mask_kernel, types,
            {"GRAD": grad, "UNIT": unit, "ROWS": 1, "GROUPS": philox_normal.GROUPS}, {"num_warps": 4},
            4 * philox_normal.GROUPS, must=(WIDE,),
        )  # fmt: skip


def builds(architecture: str) -> list[Build]:
    """Every kernel with every tile that is shipped for `architecture`."""
    of_all = (*_others(), *_weights(), *_gates(), *_masks(), *signs(architecture), *heads(architecture))
    return [*_products(architecture), *convolutions(architecture), *of_all]
