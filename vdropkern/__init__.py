"""vdropkern: fused kernels for variational dropout, pruning with it, and inference over what is left."""

from ._version import __version__

__all__ = ["__version__"]
