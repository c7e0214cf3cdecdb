"""`vdropkern sparsify` and `bench`: prune a checkpoint, time a pruned net."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import load, save
from .. import sparsify as prune
from .._files import write_whole
from ..recipes import RECIPES
from ..recipes.checkpoint import CheckpointError, load_checkpoint
from ..recipes.results import MODEL_NAME, layer_numbers, restore_model
from ..recipes.timing import compare
from ..sparse import ShrinkError, ShrinkReport, shrink, size_report, to_dense
from ..sparse.shrinking.trace import made_sample
from .console import (
    UsageError,
    check_count,
    check_folder,
    console,
    exit_codes,
    inference_table,
    layer_table,
    set_threads,
    shrink_table,
    size_table,
)

SIZES_NAME = "sizes.json"
MAX_BATCH, MAX_ROUNDS = 10**6, 10**6


def run_sparsify(checkpoint: Path, out: Path, threshold: float | None) -> None:
    """Do what `vdropkern sparsify` was asked to."""
    with exit_codes("sparsify"):
        model, origin = _trained(checkpoint, threshold)
        if not out.parent.is_dir():
            raise UsageError(f"--out: there is no folder {out.parent}")
        check_folder(out)
        numbers, shrunk = layer_numbers(model), _shrink_report(model)
        pruned = prune(model)
        sizes = size_report(pruned)
        out.mkdir(exist_ok=True)
        save(pruned, out / MODEL_NAME)
        write_whole(out / SIZES_NAME, (json.dumps(sizes.to_dict(), indent=1) + "\n").encode())
    console.print(layer_table(numbers["layers"], numbers["total"]))
    if shrunk is not None:
        console.print(shrink_table(shrunk))
    console.print(size_table(sizes))
    console.print(f"{origin}; saved to {out / MODEL_NAME}", highlight=False)


def _trained(path: Path, threshold: float | None) -> tuple[torch.nn.Module, str]:
    """The net of a checkpoint or of a file that `vdropkern.save` wrote, and where it is from."""
    if path.suffix == ".safetensors":
        if threshold is not None:
            raise UsageError("--threshold: only a run's checkpoint knows what it would prune")
        if not path.is_file():
            raise UsageError(f"{path}: no such file")
        return load(path).eval(), f"from {path.name}"
    state = load_checkpoint(path)
    if (name := state["config"]["recipe"]) not in RECIPES:
        raise CheckpointError(f"{path}: recipe {name!r} is not one of {', '.join(RECIPES)}")
    config = RECIPES[name].config.from_dict(state["config"])
    if threshold is not None:
        state["config"] = replace(config, threshold=threshold).as_dict()
    model = restore_model(RECIPES[name], state)
    return model, f"after epoch {state['epoch']} of {config.epochs}"


def _shrink_report(model: torch.nn.Module) -> ShrinkReport | None:
    try:
        return shrink(model, inputs=False)[1]
    except ShrinkError:
        return None


def run_bench(path: Path, batches: list[int], rounds: int, threads: int | None) -> None:
    """Do what `vdropkern bench` was asked to."""
    with exit_codes("bench"):
        set_threads(threads)
        for batch in batches:
            check_count("--batch", batch, 1, MAX_BATCH)
        check_count("--rounds", rounds, 2, MAX_ROUNDS)
        file = path / MODEL_NAME if path.is_dir() else path
        if not file.is_file():
            raise UsageError(
                f"{file}: no such file; give a folder that `train` or `sparsify` wrote, "
                "or a net saved by vdropkern.save"
            )
        pruned = load(file).eval()
        dense = to_dense(pruned)
        try:
            one = made_sample(dense)[0][:1]
        except ShrinkError as err:
            raise UsageError(f"{file}: no input for it is known ({err})") from None
    generator = torch.Generator().manual_seed(0)
    x: Any = torch.rand(max(batches), *one.shape[1:], generator=generator).to(one)
    console.print(inference_table(compare(dense, pruned, x, batches, rounds), torch.get_num_threads()))
