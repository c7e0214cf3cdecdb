"""Times of dense and pruned inference, side by side in one process."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

WARM_UP_SECONDS = 0.05
SAMPLE_SECONDS = 1e-3  # a sample is as many calls as last this long, so that the clock's grain does not show


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _sample(model: torch.nn.Module, x: Tensor, calls: int) -> float:
    """Seconds a call, averaged over `calls` of them."""
    _synchronize(x.device)
    started = time.perf_counter()
    for _ in range(calls):
        model(x)
    _synchronize(x.device)
    return (time.perf_counter() - started) / calls


def _calls(model: torch.nn.Module, x: Tensor) -> int:
    """How many calls make a sample; also warms the model up."""
    times: list[float] = []
    until = time.perf_counter() + WARM_UP_SECONDS
    while time.perf_counter() < until or len(times) < 3:
        times.append(_sample(model, x, 1))
    return max(1, math.ceil(SAMPLE_SECONDS / statistics.median(times)))


def time_models(models: Mapping[str, torch.nn.Module], x: Tensor, rounds: int = 50) -> dict[str, list[float]]:
    """Time a forward pass of each model, in turns, so that what else the machine does hits all alike.

    Args:
        models: in eval mode, on x's device.
        x: the batch.
        rounds: samples of each.

    Returns:
        by name the samples in seconds a call, in the order taken.
    """
    samples: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        calls = {name: _calls(model, x) for name, model in models.items()}
        for _ in range(rounds):
            for name, model in models.items():
                samples[name].append(_sample(model, x, calls[name]))
    return samples


def compare(
    dense: torch.nn.Module,
    pruned: torch.nn.Module,
    x: Tensor,
    batches: Sequence[int] = (1, 100),
    rounds: int = 50,
) -> list[dict[str, Any]]:
    """Time `dense` and `pruned` on the first rows of `x`.

    Returns:
        for each batch size (of x's size, if that is less): medians in microseconds a call, their 20th and
        80th percentiles, and the speed-up, the median over rounds of dense / pruned.
    """
    rows = []
    for batch in dict.fromkeys(min(batch, len(x)) for batch in batches):
        samples = time_models({"dense": dense, "pruned": pruned}, x[:batch], rounds)
        ratios = [d / p for d, p in zip(samples["dense"], samples["pruned"], strict=True)]
        row: dict[str, Any] = {"batch": batch, "rounds": rounds, "speed_up": statistics.median(ratios)}
        for name, seconds in samples.items():
            fifths = statistics.quantiles(seconds, n=5, method="inclusive")  # between samples, never beyond
            row[name] = {
                "median_us": 1e6 * statistics.median(seconds),
                "p20_us": 1e6 * fifths[0],
                "p80_us": 1e6 * fifths[-1],
            }
        rows.append(row)
    return rows
