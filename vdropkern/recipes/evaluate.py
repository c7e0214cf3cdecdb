"""Loss and error of a net on labelled examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .ranks import ALONE, Ranks

EVAL_VALUES = 2**21  # of a batch's inputs in evaluation


def evaluate(model: torch.nn.Module, x: Tensor, y: Tensor, ranks: Ranks = ALONE) -> tuple[float, float]:
    """Mean NLL and error in percent of `model` in eval mode: mean weights, pruned ones at zero, no noise.

    Args:
        ranks: all of them call this, and each looks at its share.
    """
    training = model.training
    model.eval()
    mine, answers = ranks.share(x), ranks.share(y)
    nll = torch.zeros((), device=x.device)
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)
    size = max(1, min(EVAL_VALUES // max(x[0].numel(), 1), 2_000))
    with torch.inference_mode():
        for batch, labels in zip(mine.split(size), answers.split(size), strict=True):
            logits = model(batch).float()
            nll += F.cross_entropy(logits, labels, reduction="sum")
            wrong += (logits.argmax(1) != labels).sum()
    model.train(training)
    ranks.sum_([nll])
    ranks.sum_([wrong])
    return float(nll) / len(y), 100 * float(wrong) / len(y)
