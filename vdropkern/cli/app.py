"""The commands: their flags and help. What they do is in the modules they call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .. import _info
from .._version import __version__
from ..recipes import RECIPES, estimator_study
from .info import render
from .options import (
    Augment,
    BatchSize,
    ClipStart,
    Data,
    Device,
    Epochs,
    Init,
    KlEnd,
    KlStart,
    LogSigma2,
    Lr,
    Method,
    NoiseLr,
    Out,
    Overwrite,
    Precision,
    Resume,
    Scale,
    Seed,
    TensorBoard,
    Threads,
    Threshold,
)
from .settings import settings_help

_SUMMARIES = {recipe.name: recipe.summary for recipe in RECIPES.values()}
_SUMMARIES[estimator_study.NAME] = estimator_study.SUMMARY
RECIPE_LIST = "; ".join(f"{name} ({summary})" for name, summary in _SUMMARIES.items())

app = typer.Typer(
    name="vdropkern",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train with variational dropout, prune what is noise, run what is left.\n\n"
    "A first run, minutes on two cores:\n\n"
    "[bold]vdropkern train lenet-300-100 --method sparse-vd[/bold]\n\n"
    "Exit codes: 0 done, 1 failed, 2 wrong use or data (nothing is written), 130 interrupted.",
)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if ctx.invoked_subcommand != "train":
        from .console import refuse_several

        refuse_several(str(ctx.invoked_subcommand))


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs.")] = False) -> None:
    """Show versions, compiled kernels, and which backend each op takes here and why.

    Put its output into bug reports. It initialises no device.
    """
    facts = _info.gather()
    typer.echo(json.dumps(facts, indent=1) if as_json else render(facts))


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(help="One of them, as sparse-vd or SparseVD: shows it in full.")
    ] = None,
) -> None:
    """Show the methods of the field: where noise enters, its scale, the prior, what is pruned, the paper."""
    from .methods import run_methods

    run_methods(name)


@app.command(
    # flags that are not in the signature are settings of single recipes; `settings.parse` checks them
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="[bold]Further settings[/bold], after RECIPE\n\n"
    + settings_help(list(RECIPES.values()))
    + "\n\n[bold]Examples[/bold]\n\n"
    "vdropkern train lenet-300-100 --data mnist/ --threads 2\n\n"
    "vdropkern train lenet-300-100 --method ard --epochs 50 --seed 1 --out runs/ard-1\n\n"
    "vdropkern train lenet-300-100 --out runs/ard-1 --resume",
)
def train(
    ctx: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_LIST, show_default=False)],
    method: Method = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Lr = None,
    noise_lr: NoiseLr = None,
    kl_start: KlStart = None,
    kl_end: KlEnd = None,
    log_sigma2: LogSigma2 = None,
    threshold: Threshold = None,
    clip_start: ClipStart = None,
    scale: Scale = None,
    precision: Precision = None,
    augment: Augment = None,
    init: Init = None,
    seed: Seed = None,
    data: Data = None,
    out: Out = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    tensorboard: TensorBoard = False,
    threads: Threads = None,
    device: Device = "cpu",
) -> None:
    """Train a recipe, prune the net, test and time it, and write a report.

    Writes into --out: config.json, environment.json, metrics.csv, checkpoint.pt, results.json,
    pruned.safetensors, report.html and its pictures.
    Ctrl-C stops after the step under way and leaves a checkpoint; --resume goes on from it as if
    nothing had happened (bit for bit on the CPU with the same number of threads).

    On several CPUs or GPUs: `torchrun --nproc-per-node N -m vdropkern train ...` trains one net on N
    processes, each with its share of every batch; --batch-size is that of all together.
    """
    from .plan import Wish
    from .train import run

    settings = {
        "method": method, "epochs": epochs, "batch_size": batch_size, "lr": lr, "noise_lr": noise_lr,
        "kl_start": kl_start, "kl_end": kl_end, "log_sigma2": log_sigma2, "threshold": threshold,
        "clip_start": clip_start, "scale": scale, "precision": precision, "augment": augment, "init": init,
        "seed": seed,
    }  # fmt: skip
    given = {name: value for name, value in settings.items() if value is not None}
    if recipe == estimator_study.NAME:
        from .study import run_study

        given |= {"data": data} if data is not None else {}
        given |= {"device": device} if device != "cpu" else {}
        given |= {"tensorboard": True} if tensorboard else {}
        run_study(given, ctx.args, out=out, overwrite=overwrite, resume=resume, threads=threads)
        return
    wish = Wish(data, out, device, resume, overwrite, tensorboard)
    run(recipe, given, wish, threads, ctx.args)


@app.command(
    epilog="[bold]Example[/bold]\n\n"
    "vdropkern sparsify runs/lenet-300-100-sparse-vd-seed0 --threshold 2 --out small\n\n"
    "vdropkern sparsify net.safetensors --out small"
)
def sparsify(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run's folder or its checkpoint.pt (an unfinished run's too), "
            "or a .safetensors file by vdropkern.save."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pruned net; made if it is not there.")],
    threshold: Annotated[
        float | None,
        typer.Option(help="Prune weights of log_alpha >= this; default: the run's.", show_default=False),
    ] = None,
) -> None:
    """Prune the net of a checkpoint, save it, and print what is left by layer.

    Dead inputs, units and channels go first, constants and normalisation fold; then each layer is stored and
    run sparse or dense, whichever is faster. Writes into --out: pruned.safetensors, which vdropkern.load and
    `vdropkern bench` read, and sizes.json.
    """
    from .prune import run_sparsify

    run_sparsify(checkpoint, out, threshold)


@app.command(epilog="[bold]Example[/bold]\n\nvdropkern bench runs/demo --batch 1 --batch 64")
def bench(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_DIR",
            help="A folder that `train` or `sparsify` wrote, or a net saved by vdropkern.save.",
        ),
    ],
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Batch size; may be repeated. Default: 1, 100.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Samples of each.")] = 50,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch; default: torch's own choice.", show_default=False)
    ] = None,
) -> None:
    """Time a pruned net against its dense twin on this machine, in turns.

    The twin is the same net in torch's dense layers, of the size that shrinking has left. The numbers are
    medians with the 20th and 80th percentile; a speed-up below 1 is a loss.

    The whole comparison with training, peers and plots is `make bench` in the source tree.
    """
    from .prune import run_bench

    run_bench(model, batch or [1, 100], rounds, threads)


@app.command(
    epilog="[bold]Example[/bold]\n\nvdropkern tune --problem 128x784x300 --arithmetic tf32 --out tiles"
)
def tune(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the file, which is named after the GPU, as sm_90.json; made if it is not there."
        ),
    ],
    problem: Annotated[
        list[str] | None,
        typer.Option(
            help="A layer, as BATCHxINPUTSxOUTPUTS; may be repeated. Default: four from small to large.",
            show_default=False,
        ),
    ] = None,
    arithmetic: Annotated[
        list[str] | None,
        typer.Option(
            help="ieee, tf32x3, tf32 or half; may be repeated. Default: tf32 and half.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure which tiles the Triton kernels should take on this GPU, and write them to a file.

    vdropkern.use_tiles takes the file. Without one, shipped tiles are used; nothing is measured at run time.
    """
    from .tune import DEFAULT_PROBLEMS, run_tune

    run_tune(problem or list(DEFAULT_PROBLEMS), arithmetic or ["tf32", "half"], out)


# the commands on several runs join the app; they need what stands above
from . import several  # noqa: E402, F401
