"""Processes that train together, started as torchrun would; as a program, what `test_ranks` runs in them."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vdropkern
from vdropkern.recipes import RECIPES
from vdropkern.recipes.checkpoint import load_checkpoint
from vdropkern.recipes.data import Images
from vdropkern.recipes.ranks import Ranks, RanksError
from vdropkern.recipes.train import Trainer

from .test_recipe import StopAfter, config, digits, without_times

TESTS = Path(__file__).resolve().parent.parent
LENET = RECIPES["lenet-300-100"]


def environment(**more: str) -> dict[str, str]:
    """That of a child process: it finds the package and the tests, and has one thread."""
    paths = (str(TESTS), str(Path(vdropkern.__file__).parents[1]))
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **more}


def start(words: list[str], each: list[dict[str, str]]) -> list[subprocess.Popen[str]]:
    """Start `python WORDS` as many times as there are in `each`, which adds to the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(len(each))
    return [
        subprocess.Popen(
            [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=count, LOCAL_WORLD_SIZE=count,
                MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), **more,
            ),
        )
        for rank, more in enumerate(each)
    ]  # fmt: skip


def run(words: list[str], each: list[dict[str, str]]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process, blanks and line breaks made single spaces."""
    processes = start(words, each)
    try:
        ends = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        (process.returncode, " ".join(output.split()), " ".join(errors.split()))
        for process, (output, errors) in zip(processes, ends, strict=True)
    ]


def tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Parameters and buffers, and what the optimiser keeps."""
    values = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        values |= {f"optimizer.{number}.{name}": value for name, value in state.items() if value is not None}
    return values


def pictures(count: int) -> Images:
    x = np.random.default_rng(0).integers(0, 256, (count + 6, 3, 16, 16), dtype=np.uint8)
    y = torch.arange(count + 6) % 3
    x = torch.from_numpy(x)
    names = ("ant", "bee", "cat")
    return Images(x[:count], y[:count], x[count:], y[count:], "pixels", "made here", "", "sha", names)


def cases() -> dict[str, tuple[Any, Any, Images]]:
    """Recipe, settings and data of runs; the last batch of some is too small to share out."""
    images = pictures(15)

    def on_images(name: str, **changes: Any) -> tuple[Any, Any, Images]:
        default = RECIPES[name].default_config(len(images.train_x)).for_data((3, 16, 16), 3)
        return RECIPES[name], dataclasses.replace(default, epochs=2, batch_size=6, **changes), images

    return {
        "noise": (LENET, config(method="sparse-vd"), digits()),
        "plain": (LENET, config(method="none", optimizer="sgd", lr=0.05, noise_lr=0.05), digits()),
        "statistics": on_images("allconv6", batch_norm=True, augment="pad-crop-flip"),
        "ramps": on_images("targeted-dropout", method="magnitude-weight", width=0.125, blocks=1),
        "switches": on_images("targeted-dropout", method="smallify", width=0.125, blocks=1),
        "gates": (RECIPES["lenet-5"], dataclasses.replace(
            RECIPES["lenet-5"].default_config(53), method="sbp", epochs=1, batch_size=25), digits(53)),
    }  # fmt: skip


def train_all(folder: Path, ranks: Ranks) -> None:
    """Train every case, whole, and stopped and gone on with; write what came of it."""
    came: dict[str, Any] = {"draws": {}, "ends": {}, "resumed": {}, "history": {}}
    for name, (recipe, settings, data) in cases().items():
        whole = Trainer(recipe, settings, data, ranks=ranks)
        came["draws"][name] = (torch.randint(2**62, ()), torch.randperm(9, generator=whole.shuffle))
        whole = Trainer(recipe, settings, data, ranks=ranks)
        assert whole.run()
        came["ends"][name], came["history"][name] = tensors(whole), without_times(whole.history)
        file = folder / name / "checkpoint.pt"
        file.parent.mkdir(exist_ok=True)
        # asked to stop is one process alone, and not the first
        stop = StopAfter(2) if ranks.rank == ranks.count - 1 else False
        first = Trainer(recipe, settings, data, ranks=ranks)
        assert not first.run(file, stop=stop)
        ranks.gather(None)  # the first process has written the file
        second = Trainer(recipe, settings, data, ranks=ranks)
        second.load_state_dict(load_checkpoint(file))
        assert second.run()
        came["resumed"][name] = tensors(second)
        assert without_times(second.history) == came["history"][name]
    torch.save(came, folder / f"rank{ranks.rank}.pt")


class Fails:
    """Watches a training, and fails in its second step."""

    def __init__(self) -> None:
        self.steps = 0

    def on_step(self, trainer: Trainer) -> None:
        self.steps += 1
        if self.steps == 2:
            raise MemoryError("as if")

    def on_epoch(self, trainer: Trainer) -> None: ...


def fail(ranks: Ranks) -> None:
    """Train; the last process fails on the way, the others say what they see of it."""
    trainer = Trainer(LENET, config(epochs=1000), digits(), ranks=ranks)
    try:
        trainer.run(observer=Fails() if ranks.rank == ranks.count - 1 else None)
    except RanksError as err:
        sys.exit(f"RanksError: {err}")


if __name__ == "__main__":
    torch.use_deterministic_algorithms(True)
    joined = Ranks.join()
    if sys.argv[1] == "fail":
        fail(joined)
    else:
        train_all(Path(sys.argv[1]), joined)
    joined.leave()
