"""The training loop: seeded, interruptible between any two steps, resumed bit for bit on the CPU."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import attach_projection, collect_kl, load_dense_state_dict, penalty, sparsity
from .augment import augment
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import Schedule, TrainConfig
from .data import Images
from .folder import write_metrics
from .recipe import Recipe

CHECKPOINT_SECONDS = 10.0  # at the ends of epochs, not more often than this
EVAL_VALUES = 2**21  # of a batch's inputs in evaluation
PREPARED_VALUES = 2**26  # training sets of more than this are made floats batch by batch


class TrainingError(RuntimeError):
    """Training cannot go on. The message says what to change."""


class Observer(Protocol):
    """What watches a training: told of every step and every epoch, and must be quick."""

    def on_step(self, trainer: Trainer) -> None: ...

    def on_epoch(self, trainer: Trainer) -> None: ...


def evaluate(model: torch.nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean NLL and error in percent of `model` in eval mode: mean weights, pruned ones at zero, no noise."""
    training = model.training
    model.eval()
    nll = torch.zeros((), device=x.device)
    wrong = torch.zeros((), dtype=torch.int64, device=x.device)
    size = max(1, min(EVAL_VALUES // max(x[0].numel(), 1), 2_000))
    with torch.inference_mode():
        for batch, labels in zip(x.split(size), y.split(size), strict=True):
            logits = model(batch).float()
            nll += F.cross_entropy(logits, labels, reduction="sum")
            wrong += (logits.argmax(1) != labels).sum()
    model.train(training)
    return float(nll) / len(y), 100 * float(wrong) / len(y)


class Trainer:
    """One run: model, optimiser, order of the examples, history; all of it goes into checkpoints.

    Attributes:
        epoch: finished epochs. step: finished steps of the epoch under way.
        history: one record a finished epoch.
        seconds: time spent training, over all resumptions.
    """

    def __init__(
        self, recipe: Recipe, config: TrainConfig, data: Images, device: torch.device | str = "cpu"
    ) -> None:
        self.recipe, self.config, self.data, self.device = recipe, config, data, torch.device(device)
        torch.manual_seed(config.seed)
        self.model = recipe.build(config).to(self.device)
        self.prepares = config.augment != "none" or data.train_x.numel() > PREPARED_VALUES
        self.train_x = (data.train_x if self.prepares else recipe.prepare(data.train_x)).to(self.device)
        self.test_x = recipe.prepare(data.test_x).to(self.device)
        self.train_y, self.test_y = data.train_y.to(self.device), data.test_y.to(self.device)
        self.optimizer = self._make_optimizer()
        self.has_penalty = penalty(self.model).requires_grad
        # of methods that know of clipping
        self.clipped_layers: list[Any] = [
            m for m in self.model.modules() if hasattr(getattr(m, "method", None), "train_clip")
        ]
        attach_projection(self.optimizer, self.model)
        self.steps = math.ceil(len(self.train_x) / config.batch_size)
        self.schedule = Schedule(config, self.steps * config.epochs)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.epoch_shuffle = self.shuffle.get_state()  # as it was when the epoch began
        self.epoch = self.step = self.seen = 0
        self.kl_weight = 0.0
        sums = (torch.zeros((), device=self.device) for _ in range(3))
        self.nll_sum, self.kl_sum, self.penalty_sum = sums
        self.history: list[dict[str, float]] = []
        self.seconds = self.epoch_seconds = 0.0

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        groups = self.recipe.groups(self.model, config)
        for group in groups:
            group["base_lr"] = group["lr"]
        if config.optimizer == "sgd":
            nesterov = config.nesterov and config.momentum > 0
            return torch.optim.SGD(groups, config.lr, momentum=config.momentum, nesterov=nesterov)
        return torch.optim.Adam(groups, betas=(config.beta1, 0.999), fused=True)

    def start_from(self, folder: Path) -> None:
        """Take the weights that another run trained; noise parameters it lacks stay as they are.

        Raises:
            CheckpointError: no checkpoint there, or one of another net.
        """
        try:
            load_dense_state_dict(self.model, load_checkpoint(folder)["model"])
        except ValueError as err:
            raise CheckpointError(f"{folder}: its net is another ({err})") from None

    def run(
        self, checkpoint: Path | None = None, observer: Observer | None = None, stop: object = False
    ) -> bool:
        """Train to the last epoch.

        Args:
            checkpoint: where the state is written at the ends of epochs (at most every 10 seconds), when
                stopped, and when finished, with metrics.csv beside it; None: nowhere.
            observer: told of steps and epochs.
            stop: asked for its truth after every step.

        Returns:
            False if stopped, True if finished.

        Raises:
            TrainingError: the loss is not finite.
        """
        saved_at = time.monotonic()
        while self.epoch < self.config.epochs:
            if not self._run_epoch(observer, stop):
                if checkpoint:
                    self._save(checkpoint)
                return False
            last = self.epoch == self.config.epochs
            if checkpoint and (last or time.monotonic() - saved_at >= CHECKPOINT_SECONDS):
                self._save(checkpoint)
                saved_at = time.monotonic()
            if observer:
                observer.on_epoch(self)
        return True

    def _save(self, checkpoint: Path) -> None:
        save_checkpoint(checkpoint, self.state_dict())
        write_metrics(checkpoint.parent, self.history)

    def _run_epoch(self, observer: Observer | None, stop: object) -> bool:
        """Run what is left of the epoch; False if stopped before its end."""
        started, before = time.monotonic(), self.epoch_seconds
        self.epoch_shuffle = self.shuffle.get_state()
        order = torch.randperm(len(self.train_x), generator=self.shuffle).to(self.device)
        self.model.train()
        for index in order.split(self.config.batch_size)[self.step :]:
            self._step(index)
            self.step += 1
            if observer:
                observer.on_step(self)
            self.epoch_seconds = before + time.monotonic() - started
            if stop and self.step < self.steps:
                return False
        self._finish_epoch()
        return True

    def _step(self, index: Tensor) -> None:
        position = self.schedule.position(self.epoch * self.steps + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.schedule.lr_factor(position)
        self.kl_weight = self.schedule.kl_weight(position)
        self._clip(self.schedule.clips(position))
        self.optimizer.zero_grad(set_to_none=True)
        x, y = self._inputs(index), self.train_y[index]
        bf16 = self.config.precision == "bf16"
        with (
            collect_kl(self.model) as collected,
            torch.autocast(self.device.type, torch.bfloat16, enabled=bf16),
        ):
            nll = self.recipe.loss(self.model, x, y)
        kl = collected.total()
        loss = nll + self.kl_weight / len(self.train_x) * kl
        if self.has_penalty:
            price = penalty(self.model)
            loss = loss + price
            self.penalty_sum.add_(price.detach(), alpha=len(index))
        loss.backward()
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.nll_sum.add_(nll.detach(), alpha=len(index))
        self.kl_sum.add_(kl.detach(), alpha=len(index))
        self.seen += len(index)

    def _inputs(self, index: Tensor) -> Tensor:
        x = self.train_x[index]
        return self.recipe.prepare(augment(x, self.config.augment)) if self.prepares else x

    def batches(self) -> Iterator[Tensor]:
        """The training set's inputs in order, not augmented, as the net takes them."""
        for x in self.train_x.split(self.config.batch_size):
            yield self.recipe.prepare(x) if self.prepares else x

    def _clip(self, wanted: bool) -> None:
        """Let weights that would be pruned train with mean 0, or not."""
        for layer in self.clipped_layers:
            if layer.method.train_clip != wanted:
                layer.method = dataclasses.replace(layer.method, train_clip=wanted)

    def means(self) -> dict[str, float]:
        """Training NLL, KL (nats), penalty (where there is one) and loss, averaged over the epoch so far."""
        seen = max(self.seen, 1)
        nll, kl = float(self.nll_sum) / seen, float(self.kl_sum) / seen
        price = float(self.penalty_sum) / seen
        own = {"penalty": price} if self.has_penalty else {}
        return {"nll": nll, "kl": kl, **own, "loss": nll + self.kl_weight * kl / len(self.train_x) + price}

    def test(self, model: torch.nn.Module | None = None) -> tuple[float, float]:
        """Mean NLL and error in percent on the test set, of the net or of another."""
        bf16 = self.config.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return evaluate(model or self.model, self.test_x, self.test_y)

    def _finish_epoch(self) -> None:
        means = self.means()
        if not math.isfinite(means["loss"]):
            raise TrainingError(
                f"the loss of epoch {self.epoch + 1} is {means['loss']}; try a lower lr "
                f"(now {self.config.lr:g}) or noise_lr (now {self.config.noise_lr:g})"
            )
        test_nll, test_error = self.test()
        further = self.recipe.measure(self)
        report = sparsity(self.model)
        self.epoch, self.step, self.seen = self.epoch + 1, 0, 0
        self.nll_sum.zero_()
        self.kl_sum.zero_()
        self.penalty_sum.zero_()
        self.history.append({
            "epoch": self.epoch, **means, "kl_weight": self.kl_weight,
            "lr": self.optimizer.param_groups[0]["lr"], "test_nll": test_nll, "test_error": test_error,
            "weights": report.weights, "nonzero": report.nonzero, "sparsity": report.sparsity,
            **further, "seconds": self.epoch_seconds,
        })  # fmt: skip
        self.seconds += self.epoch_seconds
        self.epoch_seconds = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on."""
        return {
            "config": self.config.as_dict(),
            "data": {"name": self.data.name, "sha256": self.data.sha256},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "seen": self.seen,
            "sums": torch.stack([self.nll_sum, self.kl_sum, self.penalty_sum]),
            "history": self.history,
            "seconds": self.seconds,
            "epoch_seconds": self.epoch_seconds,
            # between epochs the shuffling goes on from where it is, inside one the order is drawn again
            "shuffle": self.epoch_shuffle if self.step else self.shuffle.get_state(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            CheckpointError: it is of other settings or other data.
        """
        if state["data"]["sha256"] != self.data.sha256:
            raise CheckpointError(
                f"the checkpoint was trained on other data ({state['data']['name']}) "
                f"than these ({self.data.name})"
            )
        if (theirs := self.recipe.config.from_dict(state["config"])) != self.config:
            raise CheckpointError(f"the checkpoint was trained with other settings: {theirs}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.step, self.seen = state["epoch"], state["step"], state["seen"]
        self.nll_sum.copy_(state["sums"][0])
        self.kl_sum.copy_(state["sums"][1])
        self.penalty_sum.copy_(state["sums"][2])
        self.history = list(state["history"])
        self.seconds, self.epoch_seconds = state["seconds"], state["epoch_seconds"]
        self.shuffle.set_state(state["shuffle"])
        torch.set_rng_state(state["torch_rng"])
        if self.device.type == "cuda" and state["cuda_rng"] is not None:
            torch.cuda.set_rng_state(state["cuda_rng"], self.device)
