"""vdropkern: fused kernels for variational dropout, pruning with it, and inference over what is left."""

from . import functional, kl, methods, nn, sparse
from ._backend import explain, use_backend
from ._precision import get_precision, set_precision, use_precision
from ._version import __version__
from .convert import convert, load_dense_state_dict, plan_conversion
from .kl import collect_kl, kl_divergence, penalty
from .moments import propagate_moments
from .nn import attach_projection, mc_predict, parameter_groups, project_, use_eval_mode
from .ops.linear_lrt.tiles import use_tiles
from .sparse import describe, load, plan_sparsification, save, shrink, sparsify, sparsity

__all__ = [
    "__version__",
    "attach_projection",
    "collect_kl",
    "convert",
    "describe",
    "explain",
    "functional",
    "get_precision",
    "kl",
    "kl_divergence",
    "load",
    "load_dense_state_dict",
    "mc_predict",
    "methods",
    "nn",
    "parameter_groups",
    "penalty",
    "plan_conversion",
    "plan_sparsification",
    "project_",
    "propagate_moments",
    "save",
    "set_precision",
    "shrink",
    "sparse",
    "sparsify",
    "sparsity",
    "use_backend",
    "use_eval_mode",
    "use_precision",
    "use_tiles",
]
