"""Interleaved timing in one process: contenders take turns, so that all meet the same noise."""

from __future__ import annotations

import gc
import math
import random
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

TURN_S = 0.01  # a turn repeats a contender until it lasts about this long
MAX_ROUNDS = 300

Run = Callable[[], object]


@dataclass
class Samples:
    """What one contender's turns gave, by round and a call: times, and the kernel's counts."""

    ms: dict[int, float] = field(default_factory=dict)
    system_ms: list[float] = field(default_factory=list)
    user_ms: list[float] = field(default_factory=list)
    minor_faults: list[float] = field(default_factory=list)
    seconds: float = 0.0
    preempted: int = 0

    def as_json(self) -> dict[str, Any]:
        """Raw samples, one a round; `seconds` and `preempted` in all."""
        return {
            "rounds": list(self.ms),
            "ms": [round(v, 6) for v in self.ms.values()],
            "system_ms": [round(v, 6) for v in self.system_ms],
            "user_ms": [round(v, 6) for v in self.user_ms],
            "minor_faults": [round(v, 3) for v in self.minor_faults],
            "seconds": self.seconds,
            "preempted": self.preempted,
        }


def _turn(run: Run, calls: int, samples: Samples, index: int) -> None:
    if calls > 1:
        run()  # bring code and data back into the caches the last contender took
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    for _ in range(calls):
        run()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    samples.ms[index] = 1e3 * seconds / calls
    samples.system_ms.append(1e3 * (after.ru_stime - before.ru_stime) / calls)
    samples.user_ms.append(1e3 * (after.ru_utime - before.ru_utime) / calls)
    samples.minor_faults.append((after.ru_minflt - before.ru_minflt) / calls)
    samples.seconds += seconds
    samples.preempted += after.ru_nivcsw - before.ru_nivcsw


def calls_per_turn(run: Run) -> tuple[int, float]:
    """Warm `run` up and return (calls in a turn, seconds a call)."""
    run()
    calls, seconds = 1, 0.0
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            run()
        seconds = (time.perf_counter() - start) / calls
        if seconds * calls >= TURN_S or calls >= 100_000:
            return max(1, min(calls, math.ceil(TURN_S / max(seconds, 1e-9)))), seconds
        calls *= 4


def plan(
    cost_s: Mapping[str, float], core: set[str], budget_s: float, min_rounds: int
) -> tuple[int, dict[str, int]]:
    """(rounds, rounds each contender takes part in) for a time budget.

    Core contenders take part in all rounds, of which there are at least `min_rounds` whatever the budget; the
    others share what time is left, and have at least a sixth of `min_rounds`.
    """
    core_s = sum(cost_s[name] for name in cost_s if name in core)
    guest_s = sum(cost_s[name] for name in cost_s if name not in core)
    share = 1.0 if guest_s == 0 else 0.6
    rounds = MAX_ROUNDS if core_s == 0 else int(share * budget_s / core_s)
    rounds = max(min_rounds, min(rounds, MAX_ROUNDS))
    guests = int(max(budget_s - rounds * core_s, 0.0) / guest_s) if guest_s else 0
    guests = max(1, min_rounds // 6, min(guests, rounds))
    return rounds, {name: rounds if name in core else guests for name in cost_s}


def interleave(
    runs: Mapping[str, Run], core: set[str], budget_s: float, min_rounds: int, seed: int = 0
) -> dict[str, Samples]:
    """Time every run in turns, in an order shuffled anew each round; no garbage is collected meanwhile."""
    shape = {name: calls_per_turn(run) for name, run in runs.items()}
    # a turn of more than one call has an untimed one before it
    cost = {name: s * (calls + (calls > 1)) for name, (calls, s) in shape.items()}
    rounds, parts = plan(cost, core, budget_s, min_rounds)
    samples = {name: Samples() for name in runs}
    order = random.Random(seed)
    gc.collect()
    gc.freeze()  # what is there stays; the collections between rounds then cost nothing
    gc.disable()
    try:
        for index in range(rounds):
            # spread a guest's rounds evenly over the whole run
            due = [n for n in runs if (index + 1) * parts[n] // rounds > index * parts[n] // rounds]
            order.shuffle(due)
            for name in due:
                _turn(runs[name], shape[name][0], samples[name], index)
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    return samples
