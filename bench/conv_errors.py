"""``python -m bench.conv_errors``: how exact conv2d_lrt is, with half of the inputs exactly zero."""

from __future__ import annotations

from .bench_conv2d_lrt import errors
from .cases import CASES, Conv


def main() -> None:
    """Print a line for every convolution that is timed: root mean square errors over that of the truth."""
    for case in CASES:
        if isinstance(case.spec, Conv) and case.bench == "conv2d_lrt":
            shown = ", ".join(f"{name} {error:.1e}" for name, error in errors(case.spec).items())
            print(f"{case.title}: {shown}", flush=True)


if __name__ == "__main__":
    main()
