"""Compiled without a GPU: Triton's products of images, of `conv2d_lrt` and of packed signs."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gpu import traffic
from vdropkern._precision import use_precision
from vdropkern.ops.conv2d_lrt import triton as conv2d_lrt
from vdropkern.ops.conv2d_lrt import triton_kernels as conv_kernels
from vdropkern.ops.xnor import triton as xnor

from .build import RUNS, TENSOR_CORE, WIDE, Build, typed

CONV_TYPES = {
    "forward": "x X, mu X, log *fp32, bias *fp32, seed *i64, y X, r *fp32, images i32, band i32,"
    " channels i32, height i32, width i32, out_channels i32, out_width i32, pixels i32, x_n i32, x_c i32,"
    " x_h i32, y_n i32, y_c i32, eps fp32, exp_clip fp32",
    "input_gradient": "dy X, g2 G, x X, mu X, log *fp32, dx X, images i32, band i32, channels i32, width i32,"
    " out_channels i32, out_height i32, out_width i32, pixels i32, x_n i32, x_c i32, y_n i32, y_c i32,"
    " y_h i32, exp_clip fp32",
    "weight_gradient": "dy X, g2 G, x X, partial *fp32, images i32, band i32, channels i32, height i32,"
    " width i32, out_channels i32, out_width i32, pixels i32, x_n i32, x_c i32, x_h i32, y_n i32, y_c i32",
}
# images, channels in and out, pixels, places of the kernel: with tiles enough for more than a wave
CONV = {
    "forward": (64, 256, 196, 9),
    "input_gradient": (64, 256, 196, 9),
    "weight_gradient": (64, 1024, 49, 9),
}
CONV_KERNELS = {
    "forward": conv_kernels.conv_forward_kernel,
    "input_gradient": conv_kernels.conv_input_gradient_kernel,
    "weight_gradient": conv_kernels.conv_weight_gradient_kernel,
}


def convolutions(architecture: str) -> Iterator[Build]:
    """3 x 3 on NCHW, where steps along a row are 1, as Triton specialises what is 1."""
    steps = dict.fromkeys(("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w"), 1)
    for product, kernel in CONV_KERNELS.items():
        for arithmetic in ("ieee", "tf32", "half"):
            x, precision = RUNS[arithmetic][0]
            g2 = "*bf16" if precision.variance == "bf16" else "*fp32"
            with use_precision(*(("torch", "auto") if arithmetic == "half" else precision)):
                dtype = torch.float32 if x == "*fp32" else torch.bfloat16
                major = int(architecture.removeprefix("sm_")) // 10
                options = conv2d_lrt.launch_options(64, dtype, (3, 9), major)
            launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
            if product == "weight_gradient":
                del options["ONCE"]
                options["SPLIT"] = 4
            else:
                options |= {"FORM": 0, "CLIP": True}
            if product == "forward":
                options["BIAS"] = True
            ones = {n: 1 for n in ("x_w", "y_p", "x_p", "y_w") if n in kernel.arg_names}
            tensor_core = (TENSOR_CORE.get(architecture, "HMMA"),) if arithmetic != "ieee" else ()
            yield Build(
                f"conv2d_lrt_{product}-{x[1:]}-{precision.mean}-{precision.variance}", kernel,
                typed(CONV_TYPES[product], x, g2), {**options, **ones, **steps}, launch,
                options["BLOCK_M"] * options["BLOCK_N"], must=(WIDE, *tensor_core),
                traffic=traffic.of_convolution(architecture, product, CONV[product], dtype.itemsize),
            )  # fmt: skip


def signs(architecture: str) -> Iterator[Build]:
    """Channels beside each other and pixels, and the product with results of both kinds."""
    types = "x {}, threshold *fp32, flip *i32, out *i32, pixels i32, channels i32, inner i32, halves i32"
    for x in ("*fp32", "*bf16"):
        for name, one in (("rows", {"inner": 1}), ("planes", {})):
            own = {k: v for k, v in typed(types.format(x)).items() if k not in one}
            constants = {"THRESHOLD": True, "FLIP": True, "PIXELS": xnor.PACK_PIXELS, **one}
            outputs = 32 * xnor.PACK_PIXELS
            yield Build(
                f"xnor_pack_{name}-{x[1:]}", xnor.pack_kernel, own, constants, {"num_warps": 4}, outputs
            )
    types = (
        "a *i32, w *i32, scale {0}, shift {0}, out {0}, pixels i32, outputs i32, channels i32, height i32,"
        " width i32, out_height i32, out_width i32, words i32, reduction i32, out_n i32, out_o i32, out_p i32"
    )
    steps = dict.fromkeys(("stride_h", "stride_w", "padding_h", "padding_w", "dilation_h", "dilation_w"), 1)
    for name, element in (("float", "*fp32"), ("bits", "*i32")):
        options = xnor.launch_options(3)
        launch = {key: options.pop(key) for key in xnor.OPTIONS}
        constants = {**options, **steps, "PACKED": name == "bits", "SHIFT": True}
        rows, columns = xnor.TILE
        yield Build(
            f"xnor_product-{name}", xnor.product_kernel, typed(types.format(element)), constants, launch,
            rows * columns, must=("POPC",),
            traffic=traffic.of_signs_tile(architecture, rows, columns, xnor.GROUP),
        )  # fmt: skip
