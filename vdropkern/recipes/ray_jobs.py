"""Cells of a sweep as tasks of a Ray cluster (the extra ``ray``), all of whose nodes see the folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .sweep import POLL_SECONDS, Start, start_locally


def _run_cell(folder: str, arguments: list[str]) -> int:
    """On a node of the cluster: run the command to its end, after any that still works in the folder."""
    while (job := start_locally(Path(folder), arguments)) is None:
        time.sleep(POLL_SECONDS)
    while (code := job.poll()) is None:
        time.sleep(POLL_SECONDS)
    return code


class RayJob:
    """A task. Its process holds the stdin of the cell's, so a cancelled task's cell saves and stops."""

    def __init__(self, ray: Any, task: Any) -> None:
        self.ray, self.task = ray, task

    def poll(self) -> int | None:
        done, _ = self.ray.wait([self.task], timeout=0)
        if not done:
            return None
        try:
            return int(self.ray.get(self.task))
        except self.ray.exceptions.RayError:  # cancelled, or its node is gone
            return 1

    def stop(self, at_once: bool = False) -> None:
        self.ray.cancel(self.task, force=True)


def connect(address: str, threads: int) -> Start:
    """Connect to a cluster ("local" starts one here); each cell then takes `threads` of its CPUs.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="error")
    remote = ray.remote(num_cpus=threads, max_retries=0)(_run_cell)

    def start(folder: Path, arguments: list[str]) -> RayJob:
        return RayJob(ray, remote.remote(str(folder.resolve()), arguments))

    return start
