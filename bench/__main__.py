"""The command line of the benchmark: choose cases, run them, print and write what came out."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import cases, docs, plot, specs, tables
from .run import MAX_THREADS, MEMORY, Options, gather, merge, run, whole_number, write_whole

EPILOG = """\
examples:
  python -m bench                                everything, 15 to 20 minutes on two cores
  python -m bench --quick                        every case in short, without the peers, 2 to 3 minutes
  python -m bench --list                         the cases and their contenders
  python -m bench --page methods                 noise, heads, convolutions, and every method on one layer
  python -m bench --page binary                  binarised activations and weights
  python -m bench --case linear-4096-b64         one case, under every allocator setting
  python -m bench --case kl --case noise         every case whose name begins so
  python -m bench --case linear-1024-b128 --contender vdropkern --contender compile
  python -m bench --isa avx2 --threads 1         the kernels held to one instruction set, on one thread
  python -m bench --from-json build/bench/bench.json      print and draw an earlier run again
  python -m bench --from-json build/bench/bench.json --docs   ... into README.md and docs/

Times are medians of rounds in which all contenders take turns in one process, with the 20th and 80th
percentile; a ratio is the median of the ratios within a round. A case whose kernels disagree with the
reference is red: it gets no times, and the exit status is 1. How to read the tables: docs/benchmarks.md.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time vdropkern beside dense torch, the eager formula, torch.compile and its peers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--list", action="store_true", help="list cases and contenders, and end")
    add("--quick", action="store_true", help="few rounds, no peers, default allocator: a look, no claim")
    add("--case", action="append", default=[], metavar="NAME", help="a case, or how names begin; repeatable")
    add("--page", choices=cases.PAGES, help="the cases of one part of docs/benchmarks.md (default: tables)")
    add("--contender", action="append", default=[], metavar="NAME",
        help="a contender, its baseline comes along; repeatable (default: see --list)")  # fmt: skip
    add(
        "--memory", action="append", choices=list(MEMORY), help="allocator setting; repeatable (default: all)"
    )
    add("--rounds", type=whole_number(10**6), metavar="N", help="rounds at least (default: 30)")
    add("--threads", type=whole_number(MAX_THREADS), default=2, metavar="N",
        help="threads of every contender (default: 2)")  # fmt: skip
    add("--isa", choices=("portable", "avx2", "avx512"), help="hold the kernels to it (default: the best)")
    add("--out", type=Path, default=Path("build/bench"), metavar="DIR",
        help="where bench.json, bench.md and speed.png go (default: build/bench)")  # fmt: skip
    add(
        "--from-json",
        action="append",
        type=Path,
        metavar="FILE",
        help="time nothing: print, draw and write this earlier run; several are merged",
    )
    add("--docs", action="store_true", help="also write a whole run's numbers into README.md and docs/")
    return parser


def _chosen_cases(prefixes: list[str], page: str | None) -> list[specs.Case]:
    """Cases whose names begin with one of `prefixes`, or of a page; exits with 2 on one that fits none."""
    for prefix in prefixes:
        if not any(case.name.startswith(prefix) for case in cases.CASES):
            names = ", ".join(case.name for case in cases.CASES)
            raise SystemExit(_usage(f"--case {prefix}: no case begins so; there are: {names}"))
    if prefixes:
        return [
            c for c in cases.CASES if c.name.startswith(tuple(prefixes)) and page in (None, cases.page(c))
        ]
    return [case for case in cases.CASES if cases.page(case) == (page or "tables")]


def _usage(message: str) -> int:
    print(f"python -m bench: {message}", file=sys.stderr)
    return 2


def _options(arguments: argparse.Namespace) -> Options:
    chosen = _chosen_cases(arguments.case, arguments.page)
    if arguments.contender:
        known = {name for case in chosen for name in cases.contenders(case)}
        for name in arguments.contender:
            if name not in known:
                there = ", ".join(sorted(known))
                raise SystemExit(_usage(f"--contender {name}: unknown here; there are: {there}"))
        chosen = [case for case in chosen if set(arguments.contender) & set(cases.contenders(case))]
    options = Options(chosen, arguments.contender, tuple(arguments.memory or MEMORY), arguments.rounds)
    options = replace(options, threads=arguments.threads, isa=arguments.isa)
    if arguments.quick:
        options = replace(options, memory=tuple(arguments.memory or ["default"]), quick=True)
    if not options.jobs():
        raise SystemExit(_usage("nothing to run: no chosen case is timed under that --memory"))
    return options


def _list() -> None:
    for name, table in cases.TABLES.items():
        own = [case for case in cases.CASES if case.table == name]
        print(f"\n{table.title}; compared with {table.baseline}")
        for case in own:
            target = "" if case.target is None else f"; {case.target.contender} {tables.goal(case.target)}"
            print(f"  case {case.name:25}{case.title}{target}")
        for key, contender in cases.contenders(own[0]).items():
            print(f"  contender {key:24}{contender.label}{'' if contender.default else ' (only if named)'}")


def _measure(options: Options) -> dict[str, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # redrawn rarely: what is timed needs every CPU
    with Progress(*columns, transient=True, refresh_per_second=1) as progress:
        task = progress.add_task("starting", total=len(options.jobs()))

        def started(case: specs.Case, memory: str) -> None:
            progress.update(task, description=tables.title(case, memory))

        results: list[dict[str, Any]] = []
        try:
            for result in run(options, started):
                results.append(result)
                progress.advance(task)
        except KeyboardInterrupt:
            print("interrupted: what follows is what was measured so far", file=sys.stderr)
            return gather(results, options) | {"interrupted": True}
    return gather(results, options)


def main() -> int:
    arguments = _parser().parse_args()
    if arguments.list:
        _list()
        return 0
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)  # before anything takes minutes
    except OSError as err:
        return _usage(f"--out: {err}")
    if arguments.from_json:
        try:
            document = merge([json.loads(path.read_text()) for path in arguments.from_json])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
            return _usage(f"--from-json: {err}")
    else:
        document = _measure(_options(arguments))
        write_whole(arguments.out / "bench.json", json.dumps(document).encode())
    from rich.console import Console

    from . import report

    console = Console()
    report.show(document, console if console.is_terminal else Console(width=190))
    write_whole(arguments.out / "bench.md", docs.markdown(document).encode())
    picture = plot.png(document)
    if picture is not None:
        write_whole(arguments.out / "speed.png", picture)
    if arguments.docs:
        try:
            docs.update(document, picture)
        except ValueError as err:
            return _usage(f"--docs: {err}")
    console.print(f"written to {arguments.out}/: bench.json, bench.md" + (", speed.png" if picture else ""))
    from .rows import problems

    if document.get("interrupted"):
        return 130
    return 1 if problems(document) else 0


if __name__ == "__main__":
    sys.exit(main())
