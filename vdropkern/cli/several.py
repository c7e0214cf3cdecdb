"""The commands on several runs, `sweep` and `report`: their flags and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..recipes import RECIPES
from .app import app
from .options import MACHINE, RUN, SETTINGS, Data, Device, TensorBoard, option


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "vdropkern sweep lenet-300-100\n\n"
    "vdropkern sweep lenet-300-100 --over method=sparse-vd,ard,none --over seed=0,1,2 --set epochs=5\n\n"
    "vdropkern report runs/sweep-lenet-300-100"
)
def sweep(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=", ".join(RECIPES), show_default=False)],
    over: Annotated[
        list[str] | None,
        option(
            SETTINGS,
            "A setting and its values; may be repeated. Default: the published table's grid.",
            metavar="NAME=VALUE,VALUE,...",
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        option(SETTINGS, "A setting of all cells; may be repeated.", "--set", metavar="NAME=VALUE"),
    ] = None,
    data: Data = None,
    out: Annotated[Path | None, option(RUN, "Default: runs/sweep-RECIPE.", metavar="FOLDER")] = None,
    dry_run: Annotated[bool, option(RUN, "List the cells and what has become of them.", "--dry-run")] = False,
    workers: Annotated[int, option(MACHINE, "Cells at once; default 1.")] = 1,
    threads: Annotated[
        int | None, option(MACHINE, "Threads of torch of each cell; default: the CPUs shared out.")
    ] = None,
    device: Device = "cpu",
    tensorboard: TensorBoard = False,
    ray_address: Annotated[
        str | None,
        option(MACHINE, "Run the cells on this Ray cluster; 'local' starts one. All nodes must see --out."),
    ] = None,
) -> None:
    """Train every combination of settings, each in a child process with a folder of its own.

    Run again, whatever ended it, it goes on: finished cells are left alone, others resume from their
    checkpoints. A cell that fails is reported at the end (exit code 1) and does not stop the others.
    """
    from .sweep import run_sweep

    run_sweep(
        recipe, over or [], fixed or [], out=out, data=data, workers=workers, threads=threads,
        device=device, tensorboard=tensorboard, ray_address=ray_address, dry_run=dry_run,
    )  # fmt: skip


@app.command(
    epilog="[bold]Example[/bold]\n\nvdropkern report runs/sweep-lenet-300-100 runs/demo --out compared"
)
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="A finished run's folder; or several, of runs and sweeps."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the report of several; default: the sweep's.", show_default=False),
    ] = None,
) -> None:
    """Draw the report of a finished run again, or one that sets several beside each other.

    One run: its pictures and report.html, from its results and checkpoint. Several, or a sweep: report.html
    and report.md with their numbers beside the published ones, curves, compression, sparsity, times.
    """
    if len(folders) == 1 and out is None and (folders[0] / "results.json").exists():
        from .train import rebuild_report

        rebuild_report(folders[0])
        return
    from .report import run_report

    run_report(folders, out)
