"""Sparse layers beside dense torch and what else a user could pick: one compact table, and a picture.

    python -m bench.sparse --threads 1 --docs

Every cell is timed in one process, the contenders taking turns; none is told whose result disagrees with the
dense layer in float64. Bias and ReLU, batch-major in and out. Ratios are medians over rounds of the dense
layer's time over a contender's.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vdropkern import _backend
from vdropkern.sparse import SparseConv2d, SparseLinear

from .docs import PAGE, between
from .gate import compare
from .machine import describe
from .run import MAX_THREADS, ROOT, whole_number, write_whole
from .sparse_peers import CONV_PEERS, PEERS
from .stats import paired_ratio, spread
from .timing import interleave

SHAPES = ((300, 784), (1000, 1000), (4096, 4096))
CONVS = ((64, 32), (256, 8))  # channels in and out, height and width; 3x3
# what is to be reached, by sparsity: of linear layers at batch 1, 8, 100 and 512, of convolutions at 1 and 32
LINEAR_MUST = {0.9: (4, 10, 5, 5), 0.95: (8, 18, 10, 10), 0.98: (15, 28, 19, 19), 0.99: (22, 48, 22, 22)}
CONV_MUST = {0.9: (6.5, 4), 0.95: (10, 6), 0.99: (25, 12)}
_ROUNDS = 30


@dataclass(frozen=True)
class Cell:
    """One layer at one sparsity and batch."""

    kind: str  # "linear" | "conv"
    shape: tuple[int, int]
    sparsity: float
    batch: int
    must: float

    @property
    def title(self) -> str:
        o, i = self.shape
        return f"{o}x{i}" if self.kind == "linear" else f"conv 3x3 {o}-{o}, {i}x{i}"

    def problem(self) -> tuple[nn.Module, Tensor]:
        """The dense layer, its weight with zeros at random places, and an input."""
        generator = torch.Generator().manual_seed(7)
        (o, i), batch = self.shape, self.batch
        dense = nn.Linear(i, o) if self.kind == "linear" else nn.Conv2d(o, o, 3, padding=1)
        size = (batch, i) if self.kind == "linear" else (batch, o, i, i)
        with torch.no_grad():
            dense.weight.uniform_(-1, 1, generator=generator)
            dense.weight.mul_(torch.rand(dense.weight.shape, generator=generator) >= self.sparsity)
        return dense.eval(), torch.randn(size, generator=generator)


def cells(kind: str) -> Iterator[Cell]:
    """The cells of one kind of layer."""
    shapes, musts, batches = (
        (SHAPES, LINEAR_MUST, (1, 8, 100, 512)) if kind == "linear" else (CONVS, CONV_MUST, (1, 32))
    )
    for shape in shapes:
        for sparsity, goals in musts.items():
            for batch, must in zip(batches, goals, strict=True):
                yield Cell(kind, shape, sparsity, batch, must)


def ours(dense: nn.Module) -> Callable[[Tensor], Tensor]:
    if isinstance(dense, nn.Linear):
        return SparseLinear.from_dense(dense.weight, dense.bias, activation="relu").eval()
    assert isinstance(dense, nn.Conv2d)
    return SparseConv2d.from_dense(dense, activation="relu").eval()


def measure(cell: Cell, peers: bool) -> dict[str, Any]:
    """The cell's record: speed-ups, or the gate's lines; peers that are not installed are left out."""
    dense, x = cell.problem()
    makers: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {"vdropkern": ours}
    if peers:
        makers |= PEERS if cell.kind == "linear" else CONV_PEERS
    runs: dict[str, Callable[[Tensor], Tensor]] = {"dense": lambda x: torch.relu_(dense(x))}
    record: dict[str, Any] = {**cell.__dict__, "red": []}
    with torch.inference_mode():
        truth = nn.Sequential(dense, nn.ReLU()).double()(x.double())
        dense.float()
        for name, make in makers.items():
            try:
                run = make(dense)
            except ImportError:
                continue
            wrong = compare({name: run(x)}, {name: truth}, dense.weight[0].numel() + 1)
            record["red"] += wrong
            if not wrong:
                runs[name] = run
        timed = {name: (lambda run=run: run(x)) for name, run in runs.items()}
        samples = interleave(timed, {"dense", "vdropkern"}, 0.6, _ROUNDS)
    times = {name: sample.as_json() for name, sample in samples.items()}
    record["ms"] = {name: spread(t["ms"]).median for name, t in times.items()}
    record["speedup"] = {}
    for name, t in times.items():
        ratio = paired_ratio(t, times["dense"])
        if ratio is not None and name != "dense":
            ratio = ratio.inverse()
            record["speedup"][name] = [ratio.median, ratio.p20, ratio.p80]
    return record


def markdown(document: dict[str, Any]) -> str:
    """The table, losing cells included."""
    about, records = document["machine"], document["records"]
    names = list(dict.fromkeys(n for r in records for n in r["speedup"] if n != "vdropkern"))
    lines = [
        f"{about['cpu']}, {document['isa']}, {document['threads']} thread(s), torch {about['torch']}, "
        f"commit {about['commit'] or 'none'}, {about['date'][:10]}. Times the dense layer's speed, median "
        "(p20-p80 of ours).",
        "",
        f"| layer | zeros | batch | dense, us | vdropkern | goal | {' | '.join(names)} |",
        f"|{' --- |' * (6 + len(names))}",
    ]
    for r in records:
        ours = r["speedup"].get("vdropkern")
        shown = "wrong" if ours is None else f"{ours[0]:.1f} ({ours[1]:.1f}-{ours[2]:.1f})"
        verdict = f"{r['must']:g}: {'reached' if ours and ours[0] >= r['must'] else 'missed'}"
        others = [f"{r['speedup'][n][0]:.1f}" if n in r["speedup"] else "" for n in names]
        cells_ = [
            r["title"],
            f"{100 * r['sparsity']:.0f} %",
            str(r["batch"]),
            f"{1e3 * r['ms']['dense']:.0f}",
        ]
        lines.append(f"| {' | '.join([*cells_, shown, verdict, *others])} |")
    return "\n".join(lines) + "\n"


def picture(document: dict[str, Any]) -> bytes:
    """Speed-up over sparsity, a panel a shape and batch, all contenders."""
    import io

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = [r for r in document["records"] if r["kind"] == "linear"]
    titles, batches = (list(dict.fromkeys(r[key] for r in records)) for key in ("title", "batch"))
    size = (3 * len(batches), 2.5 * len(titles))
    figure, axes = plt.subplots(len(titles), len(batches), figsize=size, squeeze=False, sharex=True)
    for row, title in zip(axes, titles, strict=True):
        for ax, batch in zip(row, batches, strict=True):
            own = [r for r in records if (r["title"], r["batch"]) == (title, batch)]
            for name in dict.fromkeys(n for r in own for n in r["speedup"]):
                points = [(100 * r["sparsity"], r["speedup"][name][0]) for r in own if name in r["speedup"]]
                ours = name == "vdropkern"
                ax.plot(*zip(*points, strict=True), "o-" if ours else ".-", lw=2 if ours else 1, label=name)
            ax.plot([100 * r["sparsity"] for r in own], [r["must"] for r in own], "k:", lw=0.8, label="goal")
            ax.axhline(1.0, color="k", lw=0.8)
            ax.set_yscale("log")
            ax.set_title(f"{title}, batch {batch}", fontsize=8)
            ax.tick_params(labelsize=7)
    axes[0][0].legend(fontsize=6)
    figure.supxlabel("zeros, %", fontsize=8)
    figure.supylabel("times the dense layer's speed", fontsize=8)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=140)
    plt.close(figure)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sparse", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=whole_number(MAX_THREADS), default=1, metavar="N")
    parser.add_argument("--kind", choices=("linear", "conv"), help="one kind of layer (default: both)")
    parser.add_argument("--shape", help="titles that begin so, as 300x784 (default: all)")
    parser.add_argument("--no-peers", action="store_true", help="dense torch and vdropkern alone")
    parser.add_argument("--from-json", type=Path, action="append", help="time nothing; several are joined")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    if arguments.from_json:
        try:
            parts = [json.loads(path.read_text()) for path in arguments.from_json]
            document = {**parts[0], "records": [r for part in parts for r in part["records"]]}
        except (OSError, ValueError, KeyError, TypeError) as err:
            parser.error(f"--from-json: {err}")
    else:
        warnings.simplefilter("ignore")  # torch's sparse tensors say that they are in beta
        torch.set_num_threads(arguments.threads)
        kinds = (arguments.kind,) if arguments.kind else ("linear", "conv")
        chosen = [c for kind in kinds for c in cells(kind) if c.title.startswith(arguments.shape or "")]
        records = [{**measure(cell, not arguments.no_peers), "title": cell.title} for cell in chosen]
        document = {"machine": describe(), "isa": _backend.cpu_isa(), "threads": arguments.threads}
        document["records"] = records
    name = f"sparse-{document['threads']}"
    write_whole(arguments.out / f"{name}.json", json.dumps(document).encode())
    text = markdown(document)
    print(text)
    red = [line for r in document["records"] for line in r["red"]]
    for line in red:
        print("RED", line)
    if any(r["kind"] == "linear" for r in document["records"]):
        write_whole(arguments.out / f"{name}.png", picture(document))
    if red:
        sys.exit(1)  # nothing red goes into the documentation
    if arguments.docs:
        if document["threads"] == 1:
            write_whole(ROOT / "docs" / "images" / "sparse.png", picture(document))
            text += "\n![speed-up over sparsity, one thread](images/sparse.png)\n"
        write_whole(PAGE, between(PAGE, PAGE.read_text(), name, text).encode())


if __name__ == "__main__":
    main()
