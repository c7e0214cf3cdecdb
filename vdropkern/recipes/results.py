"""The numbers of a finished run: gathered once, written as results.json, read again by `report`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import plan_sparsification, save, sparsify, sparsity
from ..nn import Variational
from ..sparse import to_dense
from .checkpoint import CheckpointError
from .config import TrainConfig
from .figures import LayerState
from .folder import environment, write_json
from .recipe import Recipe
from .text import plural
from .timing import compare
from .train import Trainer

FORMAT = 1
RESULTS_NAME = "results.json"
MODEL_NAME = "pruned.safetensors"
TIMED_BATCHES = (1, 100)
TIMED_ROUNDS, SMOKE_ROUNDS = 50, 5


def dense_twin(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` in torch's own layers, computing what `model` computes in eval mode."""
    if isinstance(model, torch.nn.Sequential):
        return torch.nn.Sequential(*(dense_twin(child) for child in model)).eval()
    dense = getattr(model, "to_dense", None)
    twin: torch.nn.Module = dense() if dense else to_dense(sparsify(model, shrink=False))
    return twin.eval()


def layer_states(model: torch.nn.Module) -> list[LayerState]:
    """What the pictures show of each linear and convolution layer, on the CPU."""
    states = []
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            continue
        weight, keep, log_alpha, threshold = module.weight.detach(), None, None, None
        if isinstance(module, Variational):
            keep, threshold = module.keep_mask(), module.method.prune_at
            if module.noise_parameter() is not None:
                log_alpha = module.log_alpha.detach().cpu().float().flatten(1)
        if keep is None:
            keep = torch.ones_like(weight, dtype=torch.bool)
        flat = weight.cpu().float().flatten(1)
        states.append(LayerState(name, flat, keep.cpu().flatten(1), log_alpha, threshold))
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


def scale_note(config: TrainConfig, train_size: int) -> str:
    """What a run of less than full scale is worth."""
    if config.scale == "full":
        return ""
    worth = "says nothing about accuracy" if config.scale == "smoke" else "less than the published training"
    return f"{config.scale}: {plural(config.epochs, 'epoch')} of {train_size:,} images, {worth}"


def accuracies(history: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Best, last and mean of the last ten epochs' accuracy in percent, for each error measured.

    The best is chosen by the test set, as some published tables do; it flatters.
    """
    names = [name for name in history[-1] if name.endswith("_error")]
    return {
        name.removesuffix("_error"): {
            "best": 100 - min(record[name] for record in history),
            "last": 100 - history[-1][name],
            "mean_of_last_ten": 100 - statistics.fmean(record[name] for record in history[-10:]),
        }
        for name in names
    }


def gather(trainer: Trainer, recipe: Recipe, out: Path, command: str) -> dict[str, Any]:
    """Prune the trained net, save it to `out`, test and time it; returns what results.json holds."""
    model = trainer.model.eval()
    pruned = sparsify(model).eval()
    save(pruned, out / MODEL_NAME)
    nll, error = trainer.test()
    pruned_nll, pruned_error = trainer.test(pruned)
    data = trainer.data
    rounds = SMOKE_ROUNDS if trainer.config.scale == "smoke" else TIMED_ROUNDS
    return {
        "format": FORMAT,
        "recipe": recipe.name,
        "config": trainer.config.as_dict(),
        "command": command,
        "data": {
            "name": data.name,
            "source": data.source,
            "note": "; ".join(filter(None, (scale_note(trainer.config, len(data.train_x)), data.note))),
            "sha256": data.sha256,
            "train_size": len(trainer.train_x),
            "test_size": len(trainer.test_x),
            "input": list(trainer.test_x.shape[1:]),
        },
        **environment(trainer.device, trainer.processes),
        "seconds": {"training": trainer.seconds},
        "test": {"error": error, "nll": nll, "pruned_error": pruned_error, "pruned_nll": pruned_nll},
        "accuracy": accuracies(trainer.history),
        **layer_numbers(model),
        "further": recipe.finish(trainer),
        "inference": compare(dense_twin(model), pruned, trainer.test_x, TIMED_BATCHES, rounds),
        "model": MODEL_NAME,
        "history": trainer.history,
    }


def write_results(out: Path, results: dict[str, Any]) -> None:
    """Write results.json into the run's folder, whole or not at all."""
    write_json(out / RESULTS_NAME, results)


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
        raise CheckpointError(f"{path}: results of a training in format {FORMAT} expected")
    return results


def restore_model(recipe: Recipe, state: dict[str, Any]) -> torch.nn.Module:
    """The variational net of a checkpoint, in eval mode on the CPU.

    Raises:
        CheckpointError: the checkpoint does not fit the recipe.
    """
    model = recipe.build(recipe.config.from_dict(state["config"]))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as err:
        raise CheckpointError(f"the checkpoint does not fit recipe {recipe.name}: {err}") from err
    return model.eval()
