"""`multi_sample_head` and its backward in Triton: what is allocated, which tiles, which launches.

The logits of all samples are one tensor [rows * samples, classes], which becomes its own gradient; masked
features are never stored. A head of few classes takes one launch for losses and gradients of logits, and a
product for either gradient of its operands.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..._precision import resolve
from .._bands import band_of
from .._launch import device_of, launch_on, refuse_double
from .._triton_sums import sum_parts
from . import triton_kernels as kernels
from .reference import row_norm
from .tiles import grid, launch_options

WHOLE_ROW = 8192  # classes that the kernel of losses holds at once
LOSSES = 2048  # logits a program of it, where rows are short
MAX_PARTS = 64


class _Call(NamedTuple):
    """One call's tensors, dense and of one dtype, and its numbers."""

    h: Tensor
    weight: Tensor
    bias: Tensor | None
    target: Tensor
    class_weight: Tensor | None
    seed: Tensor
    samples: int
    p: float
    ignore_index: int
    smoothing: float

    @classmethod
    def of(
        cls, h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None,
        seed: Tensor, *rest: Any,
    ) -> _Call:  # fmt: skip
        refuse_double("multi_sample_head", h, weight, bias, class_weight)
        if h.shape[0] and not (weight.shape[0] and weight.shape[1]):
            raise ValueError(
                f"multi_sample_head: there are no {'features' if weight.shape[0] else 'classes'}"
            )
        dtype = torch.promote_types(h.dtype, weight.dtype)
        own = None if class_weight is None else class_weight.float().contiguous()
        shift = None if bias is None else bias.contiguous()
        dense, operand = h.to(dtype).contiguous(), weight.to(dtype).contiguous()
        return cls(dense, operand, shift, target.contiguous(), own, seed, *rest)

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Rows, features, classes, samples."""
        return self.h.shape[0], self.h.shape[1], self.weight.shape[0], self.samples

    @property
    def below(self) -> int:
        return min(math.floor(self.p * 2.0**32), 2**32 - 1)

    def launch(self, product: str) -> tuple[dict[str, Any], int, int]:
        """(compile-time arguments, tiles, rows of tiles in a band) of a product."""
        _, features, classes, samples = self.sizes
        options = launch_options(product, resolve(self.h.dtype).mean, samples, classes, features)
        tile = (options["ROWS"], options["COLS"], options["SHARED"])
        down, across, *operands = grid(product, tile, self.sizes, self.h.element_size())
        return options, down * across, band_of(down, across, device_of(self.h).processors, *operands)


def _losses(call: _Call, norm: Tensor, row_scale: Tensor | None, grad: bool) -> tuple[Tensor, Tensor]:
    """(loss of each row [B], and with `grad` the gradients of the logits [B * samples, ld])."""
    rows, _, classes, samples = call.sizes
    losses = call.h.new_empty((rows * samples,), dtype=torch.float32)
    if rows == 0:
        return call.h.new_zeros((0,), dtype=torch.float32), call.h.new_empty(
            (0, classes), dtype=torch.float32
        )
    options, tiles, band = call.launch("logits")
    whole = options["WHOLE"]
    ld = triton.cdiv(classes, 16) * 16  # rows of whole vectors
    logits = losses.new_empty((rows * samples if grad or not whole else 0, ld))
    flags = {
        "WEIGHTED": call.class_weight is not None, "SMOOTH": call.smoothing > 0,
        "ROW_SCALE": row_scale is not None, "GRAD": grad,
    }  # fmt: skip
    of_classes = norm if call.class_weight is None else call.class_weight
    given = (call.target, of_classes, norm, norm if row_scale is None else row_scale)
    numbers = (1 / samples, call.smoothing, call.ignore_index)
    kernels.head_logits_kernel[(tiles,)](
        call.h, call.weight, norm if call.bias is None else call.bias, *given, call.seed, logits, losses,
        *call.sizes, ld, band, call.below, 1 / (1 - call.p), *numbers, BIAS=call.bias is not None, **flags,
        **options,
    )  # fmt: skip
    if not whole:
        own = loss_options(classes)
        kernels.head_loss_kernel[(triton.cdiv(rows * samples, own["ROWS"]),)](
            logits, *given, losses, rows * samples, classes, samples, ld, *numbers, **flags, **own
        )
    return losses.view(rows, samples).mean(1), logits


def loss_options(classes: int) -> dict[str, Any]:
    """Compile-time arguments of the kernel of losses."""
    cols = min(WHOLE_ROW, triton.next_power_of_2(classes))
    rows = max(1, LOSSES // cols)
    warps = max(4, min(16, rows * cols // 512))
    return {"WHOLE": classes <= cols, "ROWS": rows, "COLS": cols, "num_warps": warps}


def _gradients(call: _Call, g: Tensor, needs_h: bool, needs_weight: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, features, classes, _ = call.sizes
    none = g.new_empty(0)
    dh = torch.empty_like(call.h, dtype=torch.float32) if needs_h else none
    dweight = torch.empty_like(call.weight, dtype=torch.float32) if needs_weight else none
    dbias = g.new_zeros((classes,)) if needs_weight and call.bias is not None else none
    if rows == 0:
        return dh, dweight.zero_(), dbias
    sizes, mask = (*call.sizes, g.shape[1]), (call.below, 1 / (1 - call.p))
    if needs_h:
        options, tiles, band = call.launch("input_gradient")
        kernels.head_input_gradient_kernel[(tiles,)](
            g, call.weight, call.seed, dh, *sizes, band, *mask, **options
        )
    if needs_weight:
        options, tiles, band = call.launch("weight_gradient")
        steps = triton.cdiv(rows, options["DEPTH"])
        # to fill the processors twice, four steps each at least
        parts = max(1, min(2 * device_of(g).processors // tiles, steps // 4, MAX_PARTS))
        partial = dweight if parts == 1 else g.new_empty((parts, classes * features))
        kernels.head_weight_gradient_kernel[(tiles, parts)](
            g, call.h, call.seed, partial, *sizes, band, *mask, SPLIT=parts, **options
        )
        if parts > 1:
            sum_parts(partial, dweight)
        if call.bias is not None:
            torch.sum(g[:, :classes], 0, out=dbias)
    return dh, dweight, dbias


def multi_sample_head(
    h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, class_weight: Tensor | None,
    seed: Tensor, samples: int, p: float, reduction: str, ignore_index: int, label_smoothing: float,
    needs_h: bool, needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `reference.multi_sample_head`."""
    options = (samples, p, ignore_index, label_smoothing)
    call = _Call.of(h, weight, bias, target, class_weight, seed, *options)
    norm = row_norm(call.target, call.class_weight, ignore_index, reduction, torch.float32)
    none = reduction == "none"
    needs_h, needs_weight = needs_h and not none, needs_weight and not none
    with launch_on(h):
        losses, g = _losses(call, norm, None, needs_h or needs_weight)
        gradients = _gradients(call, g, needs_h, needs_weight)
    return losses if none else losses.sum() / norm, *gradients


def multi_sample_head_backward(
    grad: Tensor, h: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor,
    class_weight: Tensor | None, seed: Tensor, samples: int, p: float, ignore_index: int,
    label_smoothing: float, needs_h: bool, needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See `reference.multi_sample_head_backward`."""
    options = (samples, p, ignore_index, label_smoothing)
    call = _Call.of(h, weight, bias, target, class_weight, seed, *options)
    norm = torch.ones((), device=h.device)
    with launch_on(h):
        _, g = _losses(call, norm, grad.float().contiguous(), True)
        return _gradients(call, g, needs_h, needs_weight)
