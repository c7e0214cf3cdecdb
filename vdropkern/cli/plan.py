"""What `vdropkern train` was asked to do: every input checked, the data loaded, nothing written yet."""

from __future__ import annotations

import importlib.util
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..recipes import Recipe
from ..recipes.checkpoint import FILE_NAME, load_checkpoint
from ..recipes.config import TrainConfig
from ..recipes.data import Images, load_digits
from ..recipes.events import is_installed
from ..recipes.folder import CONFIG_NAME, ENVIRONMENT_NAME, METRICS_NAME
from ..recipes.images import load_images
from ..recipes.ranks import Ranks
from ..recipes.report import PICTURE_NAMES, REPORT_NAME
from ..recipes.results import MODEL_NAME, RESULTS_NAME
from . import settings
from .console import UsageError

WRITTEN = (
    FILE_NAME, CONFIG_NAME, ENVIRONMENT_NAME, METRICS_NAME, RESULTS_NAME, MODEL_NAME, REPORT_NAME,
    *PICTURE_NAMES,
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """The flags of `vdropkern train` that are no settings.

    Attributes:
        data: where the data lie. out: the run's folder; None: the default one. device: as given.
        resume, overwrite: what to do with a run in the folder. tensorboard: whether to write event files.
    """

    data: str | None
    out: Path | None
    device: str
    resume: bool
    overwrite: bool
    tensorboard: bool


@dataclass(frozen=True)
class Plan:
    """A run whose every input has been checked."""

    recipe: Recipe
    config: TrainConfig
    images: Images
    wish: Wish
    device: torch.device
    out: Path
    state: dict[str, Any] | None  # of the checkpoint to go on from
    ranks: Ranks

    def command(self, *, resume: bool = False) -> str:
        """The command line that makes this run whatever the defaults are by then, or goes on with it."""
        words = [*self._launcher(), "train", self.recipe.name]
        if not resume:
            words += settings.words(self.config)
        if self.wish.data is not None:
            words += ["--data", self.wish.data]
        if self.device.type != "cpu":
            words += ["--device", self.wish.device]
        words += ["--threads", str(torch.get_num_threads()), "--out", str(self.out)]
        words += ["--tensorboard"] * self.wish.tensorboard
        return shlex.join([*words, "--resume"] if resume else words)

    def _launcher(self) -> list[str]:
        if self.ranks.count == 1:
            return ["vdropkern"]
        machines = self.ranks.count // self.ranks.local_count
        several = ["--nnodes", str(machines)] if machines > 1 else []
        return ["torchrun", *several, "--nproc-per-node", str(self.ranks.local_count), "-m", "vdropkern"]


def make_plan(recipe: Recipe, given: dict[str, Any], wish: Wish, ranks: Ranks) -> Plan:
    """Check everything and load the data.

    Args:
        given: the settings named on the command line.

    Raises:
        UsageError, ConfigError, DataError, CheckpointError: something is wrong.
    """
    if wish.resume and wish.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError('the report needs matplotlib: pip install "vdropkern[recipes]"')
    check_tensorboard(wish.tensorboard)
    device = find_device(wish.device, ranks)
    wanted = replace(recipe.default_config(0), **given)  # wrong settings are told before data are looked for
    state = None
    if wish.resume:
        state = load_checkpoint(wish.out or _folder(recipe, wanted))
        config = _resumed_config(recipe, state, given)
        images = _load(recipe, wish.data, config.scale)
    else:
        images = _load(recipe, wish.data, wanted.scale)
        config = _config(recipe, images, given)
    folder = wish.out or _folder(recipe, config)
    found = not wish.resume and not wish.overwrite and any((folder / file).exists() for file in WRITTEN)
    if found:
        raise UsageError(f"{folder} holds a run already: --resume goes on with it, --overwrite replaces it")
    return Plan(recipe, config, images, wish, device, folder, state, ranks)


def check_tensorboard(wanted: bool) -> None:
    """Raise UsageError if event files are wanted and cannot be written."""
    if wanted and not is_installed():
        raise UsageError('--tensorboard needs TensorBoard: pip install "vdropkern[tensorboard]"')


def _load(recipe: Recipe, data: str | None, scale: str) -> Images:
    most = recipe.scale(scale)
    if recipe.data == "digits":
        images = load_digits(data)
    else:
        images = load_images(data, train=most.train, test=most.test)
    return images.limited(most.train, most.test)


def _folder(recipe: Recipe, config: TrainConfig) -> Path:
    return Path("runs") / f"{recipe.name}-{config.method}-seed{config.seed}"


def _config(recipe: Recipe, images: Images, given: dict[str, Any]) -> TrainConfig:
    default = recipe.default_config(len(images.train_x))
    default = default.for_data(tuple(images.train_x.shape[1:]), images.num_classes)
    if (epochs := recipe.scale(given.get("scale", default.scale)).epochs) is not None:
        given = {"epochs": epochs, **given}
    if "lr" in given and "noise_lr" not in given:
        given = {**given, "noise_lr": default.noise_lr * given["lr"] / default.lr}
    return replace(default, **given)


def _resumed_config(recipe: Recipe, state: dict[str, Any], given: dict[str, Any]) -> TrainConfig:
    if (name := state["config"]["recipe"]) != recipe.name:
        raise UsageError(f"--resume: the run to resume is of recipe {name}, {recipe.name} given")
    config = recipe.config.from_dict(state["config"])
    asked = replace(config, **given)
    for name in given:
        if (old := getattr(config, name)) != (new := getattr(asked, name)):
            raise UsageError(f"--{name.replace('_', '-')}: the run to resume has {old}, {new} given")
    return config


def find_device(name: str, ranks: Ranks) -> torch.device:
    """The device that --device names, on this process.

    Raises:
        UsageError: no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device: {name!r} given; accepted: cpu, cuda, cuda:N")
    if device.type == "cpu":
        return device
    if ranks.count > 1:
        if name != "cuda":
            raise UsageError(f"--device: {name} given to {ranks.count} processes, one GPU; cuda accepted")
        device = torch.device("cuda", ranks.local)
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise UsageError(
            f"--device: {device} wanted, but torch {torch.__version__} sees {count} CUDA devices"
        )
    return device
