"""What decides how a training goes on: taken from a `Trainer` for a checkpoint, and given back to one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .checkpoint import CheckpointError
from .text import plural

if TYPE_CHECKING:
    from .train import Trainer


def training_state(trainer: Trainer) -> dict[str, Any]:
    """Everything that decides how the run goes on, for `save_checkpoint`. All ranks call it."""
    on_gpu = trainer.device.type == "cuda"
    own = {
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(trainer.device) if on_gpu else None,
    }
    first, *others = trainer.ranks.gather(own)
    return {
        "config": trainer.config.as_dict(),
        "data": {"name": trainer.data.name, "sha256": trainer.data.sha256},
        "model": trainer.model.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "epoch": trainer.epoch,
        "step": trainer.step,
        **trainer.sums.state_dict(),
        "history": trainer.history,
        "seconds": trainer.seconds,
        "epoch_seconds": trainer.epoch_seconds,
        # between epochs the shuffling goes on from where it is, inside one the order is drawn again
        "shuffle": trainer.epoch_shuffle if trainer.step else trainer.shuffle.get_state(),
        **first,
        "other_ranks": others,
    }


def resume(trainer: Trainer, state: dict[str, Any]) -> None:
    """Let a fresh trainer go on from where `training_state` was taken.

    Raises:
        CheckpointError: it is of other settings, other data, or another number of processes.
    """
    if state["data"]["sha256"] != trainer.data.sha256:
        raise CheckpointError(
            f"the checkpoint was trained on other data ({state['data']['name']}) "
            f"than these ({trainer.data.name})"
        )
    if (theirs := trainer.recipe.config.from_dict(state["config"])) != trainer.config:
        raise CheckpointError(f"the checkpoint was trained with other settings: {theirs}")
    generators = [state, *state.get("other_ranks", [])]
    if len(generators) != trainer.ranks.count:
        raise CheckpointError(
            f"the checkpoint is of {plural(len(generators), 'process')}, each with noise of its own, and "
            f"this run has {trainer.ranks.count}; go on with as many (torchrun --nproc-per-node), or start a "
            "run from its weights with --init"
        )
    trainer.model.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.epoch, trainer.step = state["epoch"], state["step"]
    trainer.sums.load_state_dict(state)
    trainer.history = list(state["history"])
    trainer.seconds, trainer.epoch_seconds = state["seconds"], state["epoch_seconds"]
    trainer.shuffle.set_state(state["shuffle"])
    own = generators[trainer.ranks.rank]
    torch.set_rng_state(own["torch_rng"])
    if trainer.device.type == "cuda" and own["cuda_rng"] is not None:
        torch.cuda.set_rng_state(own["cuda_rng"], trainer.device)
