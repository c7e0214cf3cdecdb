"""vdropkern: fused kernels for variational dropout, pruning with it, and inference over what is left."""

from . import functional, methods, nn
from ._backend import explain, use_backend
from ._version import __version__
from .kl import collect_kl, kl_divergence
from .nn import attach_projection, mc_predict, parameter_groups, project_, use_eval_mode

__all__ = [
    "__version__",
    "attach_projection",
    "collect_kl",
    "explain",
    "functional",
    "kl_divergence",
    "mc_predict",
    "methods",
    "nn",
    "parameter_groups",
    "project_",
    "use_backend",
    "use_eval_mode",
]
