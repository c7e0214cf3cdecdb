"""`pytest bench/`: every contender of every case as a pytest-benchmark test, behind the case's gate.

pytest bench/ -k "1024 and vdropkern"            some of them
pytest bench/ --benchmark-autosave               keep the numbers ...
pytest bench/ --benchmark-compare                ... and compare with the last ones kept
pytest bench/ --benchmark-json=out.json --benchmark-histogram
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import vdropkern as vdk

from . import cases, specs
from .step import Step


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many threads: the same for every contender."""
    parser.addoption("--bench-threads", type=int, default=2, help="threads of every contender (default: 2)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Deprecations inside old peers are no failure of a benchmark."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise ``test_<op>(timed)`` by the cases of bench_<op>.py and their contenders."""
    if "timed" not in metafunc.fixturenames:
        return
    bench = metafunc.function.__name__.removeprefix("test_")
    found = [
        pytest.param((case, name), id=f"{case.name}-{name}")
        for case in cases.CASES
        if case.bench == bench
        for name, contender in cases.contenders(case).items()
        if contender.default
    ]
    metafunc.parametrize("timed", found, indirect=True)


@cache
def _gate(name: str) -> tuple[str, ...]:
    case = cases.by_name(name)
    return tuple(cases.module(case).gate(case.spec))


@pytest.fixture
def timed(request: pytest.FixtureRequest, benchmark: Any) -> Callable[[], None]:
    """A function that times one contender of one case, after the gate."""
    case, name = request.param

    def run_benchmark() -> None:
        threads = request.config.getoption("--bench-threads")
        torch.set_num_threads(threads)
        wrong = _gate(case.name)
        if wrong:
            pytest.fail(f"red gate of {case.name}, no speed is told: {'; '.join(wrong)}", pytrace=False)
        contender = cases.contenders(case)[name]
        try:
            run = contender.make(case.spec)
        except specs.MissingError as err:
            pytest.skip(str(err))
        faults = run.check() if isinstance(run, Step) else []
        assert not faults, f"{name} does not do a training step: {'; '.join(faults)}"
        benchmark.group = case.name
        benchmark.extra_info.update(
            contender=contender.label, threads=threads, backend=vdk.explain("linear_lrt").splitlines()[0]
        )
        run()  # compilers, lazy initialisation
        benchmark(run)

    return run_benchmark
