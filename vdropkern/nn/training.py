"""What training variational layers needs beside the loss: projections, parameter groups."""

from __future__ import annotations

from typing import Any

import torch

from .._surgery import check_module
from .binary import Binary
from .variational import Variational

__all__ = ["attach_projection", "parameter_groups", "project_"]


@torch.no_grad()
def project_(model: torch.nn.Module) -> torch.nn.Module:
    """What layers need after a step of the optimiser, in place.

    Every log_sigma2 and log_alpha is brought back within its method's bounds, ramps go one step on, running
    averages take in the new values. The weights of binary layers are centred and clamped.

    Call it after each step of the optimiser, or let `attach_projection` do so. This, and not a clamp in the
    forward pass, is how bounds are kept: a clamped value has gradient zero and stays beyond its bound,
    whatever the loss wants; a projected one lies on the bound and follows a gradient that points inward.

    Returns:
        the model.
    """
    check_module(model, "project_")
    for module in model.modules():
        if isinstance(module, (Binary, Variational)):
            module.project_()
    return model


def attach_projection(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> torch.utils.hooks.RemovableHandle:
    """Run `project_` on the model after every step of the optimiser.

    Of several optimisers of one model attach it to one: ramps and running averages count its calls.

    Returns:
        a handle whose `remove()` ends it.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            "attach_projection: give a torch.optim.Optimizer, then the model, "
            f"got {type(optimizer).__name__} first"
        )

    check_module(model, "attach_projection")

    def project(*_: Any) -> None:
        project_(model)

    return optimizer.register_step_post_hook(project)


def parameter_groups(
    model: torch.nn.Module, lr: float, noise_lr: float | None = None, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the noise's parameters apart from all others.

    log_sigma2 and log_alpha are logarithms that have to travel far (from -10 towards 3 above log mu^2), and
    Adam moves each parameter by about lr a step whatever its gradient, so they may need a rate of their own.
    They never get weight decay, which would pull variances towards 1.

        optimizer = torch.optim.Adam(vdropkern.parameter_groups(net, lr=1e-3, noise_lr=5e-3))

    Args:
        model: any module. Frozen parameters are left out; shared ones are listed once.
        lr: learning rate of weights, biases and everything else, > 0.
        noise_lr: learning rate of the noise's parameters, > 0; None: `lr`.
        weight_decay: of all but the noise's parameters, >= 0.

    Returns:
        one or two groups, empty ones left out, the noise's last; each has a "name".

    Raises:
        ValueError: a rate or the decay is out of range.
    """
    check_module(model, "parameter_groups")
    noise_lr = lr if noise_lr is None else noise_lr
    for name, value in (("lr", lr), ("noise_lr", noise_lr)):
        if not value > 0:
            raise ValueError(f"parameter_groups: {name} must be > 0, got {value}")
    if not weight_decay >= 0:
        raise ValueError(f"parameter_groups: weight_decay must be >= 0, got {weight_decay}")
    layers = [m for m in model.modules() if isinstance(m, Variational)]
    noise_ids = {id(p) for layer in layers for p in layer.noise_parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {
            "name": "weights",
            "params": [p for p in trainable if id(p) not in noise_ids],
            "lr": lr,
            "weight_decay": weight_decay,
        },
        {
            "name": "noise",
            "params": [p for p in trainable if id(p) in noise_ids],
            "lr": noise_lr,
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]
