"""The training loop: seeded, interruptible between any two steps, resumed bit for bit on the CPU."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from .. import attach_projection, collect_kl, load_dense_state_dict, penalty, sparsity
from .augment import augment
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import ConfigError, Schedule, TrainConfig
from .data import Images
from .evaluate import evaluate
from .events import EventFiles
from .folder import write_metrics
from .ranks import ALONE, Ranks
from .recipe import Recipe, make_optimizer
from .state import resume, training_state
from .sums import EpochSums

CHECKPOINT_SECONDS = 10.0  # at the ends of epochs, not more often than this
PREPARED_VALUES = 2**26  # training sets of more than this are made floats batch by batch
FEWEST = 2  # examples of a batch that a process takes: batch normalisation wants that many


class TrainingError(RuntimeError):
    """Training cannot go on. The message says what to change."""


class Observer(Protocol):
    """What watches a training: told of every step and every epoch, and must be quick."""

    def on_step(self, trainer: Trainer) -> None: ...

    def on_epoch(self, trainer: Trainer) -> None: ...


class Trainer:
    """One run: model, optimiser, order of the examples, history; all of it goes into checkpoints.

    Attributes:
        epoch: finished epochs. step: finished steps of the epoch under way.
        history: one record a finished epoch.
        seconds: time spent training, over all resumptions.
        ranks: who trains with this process, itself included. processes: how many they were at first.
    """

    def __init__(
        self,
        recipe: Recipe,
        config: TrainConfig,
        data: Images,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> None:
        self.recipe, self.config, self.data, self.device = recipe, config, data, torch.device(device)
        self.ranks, self.processes = ranks, ranks.count
        if config.batch_size < (least := FEWEST * ranks.count if ranks.count > 1 else 1):
            raise ConfigError(
                f"batch_size: {config.batch_size} given, at least {least} accepted: {FEWEST} a process"
            )
        if config.augment != "none" and data.train_x.ndim != 4:
            raise ConfigError(f"augment: {config.augment!r} is for images; of {recipe.name} accepted: none")
        torch.manual_seed(config.seed)
        self.model = recipe.build(config).to(self.device)
        ranks.seed(config.seed)
        self.prepares = config.augment != "none" or data.train_x.numel() > PREPARED_VALUES
        self.train_x = (data.train_x if self.prepares else recipe.prepare(data.train_x)).to(self.device)
        self.test_x = recipe.prepare(data.test_x).to(self.device)
        self.train_y, self.test_y = data.train_y.to(self.device), data.test_y.to(self.device)
        self.optimizer = make_optimizer(recipe.groups(self.model, config), config)
        self.has_penalty = penalty(self.model).requires_grad
        # of methods that know of clipping
        self.clipped_layers: list[Any] = [
            m for m in self.model.modules() if hasattr(getattr(m, "method", None), "train_clip")
        ]
        attach_projection(self.optimizer, self.model)
        # what a forward pass changes, and so each process in its own way
        norms = [m for m in self.model.modules() if isinstance(m, torch.nn.modules.batchnorm._NormBase)]
        statistics = [buffer for m in norms for buffer in (m.running_mean, m.running_var)]
        self.statistics = [buffer for buffer in statistics if buffer is not None]
        self.steps = len(self._batches(torch.arange(len(self.train_x))))
        self.schedule = Schedule(config, self.steps * config.epochs)
        self.shuffle = torch.Generator().manual_seed(config.seed)
        self.epoch_shuffle = self.shuffle.get_state()  # as it was when the epoch began
        self.epoch = self.step = 0
        self.kl_weight = 0.0
        self.sums = EpochSums(self.device)
        self.history: list[dict[str, float]] = []
        self.seconds = self.epoch_seconds = 0.0

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
        self,
        checkpoint: Path | None = None,
        observer: Observer | None = None,
        stop: object = False,
        events: EventFiles | None = None,
    ) -> bool:
        """Train to the last epoch. All ranks call it; the first writes.

        Args:
            checkpoint: where the state is written at the ends of epochs (at most every 10 seconds), when
                stopped, and when finished, with metrics.csv beside it; None: nowhere.
            observer: told of steps and epochs.
            stop: asked for its truth after every step; one rank's is enough.
            events: written whenever the state is.

        Returns:
            False if stopped, True if finished.

        Raises:
            TrainingError: the loss is not finite.
            RanksError: another rank has gone.
        """
        self.ranks.broadcast_([*self.model.parameters(), *self.model.buffers()])
        saved_at = time.monotonic()
        while self.epoch < self.config.epochs:
            if not self._run_epoch(observer, stop):
                if checkpoint:
                    self._save(checkpoint, events)
                return False
            last = self.epoch == self.config.epochs
            due = last or time.monotonic() - saved_at >= CHECKPOINT_SECONDS
            if checkpoint and self.ranks.any(due):
                self._save(checkpoint, events)
                saved_at = time.monotonic()
            if observer:
                observer.on_epoch(self)
        return True

    def _save(self, checkpoint: Path, events: EventFiles | None) -> None:
        state = self.state_dict()
        if self.ranks.first:
            save_checkpoint(checkpoint, state)
            write_metrics(checkpoint.parent, self.history)
            if events:
                events.write(self.history)

    def _run_epoch(self, observer: Observer | None, stop: object) -> bool:
        """Run what is left of the epoch; False if stopped before its end."""
        started, before = time.monotonic(), self.epoch_seconds
        self.epoch_shuffle = self.shuffle.get_state()
        order = torch.randperm(len(self.train_x), generator=self.shuffle).to(self.device)
        self.model.train()
        for index in self._batches(order)[self.step :]:
            self._step(index)
            self.step += 1
            if observer:
                observer.on_step(self)
            self.epoch_seconds = before + time.monotonic() - started
            if self.ranks.any(stop) and self.step < self.steps:
                return False
        self._finish_epoch()
        return True

    def _batches(self, order: Tensor) -> list[Tensor]:
        """An epoch's batches; a last one too small for batch normalisation goes with the one before."""
        batches = list(order.split(self.config.batch_size))
        if len(batches) > 1 and len(batches[-1]) < min(FEWEST, self.config.batch_size):
            batches[-2:] = [torch.cat(batches[-2:])]
        return batches

    def _step(self, index: Tensor) -> None:
        position = self.schedule.position(self.epoch * self.steps + self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.schedule.lr_factor(position)
        self.kl_weight = self.schedule.kl_weight(position)
        self._clip(self.schedule.clips(position))
        self.optimizer.zero_grad(set_to_none=True)
        mine, weight = self._share(index)
        x, y = self._inputs(mine), self.train_y[mine]
        with collect_kl(self.model) as collected, self._autocast():
            nll = self.recipe.loss(self.model, x, y)
        kl = collected.total()
        # gradients are summed over the ranks; those of KL and penalty are the same on each
        loss = torch.add(self.kl_weight / (len(self.train_x) * self.ranks.count) * kl, nll, alpha=weight)
        price = penalty(self.model) if self.has_penalty else None
        if price is not None:
            loss = torch.add(loss, price, alpha=1 / self.ranks.count)
        loss.backward()
        mean = self._combine(nll.detach(), weight)
        if self.config.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.sums.add(len(index), mean, kl, price)

    def _share(self, index: Tensor) -> tuple[Tensor, float]:
        """This rank's part of a batch, and how much of the batch it is."""
        if self.ranks.count == 1:
            return index, 1.0
        parts = index.tensor_split(max(1, min(self.ranks.count, len(index) // FEWEST)))
        if self.ranks.rank >= len(parts):  # examples that do not count stand in: a mean over none is NaN
            return index[:FEWEST], 0.0
        mine = parts[self.ranks.rank]
        return mine, len(mine) / len(index)

    def _combine(self, nll: Tensor, weight: float) -> Tensor:
        """The batch's NLL; gradients and running statistics become those of the whole batch, in place."""
        if self.ranks.count == 1:
            return nll
        mean = nll * weight
        for buffer in self.statistics:
            buffer.mul_(weight)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        self.ranks.sum_([*gradients, *self.statistics, mean])
        return mean

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")

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
        nll, kl, price = self.sums.means()
        own = {"penalty": price} if self.has_penalty else {}
        return {"nll": nll, "kl": kl, **own, "loss": nll + self.kl_weight * kl / len(self.train_x) + price}

    def evaluate(self, model: torch.nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Mean NLL and error in percent of a net on prepared inputs, in the run's precision."""
        with self._autocast():
            return evaluate(model, x, y, self.ranks)

    def test(self, model: torch.nn.Module | None = None) -> tuple[float, float]:
        """The same on the test set, of the net or of another."""
        return self.evaluate(model or self.model, self.test_x, self.test_y)

    def _check_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{what} of epoch {self.epoch + 1} is {value}; try a lower lr "
                f"(now {self.config.lr:g}) or noise_lr (now {self.config.noise_lr:g})"
            )

    def _finish_epoch(self) -> None:
        means = self.means()
        self._check_finite("the loss", means["loss"])
        test_nll, test_error = self.test()
        self._check_finite("the test NLL", test_nll)
        further = self.recipe.measure(self)
        report = sparsity(self.model)
        self.epoch, self.step = self.epoch + 1, 0
        self.sums.reset()
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
        return training_state(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken.

        Raises:
            CheckpointError: it is of other settings, other data, or another number of processes.
        """
        resume(self, state)
