"""Other ways to evaluate: noisy layers in eval mode, predictions averaged over networks."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from .._method import EvalMode, check_eval_mode
from .._surgery import check_module
from .variational import Variational

__all__ = ["mc_predict", "use_eval_mode"]


@contextlib.contextmanager
def use_eval_mode(model: torch.nn.Module, mode: EvalMode) -> Iterator[None]:
    """Let all variational layers of the model evaluate in another mode inside the block.

    Args:
        model: any module.
        mode: ``mean``, ``sample`` or ``MC(K)``, as `Method.eval_mode`.

    Raises:
        ValueError: `mode` is none of these.
    """
    check_module(model, "use_eval_mode")
    check_eval_mode(mode, "use_eval_mode")
    layers = [module for module in model.modules() if isinstance(module, Variational)]
    before = [layer.method for layer in layers]
    for layer in layers:
        layer.method = dataclasses.replace(layer.method, eval_mode=mode)
    try:
        yield
    finally:
        for layer, method in zip(layers, before, strict=True):
            layer.method = method


@torch.no_grad()
def mc_predict(
    model: torch.nn.Module,
    *inputs: Any,
    samples: int,
    transform: Callable[[Any], Tensor] | None = None,
) -> Tensor:
    """Mean prediction of `samples` networks drawn from the posterior.

    p(y | x) is about 1/K sum_k p(y | x, w_k), w_k ~ q: every variational layer is sampled, all others (batch
    normalisation, dropout) are as in eval mode. Seeds come from torch's generator.

    Args:
        model: any module; its training flags are restored.
        *inputs: what the model takes.
        samples: K >= 1.
        transform: applied to each output before the mean, such as ``lambda y: y.softmax(-1)``; the mean of
            probabilities is a probability, the mean of logits is not one.

    Returns:
        the mean, of the shape of one output, without gradients.

    Raises:
        ValueError: `samples` < 1.
        TypeError: the model, or the transform, gives something else than a tensor.
    """
    check_module(model, "mc_predict")
    if samples < 1:
        raise ValueError(f"mc_predict: samples must be >= 1, got {samples}")
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with use_eval_mode(model, "sample"):
            total = _transformed(model(*inputs), transform)
            for _ in range(samples - 1):
                total = total + _transformed(model(*inputs), transform)
    finally:
        for module, training in flags:
            module.training = training
    return total / samples


def _transformed(output: Any, transform: Callable[[Any], Tensor] | None) -> Tensor:
    result = output if transform is None else transform(output)
    if not isinstance(result, Tensor):
        raise TypeError(
            f"mc_predict: the model must give one tensor, got a {type(result).__name__}; "
            "a transform can take it from there"
        )
    return result
