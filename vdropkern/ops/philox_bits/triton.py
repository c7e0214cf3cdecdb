"""`philox_bits` in Triton; the kernel is that of the normals, without their last step."""

from __future__ import annotations

from ..philox_normal.triton import philox_bits

__all__ = ["philox_bits"]
