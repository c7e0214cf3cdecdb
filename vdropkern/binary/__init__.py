"""Binarised nets on packed bits: `binarize` turns layers of signs into products of 64 of them at a time."""

from .convert import binarize
from .packed import PackedChain, PackedLayer

__all__ = ["PackedChain", "PackedLayer", "binarize"]
