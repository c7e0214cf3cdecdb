"""Compiled without a GPU: the Triton kernels of `multi_sample_head`."""

from __future__ import annotations

from collections.abc import Iterator

from gpu import traffic
from vdropkern.ops.multi_sample_head import tiles as head_tiles
from vdropkern.ops.multi_sample_head import triton as head
from vdropkern.ops.multi_sample_head import triton_kernels as head_kernels

from .build import ASYNC, TENSOR_CORE, WIDE, Build, typed

_HEAD_SIZES = "rows i32, features i32, classes i32, samples i32, ld i32, band i32, below i64, keep_scale fp32"
_HEAD_GIVEN = "target *i64, class_weight *fp32, norm *fp32, row_scale *fp32"
_HEAD_LOSS = "share fp32, smoothing fp32, ignore_index i32"
HEAD_TYPES = {
    "logits": f"h X, weight X, bias X, {_HEAD_GIVEN}, seed *i64, logits *fp32, losses *fp32, {_HEAD_SIZES},"
    f" {_HEAD_LOSS}",
    "loss": f"logits *fp32, {_HEAD_GIVEN}, losses *fp32, slots i32, classes i32, samples i32, ld i32,"
    f" {_HEAD_LOSS}",
    "input_gradient": f"g *fp32, weight X, seed *i64, dh *fp32, {_HEAD_SIZES}",
    "weight_gradient": f"g *fp32, h X, seed *i64, partial *fp32, {_HEAD_SIZES}",
}
HEAD_KERNELS = {
    "logits": head_kernels.head_logits_kernel,
    "input_gradient": head_kernels.head_input_gradient_kernel,
    "weight_gradient": head_kernels.head_weight_gradient_kernel,
}
HEAD = (512, 4096, 1024, 8)  # rows, features, classes, samples


def heads(architecture: str) -> Iterator[Build]:
    """All options on: a large head; one of 16 classes, and one that just fits a tile with its losses.

    Of three samples, which a program takes one by one, the large head alone.
    """
    flags = {"WEIGHTED": True, "SMOOTH": True, "ROW_SCALE": True, "GRAD": True}
    for product, kernel in HEAD_KERNELS.items():
        for arithmetic, tile in head_tiles.TILES[product].items():
            x, sizes = "*bf16" if arithmetic == "native" else "*fp32", [("", HEAD)]
            if arithmetic == "ieee":
                sizes.append(("-alone", (*[traffic.PROBLEM] * 3, 3)))
            if arithmetic in ("ieee", "tf32") and product != "input_gradient":
                sizes.append(("-16", (4096, 128, 16, 8)))
            if product == "logits":
                sizes.append(("-whole", (4096, 4096, tile.cols, 8)))
            for size, shape in sizes:
                _, features, classes, samples = shape
                options = head_tiles.launch_options(product, arithmetic, samples, classes, features)
                placed = (options["ROWS"], options["COLS"], options["SHARED"])
                launch = {key: options.pop(key) for key in ("num_warps", "num_stages")}
                if product == "logits":
                    options |= {"BIAS": True, **flags}
                elif product == "weight_gradient":
                    options["SPLIT"] = 4
                shared = options["SHARED"] if product != "weight_gradient" else 1
                large = TENSOR_CORE.get(architecture, "HMMA") if classes > 16 else "HMMA|HGMMA|UTC"
                must = (ASYNC,) if arithmetic == "ieee" else (ASYNC, large)
                yield Build(
                    f"multi_sample_head_{product}-{arithmetic}{size}", kernel, typed(HEAD_TYPES[product], x),
                    options, launch, options["ROWS"] * shared * options["COLS"], must=must,
                    traffic=traffic.of_head(architecture, product, placed, shape, 2 if x == "*bf16" else 4),
                )  # fmt: skip
    for classes in (head.WHOLE_ROW, 4 * head.WHOLE_ROW):
        options = head.loss_options(classes)
        launch = {"num_warps": options.pop("num_warps")}
        yield Build(
            f"multi_sample_head_loss-{classes}", head_kernels.head_loss_kernel, typed(HEAD_TYPES["loss"]),
            {**options, **flags}, launch, options["ROWS"] * options["COLS"], must=(WIDE,),
        )  # fmt: skip
