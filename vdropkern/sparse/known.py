"""The modules that files can describe, with the attributes that are their constructors' arguments."""

from __future__ import annotations

import torch

from ..nn import Conv1d, Conv2d, Dropout, Linear
from .conv import SparseConv2d
from .linear import SparseLinear
from .sequential import SparseSequential
from .shrinking.select import Select

__all__ = ["CONV_ARGUMENTS", "LATER", "LAYERS", "MODULES", "SEQUENTIALS", "SHRUNK"]

_POOL = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")
_AVERAGE_POOL = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")
_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
CONV_ARGUMENTS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)

# name in files -> (class, the attributes that are its constructor's arguments)
MODULES: dict[str, tuple[type[torch.nn.Module], tuple[str, ...]]] = {
    "vdropkern.Conv1d": (Conv1d, (*CONV_ARGUMENTS, "method")),
    "vdropkern.Conv2d": (Conv2d, (*CONV_ARGUMENTS, "method")),
    "vdropkern.Dropout": (Dropout, ("num_units", "method", "channel_dim")),
    "vdropkern.Linear": (Linear, ("in_features", "out_features", "bias", "method")),
    "vdropkern.Select": (Select, ("num_units", "count", "dim")),
    "vdropkern.SparseConv2d": (
        SparseConv2d,
        (*(name for name in CONV_ARGUMENTS if name != "padding_mode"), "nnz", "activation", "store"),
    ),
    "vdropkern.SparseLinear": (
        SparseLinear,
        ("in_features", "out_features", "nnz", "bias", "activation", "store"),
    ),
}
_TORCH_MODULES: dict[str, tuple[str, ...]] = {
    "AdaptiveAvgPool1d": ("output_size",),
    "AdaptiveAvgPool2d": ("output_size",),
    "AlphaDropout": ("p", "inplace"),
    "AvgPool1d": _AVERAGE_POOL,
    "AvgPool2d": (*_AVERAGE_POOL, "divisor_override"),
    "BatchNorm1d": _NORM,
    "BatchNorm2d": _NORM,
    "CELU": ("alpha", "inplace"),
    "Conv1d": CONV_ARGUMENTS,
    "Conv2d": CONV_ARGUMENTS,
    "Dropout": ("p", "inplace"),
    "Dropout1d": ("p", "inplace"),
    "Dropout2d": ("p", "inplace"),
    "ELU": ("alpha", "inplace"),
    "Flatten": ("start_dim", "end_dim"),
    "GELU": ("approximate",),
    "GLU": ("dim",),
    "Hardsigmoid": ("inplace",),
    "Hardswish": ("inplace",),
    "Hardtanh": ("min_val", "max_val", "inplace"),
    "Identity": (),
    "LayerNorm": ("normalized_shape", "eps", "elementwise_affine", "bias"),
    "LeakyReLU": ("negative_slope", "inplace"),
    "Linear": ("in_features", "out_features", "bias"),
    "LogSigmoid": (),
    "LogSoftmax": ("dim",),
    "MaxPool1d": _POOL,
    "MaxPool2d": _POOL,
    "Mish": ("inplace",),
    "PReLU": ("num_parameters",),
    "RMSNorm": ("normalized_shape", "eps", "elementwise_affine"),
    "ReLU": ("inplace",),
    "ReLU6": ("inplace",),
    "SELU": ("inplace",),
    "SiLU": ("inplace",),
    "Sigmoid": (),
    "Softmax": ("dim",),
    "Softplus": ("beta", "threshold"),
    "Softsign": (),
    "Tanh": (),
    "Unflatten": ("dim", "unflattened_size"),
}
MODULES.update({name: (getattr(torch.nn, name), attributes) for name, attributes in _TORCH_MODULES.items()})
LAYERS = (
    "vdropkern.Linear",
    "vdropkern.SparseConv2d",
    "vdropkern.SparseLinear",
    "Linear",
    "vdropkern.Conv1d",
    "Conv1d",
    "vdropkern.Conv2d",
    "Conv2d",
)


SEQUENTIALS = (torch.nn.Sequential, SparseSequential)
SHRUNK = ("BatchNorm1d", "BatchNorm2d", "Identity", "PReLU", "vdropkern.Dropout")


# arguments that came later: files that lack them mean these values, and files with these values lack them
LATER = {"activation": "none", "store": "float"}
