"""TensorBoard's event files of a run: the numbers of metrics.csv, for its web page."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

FOLDER_NAME = "tensorboard"


def is_installed() -> bool:
    """Whether torch can write event files: it needs the package tensorboard."""
    return importlib.util.find_spec("tensorboard") is not None


def remove_events(out: Path) -> None:
    """Remove what an earlier run has left in `out`."""
    for file in _files(out):
        file.unlink()


def _files(out: Path) -> list[Path]:
    return sorted((out / FOLDER_NAME).glob("events.out.tfevents.*"))


class EventFiles:
    """Writes one file for the whole run into ``tensorboard`` in its folder.

    A resumed run writes its history again, into a new file, and removes the old: whatever ended the run
    before, no epoch is missing and none is there twice.
    """

    def __init__(self, out: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._old = _files(out)
        # a TensorBoard that is looking on forgets what it read of the old file from this step on
        self._writer = SummaryWriter(str(out / FOLDER_NAME), purge_step=1)
        self._written = 0

    def write(self, history: Sequence[dict[str, float]]) -> None:
        """Write the epochs that are not written yet."""
        new, now = history[self._written :], time.time()
        for i, record in enumerate(new):
            # when it would have ended, had the run never paused
            ended = now - sum(later["seconds"] for later in new[i + 1 :])
            for name, value in record.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(record["epoch"]), walltime=ended)
        self._written = len(history)
        self._writer.flush()
        for file in self._old:
            file.unlink(missing_ok=True)
        self._old = []

    def close(self) -> None:
        self._writer.close()
