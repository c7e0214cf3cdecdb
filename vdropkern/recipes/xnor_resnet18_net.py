"""ResNet-18 for 32x32 images, of binary layers or of plain ones."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import nn as vnn

STAGES = (1, 2, 4, 8)  # widths, in units of the first


class Residual(torch.nn.Module):
    """body(x) + shortcut(x), and a ReLU where there is one."""

    def __init__(self, body: torch.nn.Module, shortcut: torch.nn.Module, relu: bool) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut
        self.relu = torch.nn.ReLU() if relu else torch.nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """x [N, C, H, W] -> [N, C', H', W']."""
        y: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return y


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int) -> list[torch.nn.Module]:
    conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, torch.nn.BatchNorm2d(outputs)]


def residual_block(inputs: int, outputs: int, stride: int, *, binary: bool, estimator: str) -> Residual:
    """Two 3x3 convolutions and their shortcut; see `resnet18`."""
    same = stride == 1 and inputs == outputs
    shortcut: torch.nn.Module = torch.nn.Identity()
    if not same:  # in full precision: a share of 1 in 18 of the block's weights
        shortcut = torch.nn.Sequential(*_conv_bn(inputs, outputs, 1, stride))
    if binary:
        body = torch.nn.Sequential(
            vnn.BinaryConv2d(inputs, outputs, 3, stride, 1, estimator=estimator),
            vnn.BinaryConv2d(outputs, outputs, 3, 1, 1, estimator=estimator),
        )
        return Residual(body, shortcut, relu=False)
    first, second = _conv_bn(inputs, outputs, 3, stride), _conv_bn(outputs, outputs, 3, 1)
    return Residual(torch.nn.Sequential(*first, torch.nn.ReLU(), *second), shortcut, relu=True)


def resnet18(
    width: int = 64, classes: int = 10, *, binary: bool = True, estimator: str = "hard-tanh"
) -> torch.nn.Sequential:
    """He et al. 2016's ResNet-18 with a 3x3 stem (arXiv 1512.03385, section 4.2, made wider).

    With `binary`, blocks are BN, sign, conv, BN, sign, conv beside the shortcut (Rastegari et al. 2016,
    arXiv 1603.05279, section 3.2); stem, 1x1 shortcuts and head are full precision, as there.
    """
    layers: list[torch.nn.Module] = [*_conv_bn(3, width, 3, 1), torch.nn.ReLU()]
    before = width
    for stage, factor in enumerate(STAGES):
        for block in range(2):
            stride = 2 if stage and not block else 1
            layers.append(residual_block(before, factor * width, stride, binary=binary, estimator=estimator))
            before = factor * width
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(before, classes)]
    if binary:
        head.insert(0, torch.nn.BatchNorm2d(before))
    return torch.nn.Sequential(*layers, *head)
