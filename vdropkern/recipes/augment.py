"""Random changes of training images, drawn from torch's generator so that a resumed run repeats them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

PAD = 4


def augment(images: Tensor, kind: str) -> Tensor:
    """A batch, each image changed at random by itself.

    Args:
        images: uint8 [B, C, H, W].
        kind: ``flip``: mirrored half of the time; ``pad-crop-flip``: that, and cut anew out of the image with
            4 black pixels around it (He et al. 2016, arXiv 1512.03385, section 4.2); ``none``.
    """
    if kind == "none":
        return images
    batch, _, height, width = images.shape
    pad = PAD if kind == "pad-crop-flip" else 0
    # drawn on the CPU, whose generator's state is in every checkpoint
    top, left = torch.randint(0, 2 * pad + 1, (2, batch, 1))
    flipped = torch.randint(0, 2, (batch, 1)).bool()
    rows, columns = top + torch.arange(height), torch.arange(width).expand(batch, -1)
    columns = left + torch.where(flipped, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    padded = F.pad(images, (pad,) * 4).movedim(1, -1)  # [B, H + 2 pad, W + 2 pad, C]
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()
