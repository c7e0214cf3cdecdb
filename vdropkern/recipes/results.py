"""The numbers of a finished run: gathered once, written as results.json, read again by `report`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from .. import _info, plan_sparsification, save, sparsify, sparsity
from .._files import write_whole
from ..nn import Variational
from . import Recipe
from .checkpoint import CheckpointError
from .config import TrainConfig
from .figures import LayerState
from .timing import compare
from .train import Trainer, evaluate

FORMAT = 1
RESULTS_NAME = "results.json"
MODEL_NAME = "pruned.safetensors"
TIMED_BATCHES = (1, 100)


def dense_twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` on plain torch.nn.Linear, computing what `model` computes in eval mode."""
    if isinstance(model, torch.nn.Sequential):
        return torch.nn.Sequential(*(dense_twin(child) for child in model)).eval()
    to_dense = getattr(model, "to_dense", None)
    twin: torch.nn.Module = to_dense() if to_dense else model
    return twin.eval()


def layer_states(model: torch.nn.Module) -> list[LayerState]:
    """What the pictures show of each linear layer, on the CPU."""
    states = []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue
        weight, keep, log_alpha, threshold = module.weight.detach(), None, None, None
        if isinstance(module, Variational):
            keep, threshold = module.keep_mask(), module.method.prune_at
            if module.noise_parameter() is not None:
                log_alpha = module.log_alpha.detach().cpu().float()
        if keep is None:
            keep = torch.ones_like(weight, dtype=torch.bool)
        states.append(LayerState(name, weight.cpu().float(), keep.cpu(), log_alpha, threshold))
    return states


def layer_numbers(model: torch.nn.Module) -> dict[str, Any]:
    """What is left of each layer, as what it runs when pruned, and of the whole net."""
    report = sparsity(model)
    becomes = {change.name: change.after for change in plan_sparsification(model)}
    layers = [
        {
            "name": row.name,
            "weights": row.weights,
            "nonzero": row.nonzero,
            "sparsity": row.sparsity,
            "runs_as": becomes.get(row.name, row.kind),
        }
        for row in report.rows
    ]
    total = {"weights": report.weights, "nonzero": report.nonzero, "sparsity": report.sparsity}
    return {"layers": layers, "total": total}


def gather(trainer: Trainer, recipe: Recipe, out: Path, command: str) -> dict[str, Any]:
    """Prune the trained net, save it to `out`, test and time it; returns what results.json holds."""
    model = trainer.model.eval()
    pruned = sparsify(model).eval()
    save(pruned, out / MODEL_NAME)
    nll, error = evaluate(model, trainer.test_x, trainer.test_y)
    pruned_nll, pruned_error = evaluate(pruned, trainer.test_x, trainer.test_y)
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "config": trainer.config.as_dict(),
        "command": command,
        "data": {
            "name": trainer.digits.name,
            "source": trainer.digits.source,
            "note": trainer.digits.note,
            "sha256": trainer.digits.sha256,
            "train_size": len(trainer.train_x),
            "test_size": len(trainer.test_x),
        },
        "versions": _info.versions(),
        "machine": {
            "processor": _info.cpu_name(),
            "logical_cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": str(trainer.device),
            "backends": _info.backends(trainer.device),
        },
        "seconds": {"training": trainer.seconds},
        "test": {"error": error, "nll": nll, "pruned_error": pruned_error, "pruned_nll": pruned_nll},
        **layer_numbers(model),
        "inference": compare(dense_twin(model), pruned, trainer.test_x, TIMED_BATCHES),
        "model": MODEL_NAME,
        "history": trainer.history,
    }


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Write results.json into the run's folder, whole or not at all."""
    text = json.dumps(results, indent=1, allow_nan=False) + "\n"
    write_whole(out / RESULTS_NAME, text.encode())


def read_results(out: Path) -> dict[str, Any]:
    """Read a run's results.json.

    Raises:
        CheckpointError: missing, damaged, or of another format.
    """
    path = out / RESULTS_NAME
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror}); has the run finished?") from err
    except ValueError as err:
        raise CheckpointError(f"{path}: damaged ({err}); finish the run again with --resume") from err
    if not isinstance(results, dict) or results.get("format") != FORMAT:
        raise CheckpointError(f"{path}: results of format {FORMAT} expected")
    return results


def restore_model(recipe: Recipe, state: dict[str, Any]) -> torch.nn.Sequential:
    """The variational net of a checkpoint, in eval mode on the CPU.

    Raises:
        CheckpointError: the checkpoint does not fit the recipe.
    """
    model = recipe.build(TrainConfig.from_dict(state["config"]))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as err:
        raise CheckpointError(f"the checkpoint does not fit recipe {recipe.name}: {err}") from err
    return model.eval()
