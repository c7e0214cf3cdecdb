"""What a run's folder holds beside its checkpoint and results: settings, environment, a table of epochs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .. import _info
from .._files import write_whole
from .config import TrainConfig

CONFIG_NAME = "config.json"
ENVIRONMENT_NAME = "environment.json"
METRICS_NAME = "metrics.csv"


def environment(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions and the machine, as results.json and environment.json have them.

    Args:
        processes: that train together, each with so many threads.
    """
    return {
        "versions": _info.versions(),
        "machine": {
            "processor": _info.cpu_name(),
            "logical_cores": os.cpu_count(),
            "processes": processes,
            "threads": torch.get_num_threads(),
            "device": str(device),
            "backends": _info.backends(device),
        },
    }


def write_start(out: Path, config: TrainConfig, device: torch.device, processes: int = 1) -> None:
    """Write config.json and environment.json."""
    write_json(out / CONFIG_NAME, config.as_dict())
    write_json(out / ENVIRONMENT_NAME, environment(device, processes))


def write_json(path: Path, values: dict[str, Any]) -> None:
    write_whole(path, (json.dumps(values, indent=1, allow_nan=False) + "\n").encode())


def write_metrics(out: Path, history: Sequence[dict[str, float]]) -> None:
    """Write metrics.csv: one row an epoch, one column a number."""
    if not history:
        return
    text = io.StringIO(newline="")
    rows = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    rows.writeheader()
    rows.writerows(history)
    write_whole(out / METRICS_NAME, text.getvalue().encode())
