"""``python -m bench.conv_errors``: how exact conv2d_lrt is, with half of the inputs exactly zero."""

from __future__ import annotations

import argparse

from . import docs
from .bench_conv2d_lrt import errors
from .cases import CASES
from .run import ROOT, write_whole
from .specs import Case, Conv

PAGE = ROOT / "docs" / "ops" / "conv2d_lrt.md"


def convolutions() -> list[Case]:
    """Every single convolution that is timed, in both memory formats."""
    return [case for case in CASES if isinstance(case.spec, Conv) and case.bench == "conv2d_lrt"]


def main() -> None:
    """Print a line for each: root mean square errors over those of the truth."""
    parser = argparse.ArgumentParser(prog="python -m bench.conv_errors", description=__doc__)
    parser.add_argument("--docs", action="store_true", help="also write them into docs/ops/conv2d_lrt.md")
    arguments = parser.parse_args()
    body: list[list[str]] = []
    headers: list[str] = []
    for case in convolutions():
        assert isinstance(case.spec, Conv)
        found = errors(case.spec)
        headers = ["root mean square error", *found]
        body.append([case.title, *(f"{error:.1e}" for error in found.values())])
        line = ", ".join(f"{name} {error:.1e}" for name, error in found.items())
        print(f"{case.title}: {line}", flush=True)
    if arguments.docs:
        table = "\n".join(docs.table(headers, body)) + "\n"
        write_whole(PAGE, docs.between(PAGE, PAGE.read_text(), "errors", table).encode())


if __name__ == "__main__":
    main()
