"""Sparse layers on one thread and on several, in turns: what more threads gain, and cost small layers.

python -m bench.threads --threads 2
"""

from __future__ import annotations

import argparse
import os

import torch
from rich.console import Console
from rich.table import Table

from vdropkern import _backend

from .run import MAX_THREADS, whole_number
from .sparse import Cell, ours
from .stats import Spread, paired_ratio, spread
from .timing import interleave

# channels of convolutions and their images; rows and columns of linear layers
LAYERS = {
    "linear": ((300, 784), (1000, 1000), (4096, 4096)),
    "conv": ((16, 32), (32, 16), (64, 32), (128, 16), (256, 8)),
}
BATCHES = {"linear": (1, 8, 32, 100), "conv": (1, 3)}
ZEROS = (0.8, 0.9, 0.95, 0.99)
BUDGET_S, ROUNDS = 0.3, 15


def measure(cell: Cell, threads: int) -> tuple[float, Spread]:
    """Microseconds on one thread, and how many times as fast several are."""
    dense, x = cell.problem()
    layer = ours(dense)

    def on(count: int) -> None:
        torch.set_num_threads(count)
        layer(x)

    with torch.inference_mode():
        runs = {"one": lambda: on(1), "all": lambda: on(threads)}
        samples = interleave(runs, set(runs), BUDGET_S, ROUNDS)
    one, several = samples["one"].as_json(), samples["all"].as_json()
    ratio = paired_ratio(one, several)
    assert ratio is not None
    return 1e3 * spread(one["ms"]).median, ratio


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.threads", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--threads", type=whole_number(MAX_THREADS), default=os.cpu_count(), metavar="N")
    threads = parser.parse_args().threads
    table = Table("layer", "zeros", "batch", "one thread, us", f"times as fast on {threads} (p20-p80)",
                  title=f"vdropkern, {_backend.cpu_isa()}, torch {torch.__version__}")  # fmt: skip
    console = Console()
    with console.status("") as status:
        for kind, shapes in LAYERS.items():
            for shape in shapes:
                for zeros in ZEROS:
                    for batch in BATCHES[kind]:
                        cell = Cell(kind, shape, zeros, batch, must=1)
                        status.update(f"{cell.title}, {zeros:.0%} zeros, batch {batch}")
                        us, times = measure(cell, threads)
                        table.add_row(cell.title, f"{zeros:.0%}", str(batch), f"{us:.0f}",
                                      f"{times.median:.2f} ({times.p20:.2f}-{times.p80:.2f})")  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
