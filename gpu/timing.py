"""Time on a GPU: events around each call, cold caches, contenders in turns. A CPU may stand in, for tests."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Run = Callable[[], object]
_FLUSH_BYTES = 256 << 20  # more than any cache between the multiprocessors and memory


@dataclass(frozen=True)
class Time:
    """Milliseconds of a call: median, 20th and 80th percentile, and how many were measured."""

    median: float
    p20: float
    p80: float
    rounds: int


class Clock:
    """Times single calls on a device."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._flush = torch.empty(_FLUSH_BYTES if self.on_gpu else 1, dtype=torch.uint8, device=device)

    def sync(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def time(self, run: Run) -> float:
        """Milliseconds of one call with cold caches, its launches included."""
        self._flush.zero_()
        if not self.on_gpu:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.sync()
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end))


def interleave(runs: Mapping[str, Run], clock: Clock, budget_s: float, min_rounds: int) -> dict[str, Time]:
    """Time every run in turns, in an order shuffled anew each round, for about `budget_s` seconds."""
    for run in runs.values():
        for _ in range(3):
            run()
    clock.sync()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    order, names = random.Random(0), list(runs)
    end = time.perf_counter() + budget_s
    while len(samples[names[0]]) < min_rounds or time.perf_counter() < end:
        order.shuffle(names)
        for name in names:
            samples[name].append(clock.time(runs[name]))
    return {name: summary(found) for name, found in samples.items()}


def summary(ms: list[float]) -> Time:
    cuts = statistics.quantiles(ms, n=5) if len(ms) > 1 else [ms[0]] * 4
    return Time(statistics.median(ms), cuts[0], cuts[3], len(ms))


def peak_bytes(run: Run, clock: Clock) -> int | None:
    """Most bytes torch's allocator held during a call beyond those before; None on a CPU."""
    if not clock.on_gpu:
        run()
        return None
    run()
    clock.sync()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    clock.sync()
    return int(torch.cuda.max_memory_allocated() - before)
