"""`vdropkern sparsify` and `bench`: prune a checkpoint, time a pruned net."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from .. import load, save
from .. import sparsify as prune
from ..recipes import RECIPES
from ..recipes.checkpoint import CheckpointError, load_checkpoint
from ..recipes.config import TrainConfig
from ..recipes.results import dense_twin, layer_numbers, restore_model
from ..recipes.timing import compare
from ..sparse import SparseLinear
from .console import UsageError, console, exit_codes, inference_table, layer_table, set_threads


def run_sparsify(checkpoint: Path, out: Path, threshold: float | None) -> None:
    """Do what `vdropkern sparsify` was asked to."""
    with exit_codes("sparsify"):
        state = load_checkpoint(checkpoint)
        config = TrainConfig.from_dict(state["config"])
        if config.recipe not in RECIPES:
            raise CheckpointError(
                f"{checkpoint}: recipe {config.recipe!r} is not one of {', '.join(RECIPES)}"
            )
        if threshold is not None:
            state["config"] = replace(config, threshold=threshold).as_dict()
        model = restore_model(RECIPES[config.recipe], state)
        if not out.parent.is_dir():
            raise UsageError(f"--out: there is no folder {out.parent}")
        save(prune(model), out)
    numbers = layer_numbers(model)
    console.print(layer_table(numbers["layers"], numbers["total"]))
    console.print(f"after epoch {state['epoch']} of {config.epochs}; saved to {out}", highlight=False)


def run_bench(path: Path, batches: list[int], rounds: int, threads: int | None) -> None:
    """Do what `vdropkern bench` was asked to."""
    with exit_codes("bench"):
        set_threads(threads)
        if min(batches) < 1:
            raise UsageError(f"--batch: {min(batches)} given, at least 1 accepted")
        if rounds < 2:
            raise UsageError(f"--rounds: {rounds} given, at least 2 accepted")
        if not path.is_file():
            raise UsageError(
                f"{path}: no such file; give a net saved by `train`, `sparsify` or vdropkern.save"
            )
        pruned = load(path).eval()
        inputs = [m.in_features for m in pruned.modules() if isinstance(m, (SparseLinear, torch.nn.Linear))]
        if not inputs:
            raise UsageError(f"{path}: holds no linear layer to time")
    x = torch.rand(max(batches), inputs[0], generator=torch.Generator().manual_seed(0))
    console.print(
        inference_table(compare(dense_twin(pruned), pruned, x, batches, rounds), torch.get_num_threads())
    )
