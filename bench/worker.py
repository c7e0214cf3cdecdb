"""Time one case in this process and write what came out as JSON. Started by run.py, one process a case."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import vdropkern as vdk
from vdropkern import _backend

from . import cases, machine, specs
from .memory import peak_bytes, saved_bytes
from .step import Step
from .timing import interleave

_PHASES = ("gate", "prepare", "time")


def _prepare(
    case: specs.Case, wanted: list[str]
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, Any]]]:
    """(what can be timed, a record for every contender): a peer that is missing or broken stops nobody."""
    runs: dict[str, Callable[[], object]] = {}
    records: dict[str, dict[str, Any]] = {}
    for name in wanted:
        contender = cases.contenders(case)[name]
        record = records[name] = {"label": contender.label, "status": "ok", "baseline": contender.baseline}
        try:
            run = contender.make(case.spec)
            wrong = run.check() if isinstance(run, Step) else []
            if wrong:
                record |= {"status": "wrong", "why": "; ".join(wrong)}
                continue
            if isinstance(run, Step):
                record["saved_bytes"] = saved_bytes(run)
            else:
                run()
            record["peak_bytes"] = peak_bytes(run)
        except specs.MissingError as err:
            record |= {"status": "missing", "why": str(err)}
        except Exception as err:
            if contender.core:
                raise
            record |= {"status": "failed", "why": "".join(traceback.format_exception_only(err)).strip()}
        else:
            runs[name] = run
    return runs, records


def measure(
    case: specs.Case, wanted: list[str], rounds: int, budget_s: float, gated: bool = False
) -> dict[str, Any]:
    """Gate, memory, then interleaved times of the `wanted` contenders of `case`.

    `gated`: the gate was green just now, in a process under another allocator setting.

    Returns:
        a JSON object; "status" is "ok", or "red" with the gate's lines and no times.
    """
    result: dict[str, Any] = {"case": case.name, "status": "ok", "load_before": os.getloadavg()[0]}
    result["backend"] = {op: vdk.explain(op).splitlines()[0] for op in _backend.KERNEL_OPS}
    result["isa"], result["threads"] = _backend.cpu_isa(), torch.get_num_threads()
    start = time.perf_counter()
    result["gate"] = [] if gated else cases.module(case).gate(case.spec)
    if result["gate"]:
        return result | {"status": "red"}
    gate_end = time.perf_counter()
    runs, records = _prepare(case, wanted)
    prepare_end = time.perf_counter()
    core = {name for name in runs if cases.contenders(case)[name].core}
    for name, samples in interleave(runs, core, budget_s, rounds).items():
        records[name] |= samples.as_json()
    ends = (start, gate_end, prepare_end, time.perf_counter())
    spent = {name: round(b - a, 1) for name, (a, b) in zip(_PHASES, pairwise(ends), strict=True)}
    return result | {"contenders": records, "seconds": spent, "load_after": os.getloadavg()[0]}


def select(case: specs.Case, memory: str, names: list[str], quick: bool) -> list[str]:
    """Contenders to time: those named and their baselines, else the default ones; of them a quick run leaves
    out the peers, and one with the heap kept, which only tells page faults from arithmetic, all but the core.
    """
    known: Mapping[str, specs.Contender] = cases.contenders(case)
    if names:
        own = {known[name].baseline for name in names if name in known}
        chosen = {*names, *own, cases.TABLES[case.table].baseline}
        return [name for name in known if name in chosen]
    if memory == "heap-kept":
        return [name for name, contender in known.items() if contender.core]
    return [name for name, c in known.items() if c.default and not (quick and c.package)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.worker", description=__doc__)
    parser.add_argument("request", type=json.loads, help="JSON object, as run.py makes it")
    request: dict[str, Any] = parser.parse_args().request
    warnings.simplefilter("ignore")  # deprecations inside peers; ours are for the tests to find
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    case = cases.by_name(request["case"])
    chosen = select(case, request["memory"], request["contenders"], request["quick"])
    with contextlib.ExitStack() as stack:
        if request["isa"]:
            stack.enter_context(_backend.use_cpu_isa(request["isa"]))
        result = measure(case, chosen, request["rounds"], request["budget_s"], request["gated"])
    result |= {"memory": request["memory"], "machine": machine.describe()}
    Path(request["result"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
