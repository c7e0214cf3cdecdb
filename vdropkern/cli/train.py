"""`vdropkern train` and `report`: check everything, train, then prune, test, time and report."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import typer

from .. import _info
from ..recipes import RECIPES
from ..recipes.checkpoint import FILE_NAME, CheckpointError, load_checkpoint
from ..recipes.data import ENV_DATA
from ..recipes.events import EventFiles, remove_events
from ..recipes.folder import write_start
from ..recipes.images import ENV_IMAGES
from ..recipes.progress import Display
from ..recipes.ranks import ALONE, Ranks, RanksError
from ..recipes.report import write_report
from ..recipes.results import (
    gather,
    layer_states,
    read_results,
    restore_model,
    scale_note,
    write_results,
)
from ..recipes.stop import StopRequest
from ..recipes.text import clock, compression
from ..recipes.train import Trainer, TrainingError
from . import settings
from .console import (
    MENDABLE,
    UsageError,
    console,
    errors,
    exit_codes,
    further_table,
    inference_table,
    joined,
    layer_table,
    set_threads,
)
from .plan import WRITTEN, Plan, Wish, make_plan


def run(
    name: str, given: dict[str, Any], wish: Wish, threads: int | None, further: Sequence[str] = ()
) -> None:
    """Do what `vdropkern train` was asked to, on one process or as one of several.

    Args:
        name: of the recipe.
        given: the settings named on the command line.
        further: flags and values that the command does not know: settings of the recipe, or mistakes.
    """
    with joined("train") as ranks:
        try:
            plan, trainer = _begin(name, given, wish, threads, further, ranks)
            _train(plan, trainer)
            if ranks.first:
                trainer.ranks = ALONE  # the others are done
                _finish(plan, trainer)
        except KeyboardInterrupt:
            errors.print("interrupted; what the last checkpoint holds is safe", style="bold red")
            raise typer.Exit(128 + signal.SIGINT) from None
        except (TrainingError, RanksError) as err:
            errors.print(f"vdropkern train: {err}", style="bold red", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None


def _begin(
    name: str,
    given: dict[str, Any],
    wish: Wish,
    threads: int | None,
    further: Sequence[str],
    ranks: Ranks,
) -> tuple[Plan, Trainer]:
    """Check everything, then write the first files."""
    with exit_codes("train"):
        with ranks.together(MENDABLE) as equal:
            set_threads(threads)
            if name not in RECIPES:
                raise UsageError(f"unknown recipe {name!r}; accepted: {', '.join(RECIPES)}")
            given = {**given, **settings.parse(RECIPES[name], further)}
            plan = make_plan(RECIPES[name], given, wish, ranks)
            trainer = Trainer(plan.recipe, plan.config, plan.images, plan.device, ranks)
            if plan.state is not None:
                trainer.load_state_dict(plan.state)
            elif plan.config.init:
                trainer.start_from(Path(plan.config.init))
            equal += [plan.config.as_dict(), plan.images.sha256, trainer.epoch, trainer.step]
        ranks.use(plan.device)
        with ranks.together(MENDABLE):
            if ranks.first:
                _prepare_folder(plan.out, wish.overwrite)
                write_start(plan.out, plan.config, plan.device, ranks.count)
    _announce(plan, trainer)
    return plan, trainer


def _prepare_folder(out: Path, overwrite: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in WRITTEN if overwrite else ():
            (out / file).unlink(missing_ok=True)
        if overwrite:
            remove_events(out)
    except OSError as err:
        raise UsageError(f"--out: {out} cannot be written ({err.strerror})") from err


def _announce(plan: Plan, trainer: Trainer) -> None:
    config, images = plan.config, plan.images
    lines = [
        f"[bold]{config.recipe}[/bold] with [bold]{config.method}[/bold] on {images.name}",
        f"  from {images.source}",
    ]
    if scale := scale_note(config, len(images.train_x)):
        lines.append(f"  [bold yellow]{scale}[/bold yellow]")
    if images.note:
        variable = ENV_DATA if plan.recipe.data == "digits" else ENV_IMAGES
        lines.append(f"  [bold yellow]{images.note}[/bold yellow] (--data or {variable} names others)")
    lines += [
        f"  {config.epochs} epochs of {trainer.steps} steps, batch {config.batch_size}, lr {config.lr:g}, "
        f"noise lr {config.noise_lr:g}, KL weight 0 to 1 over {config.kl_start:g} to {config.kl_end:g} of "
        f"the run, seed {config.seed}",
        f"  linear_lrt: {_info.backends(plan.device)['linear_lrt'].partition(':')[0]}, "
        f"torch threads: {torch.get_num_threads()}; writing to {plan.out}",
    ]
    if plan.ranks.count > 1:
        lines.append(f"  {plan.ranks.count} processes, each with its share of every batch and its own noise")
    if plan.state is not None:
        lines.append(f"  going on after epoch {trainer.epoch}, step {trainer.step} of {trainer.steps}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _train(plan: Plan, trainer: Trainer) -> None:
    """Train to the end, or leave with 128 + the signal that asked to stop."""
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        display = events = None
        if plan.ranks.first:
            display = stack.enter_context(Display(console, trainer))
            if plan.wish.tensorboard:
                events = stack.enter_context(contextlib.closing(EventFiles(plan.out)))
                events.write(trainer.history)
        finished = trainer.run(plan.out / FILE_NAME, display, stop, events)
    if not finished:
        console.print(
            f"stopped in epoch {trainer.epoch + 1} of {plan.config.epochs}, after step {trainer.step} of "
            f"{trainer.steps}. Go on with:\n  {plan.command(resume=True)}",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip
        raise typer.Exit(128 + (stop.signal or signal.SIGINT))


def _finish(plan: Plan, trainer: Trainer) -> None:
    started = time.monotonic()
    results = gather(trainer, plan.recipe, plan.out, plan.command())
    write_results(plan.out, results)
    report = write_report(plan.out, results, layer_states(trainer.model), plan.recipe)
    _show(results)
    console.print(
        f"trained in {clock(trainer.seconds)}, pruned, tested, timed and drawn in "
        f"{clock(time.monotonic() - started)}; report: {report}",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def _show(results: dict[str, Any]) -> None:
    total, test = results["total"], results["test"]
    console.print()
    console.print(layer_table(results["layers"], total))
    console.print(inference_table(results["inference"], results["machine"]["threads"]))
    for title, rows in results["further"].items():
        console.print(further_table(title, rows))
    smaller = compression(total["weights"], total["nonzero"])
    console.print(
        f"[bold]test error {test['pruned_error']:.2f} %, compression {smaller}[/bold] "
        f"({total['nonzero']:,} of {total['weights']:,} weights left)",
        highlight=False,
    )
    if results["data"]["note"]:
        console.print(f"[bold yellow]{results['data']['note']}[/bold yellow]")


def rebuild_report(out: Path) -> None:
    """Do what `vdropkern report` was asked to."""
    with exit_codes("report"):
        results = read_results(out)
        if (name := results.get("recipe")) not in RECIPES:
            raise CheckpointError(f"{out}: recipe {name!r} is not one of {', '.join(RECIPES)}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
        model = restore_model(RECIPES[name], load_checkpoint(out))
    console.print(
        f"report: {write_report(out, results, layer_states(model), RECIPES[name])}", highlight=False
    )
