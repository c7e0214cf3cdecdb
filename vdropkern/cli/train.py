"""`vdropkern train` and `report`: check everything, train, then prune, test, time and report."""

from __future__ import annotations

import importlib.util
import shlex
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer

from .. import _info
from ..recipes import RECIPES, Recipe
from ..recipes.checkpoint import FILE_NAME, CheckpointError, load_checkpoint
from ..recipes.config import TrainConfig
from ..recipes.data import ENV_DATA, Images, load_digits
from ..recipes.folder import CONFIG_NAME, ENVIRONMENT_NAME, METRICS_NAME, write_start
from ..recipes.images import ENV_IMAGES, load_images
from ..recipes.progress import Display
from ..recipes.report import PICTURE_NAMES, REPORT_NAME, write_report
from ..recipes.results import (
    MODEL_NAME,
    RESULTS_NAME,
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
    UsageError,
    console,
    errors,
    exit_codes,
    further_table,
    inference_table,
    layer_table,
    set_threads,
)

WRITTEN = (
    FILE_NAME, CONFIG_NAME, ENVIRONMENT_NAME, METRICS_NAME, RESULTS_NAME, MODEL_NAME, REPORT_NAME,
    *PICTURE_NAMES,
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """A run whose every input has been checked; nothing has been written yet."""

    recipe: Recipe
    config: TrainConfig
    images: Images
    data: str | None
    device: torch.device
    out: Path
    state: dict[str, Any] | None  # of the checkpoint to go on from

    def command(self, *, resume: bool = False) -> str:
        """The command line that makes this run whatever the defaults are by then, or goes on with it."""
        words = ["vdropkern", "train", self.recipe.name]
        if not resume:
            words += settings.words(self.config)
        if self.data is not None:
            words += ["--data", self.data]
        if self.device.type != "cpu":
            words += ["--device", str(self.device)]
        words += ["--threads", str(torch.get_num_threads()), "--out", str(self.out)]
        return shlex.join([*words, "--resume"] if resume else words)


def run(
    name: str,
    given: dict[str, Any],
    *,
    data: str | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    threads: int | None,
    device: str,
    further: Sequence[str] = (),
) -> None:
    """Do what `vdropkern train` was asked to.

    Args:
        name: of the recipe.
        given: the settings named on the command line.
        further: flags and values that the command does not know: settings of the recipe, or mistakes.
    """
    with exit_codes("train"):
        set_threads(threads)
        if name not in RECIPES:
            raise UsageError(f"unknown recipe {name!r}; accepted: {', '.join(RECIPES)}")
        given = {**given, **settings.parse(RECIPES[name], further)}
        plan = _plan(RECIPES[name], given, data, out, resume, overwrite, device)
        trainer = Trainer(plan.recipe, plan.config, plan.images, plan.device)
        if plan.state is not None:
            trainer.load_state_dict(plan.state)
        elif plan.config.init:
            trainer.start_from(Path(plan.config.init))
        _prepare_folder(plan.out, overwrite)
        write_start(plan.out, plan.config, plan.device)
    _announce(plan, trainer)
    try:
        _train(plan, trainer)
        _finish(plan, trainer)
    except KeyboardInterrupt:
        errors.print("interrupted; what the last checkpoint holds is safe", style="bold red")
        raise typer.Exit(128 + signal.SIGINT) from None
    except TrainingError as err:
        errors.print(f"vdropkern train: {err}", style="bold red", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _plan(
    recipe: Recipe,
    given: dict[str, Any],
    data: str | None,
    out: Path | None,
    resume: bool,
    overwrite: bool,
    device: str,
) -> Plan:
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
    checked_device = _device(device)
    wanted = replace(recipe.default_config(0), **given)  # wrong settings are told before data are looked for
    state = None
    if resume:
        state = load_checkpoint(_folder(recipe, given, out))
        config = _resumed_config(recipe, state, given)
        images = _load(recipe, data, config.scale)
    else:
        images = _load(recipe, data, wanted.scale)
        config = _config(recipe, images, given)
    folder = out if out is not None else _folder(recipe, config.as_dict(), None)
    if not resume and not overwrite and any((folder / file).exists() for file in WRITTEN):
        raise UsageError(f"{folder} holds a run already: --resume goes on with it, --overwrite replaces it")
    return Plan(recipe, config, images, data, checked_device, folder, state)


def _load(recipe: Recipe, data: str | None, scale: str) -> Images:
    most = recipe.scale(scale)
    if recipe.data == "digits":
        images = load_digits(data)
    else:
        images = load_images(data, train=most.train, test=most.test)
    return images.limited(most.train, most.test)


def _folder(recipe: Recipe, values: dict[str, Any], out: Path | None) -> Path:
    default = recipe.default_config(0)
    method, seed = values.get("method", default.method), values.get("seed", default.seed)
    return out or Path("runs") / f"{recipe.name}-{method}-seed{seed}"


def _config(recipe: Recipe, images: Images, given: dict[str, Any]) -> TrainConfig:
    default = recipe.default_config(len(images.train_x))
    default = default.for_data(tuple(images.train_x.shape[1:]), images.num_classes)
    if (epochs := recipe.scale(given.get("scale", default.scale)).epochs) is not None:
        given = {"epochs": epochs, **given}
    if "lr" in given and "noise_lr" not in given:
        given = {**given, "noise_lr": default.noise_lr * given["lr"] / default.lr}
    return replace(default, **given)


def _resumed_config(recipe: Recipe, state: dict[str, Any], given: dict[str, Any]) -> TrainConfig:
    config = recipe.config.from_dict(state["config"])
    asked = replace(config, **given)
    for name in given:
        if (old := getattr(config, name)) != (new := getattr(asked, name)):
            raise UsageError(f"--{name.replace('_', '-')}: the run to resume has {old}, {new} given")
    return config


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: {name!r} given; accepted: cpu, cuda, cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise UsageError(
                f"--device: {name} given, but torch {torch.__version__} sees {count} CUDA devices"
            )
    return device


def _prepare_folder(out: Path, overwrite: bool) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for file in WRITTEN if overwrite else ():
            (out / file).unlink(missing_ok=True)
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
    if plan.state is not None:
        lines.append(f"  going on after epoch {trainer.epoch}, step {trainer.step} of {trainer.steps}")
    console.print("\n".join(lines), highlight=False, soft_wrap=True)


def _train(plan: Plan, trainer: Trainer) -> None:
    """Train to the end, or leave with 128 + the signal that asked to stop."""
    with StopRequest() as stop, Display(console, trainer) as display:
        finished = trainer.run(plan.out / FILE_NAME, display, stop)
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
        if (name := results["recipe"]) not in RECIPES:
            raise CheckpointError(f"{out}: recipe {name!r} is not one of {', '.join(RECIPES)}")
        if importlib.util.find_spec("matplotlib") is None:
            raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
        model = restore_model(RECIPES[name], load_checkpoint(out))
    console.print(
        f"report: {write_report(out, results, layer_states(model), RECIPES[name])}", highlight=False
    )
