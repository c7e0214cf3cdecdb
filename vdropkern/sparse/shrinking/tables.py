"""Which modules, functions and methods shrinking passes through, by what they do to units."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

__all__ = [
    "AVERAGE_POOLS",
    "IDENTITIES",
    "NORMS",
    "POINTWISE",
    "POINTWISE_NAMES",
    "POOLS",
    "POOL_NAMES",
    "REDUCTION_NAMES",
    "RESHAPE_NAMES",
    "SAME_NAMES",
    "argument",
    "first_input",
    "function_name",
    "in_place",
]

IDENTITIES = (
    nn.AlphaDropout,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.FeatureAlphaDropout,
    nn.Identity,
)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
POINTWISE = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
AVERAGE_POOLS = (nn.AvgPool1d, nn.AvgPool2d)
# class -> dimensions, from the end, that it pools over
POOLS: dict[type[nn.Module], int] = {
    nn.AdaptiveAvgPool1d: 1,
    nn.AdaptiveAvgPool2d: 2,
    nn.AdaptiveMaxPool1d: 1,
    nn.AdaptiveMaxPool2d: 2,
    nn.AvgPool1d: 1,
    nn.AvgPool2d: 2,
    nn.MaxPool1d: 1,
    nn.MaxPool2d: 2,
}
POOL_NAMES = {
    "adaptive_avg_pool1d": 1,
    "adaptive_avg_pool2d": 2,
    "adaptive_max_pool1d": 1,
    "adaptive_max_pool2d": 2,
    "avg_pool1d": 1,
    "avg_pool2d": 2,
    "max_pool1d": 1,
    "max_pool2d": 2,
}
_PLAIN_NAMES = [
    "abs",
    "add",
    "celu",
    "clamp",
    "div",
    "elu",
    "exp",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "maximum",
    "minimum",
    "mish",
    "mul",
    "neg",
    "pow",
    "relu",
    "relu6",
    "rsub",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "sqrt",
    "square",
    "sub",
    "tanh",
    "truediv",
]
# the operators' and methods' forms that write into their input among them
POINTWISE_NAMES = {
    *_PLAIN_NAMES,
    *(f"{name}_" for name in _PLAIN_NAMES),
    *("iadd", "imul", "isub", "itruediv"),
}
SAME_NAMES = {"alpha_dropout", "clone", "contiguous", "detach", "dropout", "dropout1d", "dropout2d"}
RESHAPE_NAMES = {"flatten", "reshape", "view"}
REDUCTION_NAMES = {"amax", "amin", "mean"}


def function_name(node: fx.Node) -> str:
    """What a call_method or a call_function of torch or of an operator is called; "" for other functions."""
    if node.op == "call_method":
        return str(node.target)
    module = getattr(node.target, "__module__", None) or ""
    known = module.startswith("torch") or module in ("_operator", "builtins")
    return getattr(node.target, "__name__", "") if known else ""


def argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    """An argument of a call, given by place (the input is the first) or by name."""
    return node.args[place] if place < len(node.args) else node.kwargs.get(name, default)


def first_input(node: fx.Node) -> Any:
    """What a call is given first, by place or by the name that torch gives it."""
    return argument(node, 0, "input", None)


def in_place(node: fx.Node, module: torch.nn.Module | None) -> bool:
    """Whether the node may write into its input."""
    if module is not None:
        return bool(getattr(module, "inplace", False))
    name = function_name(node)
    given = node.kwargs.get("inplace") is True or any(value is True for value in node.args[1:])
    return given or name.endswith("_") or name in ("iadd", "imul", "isub", "itruediv", "setitem")
