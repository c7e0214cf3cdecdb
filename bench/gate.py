"""The correctness gate: no speed is told of a kernel that disagrees with the reference."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.tolerance import tolerance


def compare(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], reduction: int) -> list[str]:
    """Lines that say which tensors are missing or too far from `expected`, the truth in float64.

    The error is that of the whole tensor in the 2-norm, so the tests' tolerance for sums of `reduction`
    terms holds with room to spare; element by element is what tests/ does.
    """
    wrong = [f"{name} is missing" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected:
            wrong.append(f"{name} is not in the reference")
            continue
        truth, allowed = expected[name].double(), tolerance(tensor.dtype, reduction)
        if tensor.shape != truth.shape:
            wrong.append(f"{name}: shape {tuple(tensor.shape)} instead of {tuple(truth.shape)}")
            continue
        error = torch.linalg.vector_norm(tensor.double() - truth) / torch.linalg.vector_norm(truth)
        if not error.item() <= allowed:
            wrong.append(f"{name}: relative error {error.item():.1e}, allowed {allowed:.1e}")
    return wrong
