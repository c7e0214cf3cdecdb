"""``python -m gpu verify | roofline | audit | check``; see docs/gpu.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="rungs 1 to 6, without a GPU")
    verify.add_argument("--arch", action="append", help="sm_90 and so on; default: all that are shipped")
    verify.add_argument("--library", type=Path, help="compiled library; default: the package's")
    verify.add_argument("--update", action="store_true", help="write the budgets instead of holding to them")
    verify.add_argument("--no-triton", action="store_true")
    verify.add_argument(
        "--where-possible", action="store_true", help="leave out what needs Triton or nvcc where they are not"
    )
    verify.add_argument(
        "--rung", action="append", choices=("1", "2", "2s", "3", "4", "5"), default=[], help="these alone"
    )
    commands.add_parser("roofline", help="rung 7: an estimate, not measured")
    audit = commands.add_parser("audit", help="look a wheel with CUDA kernels over")
    audit.add_argument("wheel", type=Path, nargs="+")
    check = commands.add_parser("check", help="rung 8: on a machine with a GPU")
    check.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    check.add_argument("--out", type=Path, default=Path.cwd(), help="folder of the two reports")
    check.add_argument("--stand-in", action="store_true", help=argparse.SUPPRESS)
    check.add_argument("pytest", nargs="*", help="passed on to pytest, after --")
    return parser


def main() -> int:
    args = _parser().parse_args()
    if args.command == "roofline":
        from . import roofline

        print(roofline.table())
        return 0
    if args.command == "audit":
        from . import audit

        return audit.main(args.wheel)
    if args.command == "check":
        from . import check

        return check.main(args.stand_in, args.quick, args.out, args.pytest)
    from . import verify

    return verify.main(
        tuple(args.arch or verify.ARCHITECTURES),
        args.library or verify.LIBRARY,
        args.update,
        not args.no_triton,
        tuple(args.rung),
        args.where_possible,
    )


sys.exit(main())
