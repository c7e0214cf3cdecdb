"""What a training shows while it runs: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.text import Text

from .text import clock, compression

if TYPE_CHECKING:
    from .train import Trainer

REFRESH_SECONDS = 0.25
LINE_SECONDS = 5.0


class Display:
    """Watches a `Trainer`; a context manager. Reads the running sums only when it draws."""

    def __init__(self, console: Console, trainer: Trainer) -> None:
        self.console = console
        self.live = console.is_terminal
        self.started = self.drawn = self.line_at = time.monotonic()
        self.first_step = trainer.epoch * trainer.steps + trainer.step
        self.total = trainer.config.epochs * trainer.steps
        self.bar = Progress(
            TextColumn("[bold]epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[times]}", style="dim"),
            console=console,
            expand=True,
        )
        self.task = self.bar.add_task(
            "", total=self.total, completed=self.first_step,
            epoch=trainer.epoch + 1, epochs=trainer.config.epochs, times="",
        )  # fmt: skip
        self.numbers = Text()
        self.view = Live(Group(self.bar, self.numbers), console=console, auto_refresh=False)

    def __enter__(self) -> Display:
        if self.live:
            self.view.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.view.stop()

    def on_step(self, trainer: Trainer) -> None:
        now = time.monotonic()
        if self.live and now - self.drawn >= REFRESH_SECONDS:
            self.drawn = now
            self._draw(trainer)

    def on_epoch(self, trainer: Trainer) -> None:
        now = time.monotonic()
        if self.live:
            return
        if trainer.epoch in (1, trainer.config.epochs) or now - self.line_at >= LINE_SECONDS:
            self.line_at = now
            left = self._seconds_left(trainer, now)
            self.console.print(
                f"epoch {trainer.epoch}/{trainer.config.epochs}  {self._numbers(trainer)}  "
                f"{trainer.history[-1]['seconds']:.1f} s/epoch  left {clock(left)}",
                highlight=False,
                soft_wrap=True,
            )

    def _draw(self, trainer: Trainer) -> None:
        times = f"left {clock(self._seconds_left(trainer, self.drawn))}"
        if trainer.history:
            times = f"{trainer.history[-1]['seconds']:.1f} s/epoch  {times}"
        self.bar.update(
            self.task,
            completed=trainer.epoch * trainer.steps + trainer.step,
            epoch=trainer.epoch + 1,
            times=times,
        )
        self.numbers.plain = "  " + self._numbers(trainer)
        self.view.refresh()

    def _seconds_left(self, trainer: Trainer, now: float) -> float:
        done = trainer.epoch * trainer.steps + trainer.step
        return (now - self.started) / max(done - self.first_step, 1) * (self.total - done)

    @staticmethod
    def _numbers(trainer: Trainer) -> str:
        last = trainer.history[-1] if trainer.history else None
        means = trainer.means() if trainer.sums.seen else (last or trainer.means())
        text = f"loss {means['loss']:.4f}  NLL {means['nll']:.4f}  KL {means['kl']:.0f}"
        if last:
            text += (
                f"  test accuracy {100 - last['test_error']:.2f} %  sparsity {100 * last['sparsity']:.2f} % "
                f"({compression(int(last['weights']), int(last['nonzero']))})"
            )
        return text
